"""Making results: batches, what fails, several processes."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.config import Config, seed_of
from eval.generate import generate
from eval.prefetch import prefetch
from ldm.util import UserError
from tests.eval.running import BASE, made
from tests.eval.test_coco import edited


def test_a_batch_that_fails_is_tried_one_by_one(write_config, tiny_pipeline, monkeypatch):
    calls = []

    def paint(self, images, masks, prompts, **settings):
        calls.append(len(images))
        if len(images) > 1:
            raise MemoryError("too much")
        if settings["seed"] == [seed_of(1, True, 2)]:
            raise FloatingPointError("the decoded image holds NaN")
        return [type("Result", (), {"image": Image.fromarray(images[0])})]

    monkeypatch.setattr("hdpainter.pipeline.HDPainter.__call__", paint)
    config = Config.load(write_config(BASE, model=str(tiny_pipeline), batch_size=4))
    tally = generate(config, devices=["cpu"], stream=io.StringIO())
    assert calls == [4, 1, 1, 1, 1, 2, 1, 1]
    assert tally.run.done("stable-inpainting") == [0, 1, 3, 4, 5]
    assert tally.failures == [("stable-inpainting", 2, "FloatingPointError: the decoded image holds NaN")]


def test_what_shares_a_batch_does_not_depend_on_what_was_made_before(write_config, tiny_pipeline):
    config = write_config(BASE, model=str(tiny_pipeline), batch_size=4)
    run, _ = made(config)
    rows = run.manifest("stable-inpainting")
    assert [rows[i]["batch"] for i in range(6)] == [4, 4, 4, 4, 2, 2]
    path = run.folder("stable-inpainting") / "manifest.jsonl"
    path.write_text("".join(f"{json.dumps(rows[i])}\n" for i in (0, 1, 4)))
    made(config)
    rows = run.manifest("stable-inpainting")
    assert [rows[i]["batch"] for i in range(6)] == [4, 4, 2, 2, 2, 1]


def test_only_pictures_of_one_padded_size_share_a_batch(
    toy_root, tmp_path, write_config, tiny_pipeline, monkeypatch
):
    root = tmp_path / "coco"

    def reshape(content):
        for i, image in enumerate(content["images"]):
            image["width"], image["height"] = ((64, 64), (64, 128), (128, 64))[i % 3]

    edited(toy_root, root, reshape)
    (root / "val2017").mkdir()
    for image in json.loads((root / "annotations" / "instances_val2017.json").read_text())["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(root / "val2017" / image["file_name"])
    shapes = []

    def paint(self, images, masks, prompts, **settings):
        shapes.append({image.shape for image in images})
        return [type("Result", (), {"image": Image.fromarray(image)}) for image in images]

    monkeypatch.setattr("hdpainter.pipeline.HDPainter.__call__", paint)
    config = write_config(BASE, model=str(tiny_pipeline), batch_size=3, benchmark={"coco": str(root)})
    run, _ = made(config)
    assert run.done("stable-inpainting") == list(range(6))
    assert all(len(group) == 1 for group in shapes) and len(set().union(*shapes)) > 1


def test_prefetch_hands_on_items_and_errors_in_order():
    def items():
        yield from range(5)
        raise UserError("broken")

    got = []
    with pytest.raises(UserError, match="broken"):
        for item in prefetch(items()):
            got.append(item)
    assert got == list(range(5))


@pytest.mark.parametrize(
    ("start", "methods"),
    [
        ("fork", {"mean": {"kind": "mean"}, "telea": {"kind": "telea"}}),
        pytest.param("spawn", {**BASE, "mean": {"kind": "mean"}}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_make_the_same_as_one(write_config, tiny_pipeline, monkeypatch, start, methods):
    """Spawned, as they are in earnest, they take many seconds to import the networks."""
    monkeypatch.setattr("hdpainter.team.processes.get_context", lambda _: multiprocessing.get_context(start))
    config = write_config(methods, model=str(tiny_pipeline), batch_size=1)
    run, said = made(config, devices=["cpu", "cpu"])
    assert "12 made, 0 made before, 0 failed" in said
    config.write_text(config.read_text().replace("/run", "/alone"))
    alone, _ = made(config)
    for name in methods:
        assert run.done(name) == alone.done(name) == list(range(6))
        for i in range(6):
            difference = run.result(name, i).astype(int) - alone.result(name, i)
            assert np.abs(difference).max() <= 1


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(write_config, tiny_pipeline, tmp_path):
    config = write_config({"stable-inpainting": {"steps": 1000}}, model=str(tiny_pipeline), batch_size=1)
    command = [sys.executable, "-m", "eval", "generate", "--config", str(config), "--devices", "cpu,cpu"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 300
    while len(_session(process.pid)) < 3 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(_session(process.pid)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 150  # enough to finish importing, not to make what they were told to
    while _session(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _session(process.pid)


def _session(number: int) -> list[int]:
    """The processes of a session that are not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_worker_that_cannot_work_says_why(write_config, tiny_pipeline):
    config = write_config(BASE, model=str(tiny_pipeline))
    with pytest.raises(UserError, match="device 'abacus' is not available here"):
        made(config, devices=["abacus", "abacus"])
