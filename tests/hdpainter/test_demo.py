"""The demo: mistakes and an interruption are one line, as in the command line."""

import runpy

import pytest

from hdpainter.pipeline import HDPainter
from ldm.util import CONFIGS

DEMO = CONFIGS.parent / "scripts" / "demo.py"


def demo(monkeypatch, capsys, load, *words):
    """The exit code of the demo, with `load` in the place of the models' loading, and what it said."""
    monkeypatch.setattr("sys.argv", ["demo.py", *map(str, words)])
    monkeypatch.setattr(HDPainter, "from_config", load)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(DEMO), run_name="__main__")
    return end.value.code, capsys.readouterr().err


def test_mistakes_are_found_before_the_models_load(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    for words, message in {
        ("--examples", -1): "--examples -1: examples have the numbers 0, 1, 2, ...",
        ("--out", tmp_path / "file"): "file cannot be made: File exists",
        ("--scene", 1): "unrecognized arguments: --scene 1",
    }.items():
        code, said = demo(monkeypatch, capsys, lambda *_: pytest.fail("loaded the models"), *words)
        assert code == 2 and message in said and said.startswith("demo: error: ") and said.count("\n") == 1


def test_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    assert demo(monkeypatch, capsys, interrupt, "--out", tmp_path) == (130, "demo: interrupted\n")
