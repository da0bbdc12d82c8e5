"""The demo: mistakes and an interruption are one line, as in the command line."""

import pytest

from hdpainter.pipeline import HDPainter


def test_mistakes_are_found_before_the_models_load(script, tmp_path, monkeypatch):
    monkeypatch.setattr(HDPainter, "from_config", lambda *_: pytest.fail("loaded the models"))
    (tmp_path / "file").write_text("mine")
    for words, message in {
        ("--examples", -1): "--examples -1: examples have the numbers 0, 1, 2, ...",
        ("--out", tmp_path / "file"): "file cannot be made: File exists",
        ("--scene", 1): "unrecognized arguments: --scene 1",
    }.items():
        code, _, said = script("demo.py", *words)
        assert code == 2 and message in said and said.startswith("demo: error: ") and said.count("\n") == 1


def test_ctrl_c(script, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HDPainter, "from_config", interrupt)
    assert script("demo.py", "--out", tmp_path) == (130, "", "demo: interrupted\n")
