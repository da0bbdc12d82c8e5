"""Whether a finished reproduction is to be made again."""

import pytest

from eval.__main__ import main

FILES = ("run/tables/table2.md", "run/painta/0.png", "weights/model.ckpt", "coco/annotations/a.json")


@pytest.fixture
def finished(tmp_path, monkeypatch, capsys):
    """A run that was finished, with checkpoints and a dataset; finished(*asked) asks whether it has changed, and
    gives the exit code and the output."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path / "weights"))
    words = ["--config", "mini-table2", "--coco", str(tmp_path / "coco"), "--limit", "8"]
    assert main(["changed", "--finished", str(tmp_path / "run"), *words]) == 0

    def changed(*asked):
        code = main(["changed", str(tmp_path / "run"), *(asked or words)])
        return code, capsys.readouterr().out

    return changed


def test_nothing_has_changed(finished):
    assert finished()[0] == 3
    code, output = finished()
    assert code == 3 and "nothing has changed" in output and "run/tables/table2.md" in output


@pytest.mark.parametrize(
    "name", ["run/painta/0.png", "run/painta/new.csv", "weights/model.ckpt", "coco/annotations/a.json"]
)
def test_a_file_that_was_written_since_is_a_change(finished, tmp_path, name):
    (tmp_path / name).write_text("other")
    assert finished() == (0, "")


def test_a_file_that_is_gone_is_a_change(finished, tmp_path):
    (tmp_path / "run" / "tables" / "table2.md").unlink()
    assert finished() == (0, "")


def test_what_is_asked_for_counts(finished):
    assert finished("--config", "mini-table2", "--limit", "16") == (0, "")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_or_missing_record_is_a_change(finished, tmp_path, text):
    (tmp_path / "run" / "finished.json").write_text(text)
    assert finished() == (0, "")
    (tmp_path / "run" / "finished.json").unlink()
    assert finished() == (0, "")
