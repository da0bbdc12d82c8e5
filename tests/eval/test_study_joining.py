"""studies/joining.py: the fills of the benchmark, joined in several ways."""

import numpy as np
import pytest
import yaml
from PIL import Image

from eval.__main__ import main
from eval.config import Config
from eval.runs import Run
from hdpainter.console import finish
from ldm.util import CONFIGS, UserError
from studies import joining


def test_the_same_fills_are_joined_in_four_ways(write_config, tiny_pipeline, tmp_path, capsys):
    method = yaml.safe_load((CONFIGS / "methods" / "painta.yaml").read_text())
    method["sampler"] = {**(method.get("sampler") or {}), "steps": 2}
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(method))
    entry = {"painta": {"method": str(tmp_path / "quick.yaml")}}
    config = write_config(entry, model=str(tiny_pipeline), batch_size=2)
    assert main(["generate", "--config", str(config), "--devices", "cpu", "--limit", "2"]) == 0
    run, out = Run.open(tmp_path / "run"), tmp_path / "joining"

    words = [str(run.path), "--out", str(out), "--samples", "2", "--model", str(tiny_pipeline)]
    words += ["--method", str(tmp_path / "quick.yaml"), "--dtype", "float32", "--device", "cpu"]
    capsys.readouterr()
    assert joining.main(words) == 0
    assert "2 fills joined in 4 ways" in capsys.readouterr().out
    for index in range(2):
        made = {way: np.array(Image.open(out / way / f"{index:06d}.png")) for way in joining.WAYS}
        known = ~run.mask(index)
        assert np.array_equal(made["exact"], run.result("painta", index)), "the benchmark's own fills"
        for way in ("beside", "pasted", "exact"):
            assert np.array_equal(made[way][known], run.image(index)[known])
        assert len({picture.tobytes() for picture in made.values()}) == 4
    assert joining.main(words) == 0
    assert "0 fills" in capsys.readouterr().out
    words[words.index("--method") + 1] = "painta"
    with pytest.raises(UserError, match="has fills of other samples, methods or weights"):
        joining.main(words)


def test_the_config_scores_what_the_script_writes():
    config = Config.load("mini-joining")
    folders = {entry.name: entry.how.path for entry in config.entries() if entry.kind == "folder"}
    assert folders == {way: f"outputs/joining/{way}" for way in joining.WAYS}
    whole = Config.load("mini-table2", prompt="other").benchmark
    same = ("coco", "images", "seed", "prompt", "size")
    assert all(getattr(config.benchmark, key) == getattr(whole, key) for key in same)


def test_mistakes_are_one_line(tmp_path, capsys):
    assert finish("joining", [str(tmp_path), "--samples", "0"], joining.main) == 2
    assert "--samples must be at least 1, not 0" in capsys.readouterr().err
    assert finish("joining", [str(tmp_path)], joining.main) == 2
    assert "is not a results folder" in capsys.readouterr().err
