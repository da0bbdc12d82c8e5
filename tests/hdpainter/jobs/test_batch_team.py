"""Batches by teams of several: members die, jobs fail, drivers are killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdpainter.cli import main
from hdpainter.jobs.batch import run
from hdpainter.jobs.job_files import read_jobs
from hdpainter.jobs.plan import plan
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture

PROMPTS = ["boat", "clock", "kite", "sun", "hat", "bear", "tree"]
TEAMS = [("cpu", "cpu"), pytest.param(("ray:2",), marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Loading:
    """Makes painters that note what they paint, fail at the prompt `poisoned`, whose processes die of `deadly`,
    of `once` only the first time."""

    diary: Path
    poisoned: str = ""
    deadly: str = ""
    once: str = ""

    def __call__(self, device):
        painter = FakePainter(fail=self.fail, diary=self.diary)
        return lambda image, *rest, **settings: painter(self.with_contents(image), *rest, **settings)

    def with_contents(self, images):
        assert all(image.content for image in images), "no file is shared"
        return images

    def fail(self, prompts):
        mark = self.diary.with_name("died")
        if self.deadly in prompts or (self.once in prompts and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return RuntimeError("poison") if self.poisoned in prompts else None


class Folder:
    """A job file with its pictures, all of one size, and an output folder."""

    def __init__(self, path):
        self.path, self.out, self.source, self.diary = path, path / "out", path / "jobs.jsonl", path / "diary"
        make_picture(path / "a.png")
        make_mask(path / "m.png")
        jobs = [{"name": text, "image": "a.png", "mask": "m.png", "prompt": text} for text in PROMPTS]
        self.source.write_text("\n".join(map(json.dumps, jobs)))

    def run(self, devices, out=None, batch_size=2, **fates):
        if devices[0] and devices[0].startswith("ray"):
            pytest.importorskip("ray")
        said = io.StringIO()
        outcome = run(
            read_jobs(self.source),
            out or self.out,
            MODEL,
            "hd-painter",
            Loading(self.diary, **{"poisoned": "-", "deadly": "-", "once": "-", **fates}),
            devices=devices,
            batch_size=batch_size,
            stream=said,
        )
        return outcome, said.getvalue()

    def painted(self):
        """How often each prompt was painted."""
        return Counter(line.split()[1] for line in self.diary.read_text().splitlines())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.mark.parametrize("devices", TEAMS)
def test_a_team_makes_the_same_as_one(folder, devices):
    outcome, _ = folder.run(devices)
    assert sorted(outcome.done) == sorted(PROMPTS) and outcome.exit_code == 0
    assert folder.painted() == dict.fromkeys(PROMPTS, 1)
    folder.run([None], folder.path / "alone")
    for name in PROMPTS:
        one, other = (Image.open(out / f"{name}.png") for out in (folder.out, folder.path / "alone"))
        assert (np.array(one) == np.array(other)).all()
        assert one.info["hdpainter"] == other.info["hdpainter"]
    assert folder.run(devices)[0].skipped == PROMPTS
    assert folder.painted() == dict.fromkeys(PROMPTS, 2)  # here and alone, and not again


@pytest.mark.parametrize("devices", TEAMS)
def test_jobs_that_fail_or_kill_are_reported_and_the_others_made(folder, devices):
    outcome, said = folder.run(devices, poisoned="kite", deadly="hat")
    assert sorted(outcome.done) == ["bear", "boat", "clock", "sun", "tree"] and outcome.exit_code == 1
    assert {problem.where: problem.message.partition(", the last")[0] for problem in outcome.failed} == {
        "jobs.jsonl, line 3": "RuntimeError: poison",
        "jobs.jsonl, line 5": "3 members of the team died of it",
    }
    assert "kite: failed: RuntimeError: poison" in said and "jobs at once failed" in said
    assert sorted(folder.run(devices)[0].done) == ["hat", "kite"]


@pytest.mark.parametrize("devices", TEAMS)
def test_nothing_is_lost_or_painted_twice_when_a_member_is_killed(folder, devices):
    outcome, _ = folder.run(devices, batch_size=1, once="kite")
    assert sorted(outcome.done) == sorted(PROMPTS) and not outcome.failed
    assert folder.painted() == dict.fromkeys(PROMPTS, 1)


def test_a_picture_that_has_changed_fails_alone(folder, monkeypatch):
    make_picture(folder.path / "b.png")
    lines = folder.source.read_text().splitlines()
    lines[1] = lines[1].replace("a.png", "b.png")
    folder.source.write_text("\n".join(lines))

    def then_replaced(*arguments):
        planned = plan(*arguments)
        make_picture(folder.path / "b.png", seed=1)
        return planned

    monkeypatch.setattr("hdpainter.jobs.batch.plan", then_replaced)
    outcome, _ = folder.run([None])
    assert sorted(outcome.done) == sorted(set(PROMPTS) - {"clock"})
    assert "b.png has changed since it was looked at" in outcome.failed[0].message


def test_devices_are_named_once(folder, capsys):
    assert main(["batch", str(folder.source), "--device", "cpu", "--devices", "cpu,cpu"]) == 2
    assert "give --device or --devices, not both" in capsys.readouterr().err
    assert main(["batch", str(folder.source), "--devices", "cpu,"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["cpu,cpu", "ray:2"])
def test_a_batch_whose_driver_is_killed_goes_on(folder, tiny_pipeline, devices):
    if devices.startswith("ray"):
        pytest.importorskip("ray")
    words = [sys.executable, "-m", "hdpainter", "batch", str(folder.source), "--out", str(folder.out)]
    words += ["--model", str(tiny_pipeline), "--devices", devices, "--steps", "8", "--no-superres"]
    with (folder.path / "log").open("w") as log, subprocess.Popen(words, stderr=log) as driver:
        until = time.monotonic() + 900
        try:
            while len(list(folder.out.glob("*.png"))) < 2:
                assert driver.poll() is None and time.monotonic() < until, (folder.path / "log").read_text()
                time.sleep(0.01)
        finally:
            driver.kill()
    before = {path: path.read_bytes() for path in folder.out.glob("*.png")}
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(PROMPTS) - len(before)} done, {len(before)} done before, 0 failed" in again.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(folder.out.glob("*.png"))) == len(PROMPTS)
