"""What benchmarks/evaluation.py says of speed: its share of time is that of the networks, and of nothing else."""

import os
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.evaluation import NETWORKS, NetworkClock, main, time_method
from eval.config import Config
from hdpainter.console import finish

METHODS = {
    "stable-inpainting": {"steps": 2},
    "rasg": {"steps": 2},
    "bld": {"kind": "bld", "steps": 2, "skip": 0},
}


def test_the_share_is_that_of_the_networks_after_the_first_batch(tmp_path):
    """Four results, saved 1, 2, 3 and 5 seconds after the start; the first batch has two."""
    for index, seconds in enumerate((1, 2, 3, 5)):
        path = tmp_path / f"{index}.png"
        path.touch()
        os.utime(path, ns=(0, seconds * 10**9))
    run = SimpleNamespace(done=lambda _: range(4), result_path=lambda _, i: tmp_path / f"{i}.png")
    clock = NetworkClock(torch.device("cpu"))
    clock.spans = [(0, 10**9), (15 * 10**8, 25 * 10**8), (4 * 10**9, 5 * 10**9), (6 * 10**9, 9 * 10**9)]
    rate, share = time_method(run, "painta", 2, clock)
    assert rate == pytest.approx(3600 * 2 / 3)  # two results in three seconds
    assert share == pytest.approx(1.5 / 3)


def test_every_network_counts_and_only_while_it_computes(painter, monkeypatch):
    image, mask = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    called = set()

    def counted(name, call):
        return lambda *arguments, **options: called.add(name) or call(*arguments, **options)

    for owner, name in NETWORKS:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    with NetworkClock(painter.models.device) as clock:
        start = time.time_ns()
        painter(image, mask, "boat", method="rasg", steps=2)
        end = time.time_ns()
        assert 0 < clock.between(start, end) < end - start
        idle = time.time_ns()
        time.sleep(0.01)
        assert clock.between(idle, time.time_ns()) == 0
    assert called == {name for _, name in NETWORKS}
    assert all(a[1] <= b[0] for a, b in zip(clock.spans, clock.spans[1:], strict=False)), (
        "nothing counts twice"
    )
    count = len(clock.spans)
    painter(image, mask, "boat", method="stable-inpainting", steps=1)
    assert len(clock.spans) == count, "afterwards nothing is timed"


def test_all_methods_and_metrics_are_timed(write_config, tiny_pipeline, capsys):
    config = write_config(
        METHODS, model=str(tiny_pipeline), batch_size=1, metrics={"seam": {}, "saturation": {}}
    )
    assert main(["--config", str(config), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    rows = re.findall(r"^\| ([a-z-]+) \| (\d+) \| ([01]\.\d+) \|$", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(METHODS)
    assert all(int(rate) > 0 and 0 < float(share) < 1 for _, rate, share in rows)
    assert re.findall(r"^\| (\w+) \| \d+\.\d \|$", text, re.MULTILINE) == ["seam", "saturation"]
    assert main(["--config", str(config), "--device", "cpu", "--methods", "bld"]) == 0
    assert "stable-inpainting" not in capsys.readouterr().out


def test_all_methods_that_paint_are_in_the_config_that_it_times():
    tables = [entry for name in ("mini-table1", "mini-table2") for entry in Config.load(name).entries()]
    painting = {e.name for e in tables if e.kind in ("pipeline", "bld")}
    assert {entry.name for entry in Config.load("mini-speed").entries()} == painting


def test_mistakes_are_one_line(write_config, capsys):
    config = write_config(METHODS, batch_size=2)
    assert finish("benchmarks.evaluation", ["--config", str(config), "--limit", "5"], main) == 2
    assert (
        capsys.readouterr().err == "benchmarks.evaluation: error: --limit must be at least 6, three batches\n"
    )
