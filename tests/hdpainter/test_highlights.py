"""The strip of what the paper brings, and the animation beside it."""

import runpy
import sys

import pytest
from PIL import Image

from hdpainter.pipeline import HDPainter
from ldm.util import CONFIGS

SCRIPT = CONFIGS.parent / "scripts" / "highlights.py"


def highlights(monkeypatch, capsys, *words):
    """The exit code of the script, and what it said."""
    monkeypatch.setattr(sys, "argv", ["highlights.py", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_strip_and_animation(tiny_pipeline, tmp_path, monkeypatch, capsys):
    tiny = HDPainter.from_config(tiny_pipeline, device="cpu")
    monkeypatch.setattr(HDPainter, "from_config", lambda *_: tiny)
    code, out, err = highlights(monkeypatch, capsys, "--steps", 2, "--out", tmp_path)
    assert code == 0, err
    assert out.split() == [str(tmp_path / "highlights.png"), str(tmp_path / "x0.gif")]
    with Image.open(tmp_path / "highlights.png") as strip, Image.open(tmp_path / "x0.gif") as film:
        assert strip.size == (10 + 7 * 250, 30 + 270)
        assert film.n_frames == 2


def test_mistakes_are_found_before_the_models_load(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(HDPainter, "from_config", lambda *_: pytest.fail("loaded the models"))
    code, _, err = highlights(monkeypatch, capsys, "--example", -1, "--out", tmp_path)
    assert code == 2
    assert err == "highlights: error: --example -1: examples have the numbers 0, 1, 2, ...\n"
