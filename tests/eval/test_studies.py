"""studies/rasg.py and studies/fills.py, on a run of the tiny pipeline."""

import numpy as np
import pytest
from PIL import Image

from eval.runs import Run
from hdpainter.console import finish
from hdpainter.settings import Adjustments, Method
from ldm.util import UserError
from studies import fills, rasg
from tests.eval.conftest import config_in
from tests.eval.running import made


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_root, tiny_pipeline) -> Run:
    folder = tmp_path_factory.mktemp("studies")
    config = config_in(folder, toy_root, {"painta": {"steps": 2}}, model=str(tiny_pipeline))
    return made(config, limit=3)[0]


def test_the_sheet_shows_each_fill_in_its_cell(run, tmp_path, capsys):
    out = tmp_path / "new" / "fills.png"
    assert fills.main([str(run.path), "painta", "--out", str(out), "--first", "2"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    sheet = np.array(Image.open(out))
    cell, head = fills.CELL, fills.HEAD
    assert sheet.shape == (cell + head, fills.COLUMNS * cell, 3)
    shown = [sheet[head:, i * cell : (i + 1) * cell] for i in range(3)]
    assert (shown[0] != shown[1]).any() and (shown[2] == 255).all()
    for i in range(2):
        expected = Image.fromarray(fills.detail(run.result("painta", i), run.mask(i)))
        assert np.array_equal(shown[i], expected.resize((cell, cell), Image.Resampling.LANCZOS))
    assert [path.name for path in out.parent.iterdir()] == ["fills.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["painta", "--out", "fills"], "--out fills: give a file that ends in .jpg or .png"),
        (["original", "--out", "fills.png"], "has no method 'original'"),
    ],
)
def test_mistakes_of_a_sheet_are_one_line(run, words, message, capsys):
    assert finish("fills.py", [str(run.path), *words], fills.main) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_study_says_how_far_the_gradient_is_from_noise(run, tiny_pipeline, capsys, monkeypatch):
    load = Method.load
    short = Adjustments(steps=6)
    ours = ("stable-inpainting", "rasg")
    monkeypatch.setattr(
        Method, "load", lambda name: load(name).adjusted(short) if name in ours else load(name)
    )
    words = ["--samples", "1", "--model", str(tiny_pipeline), "--device", "cpu"]
    assert rasg.main([str(run.path), *words, "--variants", "rasg,eta=0.02"]) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["variant", "along", "across", "inside", "spread", "S"]
    assert [line[0].strip("| ") for line in lines[2:]] == ["original", "stable-inpainting", "rasg,eta=0.02"]
    assert float(lines[3][-1]) == 100.0
    along = [float(x) for x in lines[4][1].split(",")]
    assert len(along) == 2 and all(-1 <= x <= 1 for x in along)
    with pytest.raises(UserError, match="eta must be a number"):
        rasg.main([str(run.path), *words, "--variants", "rasg,eta=x"])


def test_a_variant_of_eta_zero_is_not_the_methods_own():
    assert rasg.variant("rasg,eta=0").sampler.eta == 0 != rasg.variant("rasg").sampler.eta
    with pytest.raises(UserError, match=r"eta is 5\.0: give a number from 0 to 4"):
        rasg.variant("rasg,eta=5")


def test_white_noise_is_what_the_figures_are_measured_against():
    noise = np.random.default_rng(0).normal(size=(20, 4, 32, 32)).astype(np.float32)
    figures = rasg.directions(noise, np.ones((32, 32), bool))
    assert abs(figures["along"].mean()) < 0.05 and abs(figures["across"].mean()) < 0.05
    assert figures["inside"] == pytest.approx(1, abs=0.02)
