"""The strip of what the paper brings, and the animation beside it."""

import pytest
from PIL import Image

from hdpainter.pipeline import HDPainter


def test_strip_and_animation(script, tiny_pipeline, tmp_path, monkeypatch):
    tiny = HDPainter.from_config(tiny_pipeline, device="cpu")
    monkeypatch.setattr(HDPainter, "from_config", lambda *_: tiny)
    code, out, err = script("highlights.py", "--steps", 2, "--out", tmp_path)
    assert code == 0, err
    assert out.split() == [str(tmp_path / "highlights.png"), str(tmp_path / "x0.gif")]
    with Image.open(tmp_path / "highlights.png") as strip, Image.open(tmp_path / "x0.gif") as film:
        assert strip.size == (10 + 7 * 250, 30 + 270)
        assert film.n_frames == 2


def test_mistakes_are_found_before_the_models_load(script, tmp_path, monkeypatch):
    monkeypatch.setattr(HDPainter, "from_config", lambda *_: pytest.fail("loaded the models"))
    code, _, err = script("highlights.py", "--example", -1, "--out", tmp_path)
    assert code == 2
    assert err == "highlights: error: --example -1: examples have the numbers 0, 1, 2, ...\n"
