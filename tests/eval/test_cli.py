"""The command line of the benchmark: what it makes, and that mistakes are one line."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from eval.__main__ import main
from eval.coco import Coco, read_list
from eval.runs import Run
from hdpainter.results import locked

CHEAP = {"original": {"kind": "original"}, "mean": {"kind": "mean"}}


def run(*words):
    return main([str(word) for word in words])


def in_process(*words, **options):
    command = [sys.executable, "-m", "eval", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_triplets_are_drawn_and_lists_resolved(toy_root, tmp_path, capsys):
    drawn, resolved = tmp_path / "new" / "drawn.csv", tmp_path / "resolved.csv"
    assert run("triplets", "--coco", toy_root, "--samples", 5, "--seed", 3, "--out", drawn) == 0
    assert "5 triplets of" in capsys.readouterr().out
    assert len(read_list(Coco(toy_root), drawn)) == 5
    assert run("triplets", "--coco", toy_root, "--list", drawn, "--out", resolved) == 0
    assert drawn.read_bytes() == resolved.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("triplets", "--coco", "TOY", "--samples", 999, "--out", "a.csv"), "samples is 999: "),
        (("triplets", "--coco", "TOY", "--samples", 0, "--out", "a.csv"), "samples is 0: "),
        (
            ("triplets", "--coco", "TOY", "--out", "a.csv"),
            "one of the arguments --samples --list is required",
        ),
        (("triplets", "--coco", "nowhere", "--samples", 1, "--out", "a.csv"), "has no instances_*.json"),
        (
            ("triplets", "--coco", "TOY", "--samples", 1, "--out", "/proc/a.csv"),
            "/proc/a.csv cannot be written",
        ),
        (("generate", "--config", "none"), "none.yaml cannot be read: No such file or directory"),
        (("generate", "--config", "c.yaml", "--limit", 0), "--limit must be at least 1, not 0"),
        (
            ("generate", "--config", "c.yaml", "--methods", "telea"),
            "the config has no method 'telea'; it has mean",
        ),
        (("generate", "--config", "c.yaml", "--prompt", "false"), "argument --prompt: invalid choice"),
        (("generate", "--config", "c.yaml", "--out", "c.yaml/x"), "c.yaml/x/.hdpainter cannot be made"),
        (("generate", "--config", "c.yaml", "--batch-size", 0), "batch_size must be at least 1, not 0"),
        (("generate", "--config", "c.yaml", "--devices", "abacus"), "device 'abacus' is not available here"),
        (("paint",), "invalid choice: 'paint'"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_mistakes_are_one_line(write_config, toy_root, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write_config(CHEAP).rename("c.yaml")
    assert run(*(toy_root if word == "TOY" else word for word in words)) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("eval: error: ") and message in last


def test_generate_makes_results_and_a_second_start_makes_none(write_config, capsys):
    config = write_config(CHEAP)
    assert run("generate", "--config", config, "--limit", 4) == 0
    assert "8 made, 0 made before, 0 failed" in capsys.readouterr().err
    assert run("generate", "--config", config, "--methods", "mean") == 0
    assert "2 made, 4 made before, 0 failed" in capsys.readouterr().err
    assert run("generate", "--config", config) == 0
    assert "2 made, 10 made before, 0 failed" in capsys.readouterr().err


def test_failures_end_with_1(write_config, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    config = write_config({"theirs": {"kind": "folder", "path": str(tmp_path / "theirs")}})
    assert run("generate", "--config", config, "--limit", 2) == 1
    said = capsys.readouterr().err
    assert "0 made, 0 made before, 2 failed" in said
    assert "the first failure: theirs, sample 0: result" in said and "is not there" in said


def test_a_folder_is_for_one_process(write_config, tmp_path, capsys):
    config = write_config(CHEAP)
    with locked(tmp_path / "run"):
        assert in_process("generate", "--config", config).stderr.splitlines() == [
            f"eval: error: process {os.getpid()} on {os.uname().nodename} is writing to {tmp_path / 'run'}; "
            "let it finish or give another --out"
        ]


def test_a_full_disk_is_one_line_and_nothing_is_left_half_written(write_config, tmp_path):
    config = write_config(CHEAP)
    assert run("generate", "--config", config, "--limit", 1) == 0
    limit = 3000  # bytes a file may have; pictures are larger

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = in_process("generate", "--config", config, preexec_fn=fill)
    assert ended.returncode == 2
    assert "cannot be written: File too large; then start again to go on" in ended.stderr.splitlines()[-1]
    found = Run.open(tmp_path / "run")
    assert found.done("mean") == [0]
    assert not [
        p
        for p in (tmp_path / "run").rglob("*.png")
        if p.stat().st_size in (0, limit) and ".hdpainter" not in p.parts
    ]
    assert run("generate", "--config", config) == 0
    assert found.done("mean") == list(range(6))


def test_it_goes_on_after_kill_9(write_config, tiny_pipeline, tmp_path):
    methods = {"stable-inpainting": {"steps": 4}, "mean": {"kind": "mean"}}
    config = write_config(methods, model=str(tiny_pipeline), batch_size=1)
    manifest = tmp_path / "run" / "stable-inpainting" / "manifest.jsonl"
    command = [sys.executable, "-m", "eval", "generate", "--config", str(config), "--devices", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (manifest.is_file() and manifest.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    found = Run.open(tmp_path / "run")
    before = {
        i: found.result_path("stable-inpainting", i).stat().st_mtime_ns
        for i in found.done("stable-inpainting")
    }
    assert 1 <= len(before) < 6
    with manifest.open("a") as file:
        file.write('{"index": 5, "se')  # cut by the kill
    assert run("generate", "--config", config, "--devices", "cpu") == 0
    assert found.done("stable-inpainting") == found.done("mean") == list(range(6))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(6))
    for i, time_ns in before.items():
        assert found.result_path("stable-inpainting", i).stat().st_mtime_ns == time_ns
