"""Configs of the miniatures' training: bases, settings for a GPU, mistakes."""

import re
from pathlib import Path

import pytest

from hdpainter.mini.train import load_config, main
from hdpainter.mini.training.base import model_part
from ldm.util import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def test_bad_configs_name_the_mistake(tmp_path, capsys):
    with pytest.raises(UserError, match="no training config"):
        load_config(tmp_path / "none.yaml", [], gpu=False)
    with pytest.raises(UserError, match="no model config"):
        model_part(str(tmp_path / "none.yaml"))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.yaml")])
    assert "no training config" in capsys.readouterr().err


CLIP = "hdpainter.mini.training.clip.ClipTraining"
TRAINING = f"training: {{target: {CLIP}, params: {{config: none.json, cache: x, steps: 1"


@pytest.mark.parametrize(
    "content, overrides, problem",
    [
        ("training: [1", [], "is not valid YAML"),
        ("[1]", [], "must hold a mapping, not list"),
        ("trainer: {seed: 1}", [], "no 'training' with a 'target'"),
        ("training: [1]", [], r"training must be a mapping, not \[1\]"),
        ("training: {target: 3}", [], "target 3 is not of the form"),
        ("training: {target: torch.nn.Identity, params: [1]}", [], "params must be a mapping"),
        ("training: {target: torch.nn.Identity}\ntrainer: 3", [], "trainer must be a mapping, not 3"),
        ("training: {target: torch.nn.Identity}", ["minutes"], "'minutes' is not of the form key=value"),
        (
            f"training: {{target: {CLIP}, params: {{crops: {{128: 1}}}}}}",
            ["training.params.crops.128=2"],
            "do not go together: Conflicting integer and string keys: 128",
        ),
        (f"{TRAINING}, minutes: 1, matrix_lr: 1}}}}", [], "there is no CLIP config none.json; run from"),
        (f"{TRAINING}, parts: {{a: none.pt}}}}}}", [], "there is no none.json, the card"),
    ],
)
def test_a_bad_config_ends_in_one_line(content, overrides, problem, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stage.yaml").write_text(content)
    with pytest.raises(SystemExit):
        main(["stage.yaml", *overrides])
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m hdpainter.mini.train: error: ")
    assert re.search(problem, line)


def test_a_config_with_a_base_says_only_what_differs(tmp_path):
    first, second = (
        load_config(CONFIGS / "train" / f"mini-inpainting{end}.yaml", [], gpu=False) for end in ("", "-2")
    )
    differing = {
        key for key, value in second.training.params.items() if first.training.params.get(key) != value
    }
    named = "start start_share text_to_image scenes crops minutes matrix_lr vector_lr attention_lr"
    assert differing == set(named.split())
    assert second.trainer.processes == first.trainer.processes and second.trainer.seed != first.trainer.seed
    assert load_config(CONFIGS / "train/mini-inpainting-2.yaml", [], gpu=True).training.params.minutes == 5.4
    (tmp_path / "lost.yaml").write_text("base: none.yaml")
    with pytest.raises(UserError, match=r"lost\.yaml: there is no base none\.yaml beside it"):
        load_config(tmp_path / "lost.yaml", [], gpu=False)


def test_gpu_settings_apply_on_a_gpu_only():
    path = CONFIGS / "train/mini-inpainting.yaml"
    cpu, gpu = (load_config(path, ["trainer.seed=7"], gpu=g) for g in (False, True))
    assert cpu.trainer.seed == gpu.trainer.seed == 7
    assert gpu.training.params.steps > cpu.training.params.steps
    assert "gpu" not in gpu


GPU_DRY_RUN = ["configs/train/mini-inpainting-3.yaml", "--dry-run", "3", "training.params.workers=1"]
GPU_DRY_RUN += ["training.params.held_out=1", "training.params.crops={128: [1, 2, 4], 256: [0, 2, 4]}"]


def test_a_dry_run_takes_steps_by_the_gpus_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    assert main([*GPU_DRY_RUN, "training.params.compiled=false", "--run-dir", str(tmp_path)]) == 0
    (rate,) = re.findall(r"([\d.]+) crops of 128 pixels a second", capsys.readouterr().out)
    assert 0 < float(rate) < 1000
    assert not list(tmp_path.iterdir())
