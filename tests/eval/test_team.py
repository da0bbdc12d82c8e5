"""Runs and scores by a team of processes or of Ray's actors: members die, jobs fail, drivers are killed."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.kinds import KINDS
from eval.runs import Run
from ldm.util import UserError
from tests.eval.mortal import Mortal
from tests.eval.running import BASE, made

RAY = pytest.param(["ray:2"], id="ray")
TEAMS = [pytest.param(["cpu", "cpu"], id="processes"), RAY]


@pytest.fixture(scope="module")
def two_workers():
    """A Ray of two workers on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def team(request):
    """The devices of a test; a Ray is there where they are its."""
    if request.param[0].startswith("ray"):
        request.getfixturevalue("two_workers")
    return request.param


@pytest.fixture
def mortal(write_config, tiny_pipeline, tmp_path, monkeypatch):
    """mortal(**fates) -> the path of a config whose one method is `Mortal`."""
    monkeypatch.setitem(KINDS, "mortal", Mortal)

    def write(**fates):
        method = {"kind": "mortal", "method": "painta", "steps": 2, "folder": str(tmp_path), **fates}
        return write_config({"mortal": method}, model=str(tiny_pipeline), batch_size=2)

    return write


def begun(folder: Path) -> Counter:
    """How often each sample was begun."""
    return Counter(int(line.split()[1]) for line in (folder / "begun.txt").read_text().splitlines())


def lines(run: Run, method: str) -> list[int]:
    """The samples of a manifest, in its order."""
    text = (run.folder(method) / "manifest.jsonl").read_text()
    return [json.loads(line)["index"] for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("team", TEAMS, indirect=True)
def test_nothing_is_lost_or_repeated_when_a_member_is_killed(mortal, tmp_path, team):
    run, said = made(mortal(once=2), devices=team)
    assert "6 made, 0 made before, 0 failed" in said
    assert sorted(lines(run, "mortal")) == run.done("mortal") == list(range(6))
    assert begun(tmp_path) == {0: 1, 1: 1, 2: 2, 3: 2, 4: 1, 5: 1}


@pytest.mark.slow
@pytest.mark.parametrize("team", TEAMS, indirect=True)
def test_samples_that_fail_or_kill_are_told_and_the_others_made(mortal, tmp_path, team):
    run, said = made(mortal(always=1, poisoned=4), devices=team)
    assert run.done("mortal") == sorted(lines(run, "mortal")) == [0, 2, 3, 5]
    assert "4 made, 0 made before, 2 failed" in said
    assert "mortal: sample 4 failed: RuntimeError: poison" in said
    assert "mortal: sample 1 failed: 3 members of the team died of it, the last one: " in said
    assert begun(tmp_path)[1] == 3


@pytest.mark.slow
@pytest.mark.parametrize("team", [RAY], indirect=True)
def test_a_cluster_makes_the_same_as_this_process(write_config, tiny_pipeline, team):
    methods = {**BASE, "mean": {"kind": "mean"}}
    config = write_config(methods, model=str(tiny_pipeline), batch_size=2)
    config.write_text(config.read_text().replace("/run", "/alone"))
    alone, _ = made(config)
    copied = {"kind": "folder", "path": str(alone.folder("mean"))}  # which the driver alone may see
    config = write_config({**methods, "copied": copied}, model=str(tiny_pipeline), batch_size=2)
    run, _ = made(config, devices=team)
    for name, like in (*zip(methods, methods, strict=True), ("copied", "mean")):
        assert run.done(name) == alone.done(like) == list(range(6))
        for i in range(6):
            assert np.abs(run.result(name, i).astype(int) - alone.result(like, i)).max() <= 1
    rows = run.manifest("stable-inpainting")
    assert {row["device"] for row in rows.values()} == {"cpu"} and rows[0]["dtype"] == "float32"


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_when_it_is_started_again(write_config, tiny_pipeline, tmp_path):
    pytest.importorskip("ray")
    config = write_config({"stable-inpainting": {"steps": 20}}, model=str(tiny_pipeline), batch_size=1)
    words = [sys.executable, "-m", "eval", "generate", "--config", str(config), "--devices", "ray:2"]
    manifest = tmp_path / "run" / "stable-inpainting" / "manifest.jsonl"
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, stderr=log) as driver:
        until = time.monotonic() + 900
        try:
            while not (manifest.is_file() and manifest.read_text().count("\n") >= 2):
                assert driver.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                time.sleep(0.01)
        finally:
            driver.kill()
    before = manifest.read_text()
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert manifest.read_text().startswith(before[: before.rindex("\n") + 1])
    run = Run.open(tmp_path / "run")
    assert sorted(lines(run, "stable-inpainting")) == run.done("stable-inpainting") == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("team", TEAMS, indirect=True)
def test_a_team_scores_as_this_process_does(write_config, team, capsys):
    run, _ = made(write_config({"mean": {"kind": "mean"}, "telea": {"kind": "telea"}}))
    words = ["score", str(run.path), "--metric", "seam", "saturation", "--batch-size", "2"]
    assert main([*words, "--device", "cpu"]) == 0
    alone = capsys.readouterr().out
    for path in run.path.glob("*/scores/*"):
        path.unlink()
    assert main([*words, "--devices", ",".join(team)]) == 0
    assert capsys.readouterr().out == alone
    assert main([*words, "--devices", "nothing,to,do"]) == 0
    assert capsys.readouterr().out == alone


def test_a_cluster_needs_a_dtype(write_config, tiny_pipeline):
    config = write_config(BASE, model=str(tiny_pipeline))
    config.write_text(config.read_text().replace("dtype: float32\n", ""))
    with pytest.raises(UserError, match="give a --dtype"):
        made(config, devices=["ray"])
