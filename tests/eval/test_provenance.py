"""What stands above the tables: of which weights and of which version of the code the results are."""

import json
import subprocess

import pytest

from eval import version
from eval.provenance import provenance
from eval.runs import RUN_FILE, Run
from eval.summary import summarise

from .fake_run import fake_run


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "run", 4)


def about(run, *methods):
    return dict(provenance(summarise(Run.open(run.path), list(methods) or None, repeats=100)))


def record(run, method, model):
    """Let run.json say of which model a method's results are."""
    info = json.loads((run.path / RUN_FILE).read_text())
    info["methods"][method]["settings"] = {"model": model}
    (run.path / RUN_FILE).write_text(json.dumps(info))


def note(run, method, line, **values):
    """Let a line of a method's manifest say this too."""
    path = run.folder(method) / "manifest.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    rows[line] |= values
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_older_results_say_that_it_was_not_recorded(run):
    assert about(run)["weights"] == about(run)["code"] == "not recorded"
    assert "weights" not in about(run, "original"), "the original picture needs none"


def test_weights_are_told_by_method_where_they_differ(run):
    record(run, "painta", {"inpainting": {"checkpoint": "a" * 64}})  # a pipeline
    record(run, "hd-painter", {"checkpoint": "b" * 64})  # a checkpoint of the registry
    assert about(run, "painta")["weights"] == "a" * 12
    assert about(run)["weights"] == (
        f"not recorded (Stable Inpainting); {'a' * 12} (only PAIntA); {'b' * 12} (HD-Painter)"
    )


def test_all_versions_of_the_code_that_made_results_are_told(run):
    for line in range(4):
        note(run, "painta", line, code="1234567")
    assert about(run, "painta")["code"] == "1234567"
    note(run, "painta", 3, code="89abcde-dirty")
    assert about(run, "painta")["code"] == "1234567 (only PAIntA); 89abcde-dirty (only PAIntA)"


def test_the_version_is_the_commit_and_whether_files_differ(tmp_path, monkeypatch):
    def found():
        version.code_version.cache_clear()
        return version.code_version()

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setattr(version, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("1")
    assert found() == "unknown"
    git("init", "-q")
    git("add", "code.py")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "--short", "HEAD")
    assert found() == commit
    (tmp_path / "code.py").write_text("2")
    assert found() == f"{commit}-dirty"
    version.code_version.cache_clear()
