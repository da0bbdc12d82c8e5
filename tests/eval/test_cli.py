"""The command line of the benchmark: what it makes, and that mistakes are one line."""

import json
import os
import random
import resource
import signal
import socket
import time

import pytest
import yaml

from eval.__main__ import main
from eval.coco import Coco, read_list
from eval.runs import Run
from hdpainter.jobs.results import locked

CHEAP = {"original": {"kind": "original"}, "mean": {"kind": "mean"}}


def run(*words):
    return main([str(word) for word in words])


def in_child(function):
    """Run `function` in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(function())
        finally:
            os._exit(99)
    return child


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
            "/proc cannot be written to",
        ),
        (("triplets", "--coco", "TOY", "--samples", 1, "--out", "c.yaml/a.csv"), "c.yaml cannot be made"),
        (("triplets", "--coco", "TOY", "--samples", 1, "--out", ""), ". cannot be written"),
        (("generate", "--config", "none"), "none.yaml cannot be read: No such file or directory"),
        (("generate", "--config", "c.yaml", "--limit", 0), "--limit must be at least 1, not 0"),
        (
            ("generate", "--config", "c.yaml", "--methods", "telea"),
            "the config has no method 'telea'; it has mean",
        ),
        (("generate", "--config", "c.yaml", "--prompt", "false"), "argument --prompt: invalid choice"),
        (("generate", "--config", "c.yaml", "--out", "c.yaml/x"), "c.yaml/x/.hdpainter cannot be made"),
        (
            ("generate", "--config", "c.yaml", "--batch-size", 0),
            "batch_size is 0: give a number from 1 to 1000",
        ),
        (("generate", "--config", "c.yaml", "--devices", "abacus"), "device 'abacus' is not available here"),
        (("generate", "--config", "c.yaml", "--devices", "cpu,"), "'cpu,' has an empty name"),
        (("paint",), "invalid choice: 'paint'"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_mistakes_are_one_line(write_config, toy_root, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write_config(CHEAP).rename("c.yaml")
    assert run(*(toy_root if word == "TOY" else word for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()  # and so nothing was drawn before
    assert line.startswith("eval: error: ") and message in line


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
        assert run("generate", "--config", config) == 2
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert capsys.readouterr().err.splitlines() == [
        f"eval: error: {owner} is writing to {tmp_path / 'run'}; let it finish or give another --out"
    ]
    assert run("generate", "--config", config) == 0


@pytest.mark.parametrize("devices", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_what_was_made_stays(write_config, tmp_path, capfd, devices):
    config = write_config(CHEAP)
    assert run("generate", "--config", config, "--methods", "original") == 0
    assert run("generate", "--config", config, "--methods", "mean", "--limit", 1) == 0
    whole = [path for path in (tmp_path / "run").glob("*/*.png")]
    limit = max(path.stat().st_size for path in whole) // 4  # bytes that a file may have

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return run("generate", "--config", config, "--devices", devices)

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(fill), 0)[1]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("eval: error: ") and "cannot be written: File too large" in last
    assert last.endswith("start again to go on")
    found = Run.open(tmp_path / "run")
    assert found.done("mean") == [0] and set(whole) <= set((tmp_path / "run").glob("*/*.png"))
    assert run("generate", "--config", config) == 0
    assert found.done("mean") == found.done("original") == list(range(6))


def test_kill_9_at_any_moment_costs_no_more_than_what_was_under_way(write_config, tmp_path, capfd):
    config = write_config(CHEAP, batch_size=1)
    words = ("generate", "--config", config, "--devices", "cpu")
    random.seed(0)
    made, folder = {}, tmp_path / "run" / "mean"
    for _ in range(25):
        child = in_child(lambda: run(*words))
        time.sleep(random.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (tmp_path / "run" / "run.json").is_file():
            found = Run.open(tmp_path / "run")
            now = {i: found.result_path("mean", i).stat().st_mtime_ns for i in found.done("mean")}
            assert made.items() <= now.items()
            made = now
            for i in made:
                assert found.result("mean", i) is not None
        if folder.is_dir():
            with (folder / "manifest.jsonl").open("a") as file:
                file.write('{"index": 5, "se')  # a line that the kill cut
    assert run(*words) == 0
    found = Run.open(tmp_path / "run")
    for name in CHEAP:
        assert found.done(name) == list(range(6))
        lines = (found.folder(name) / "manifest.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["index"] for line in lines) == list(range(6))
        files = {path.name for path in found.folder(name).iterdir()}
        assert files == {"manifest.jsonl", *(f"{i:06d}.png" for i in range(6))}


def test_a_model_that_names_other_code_runs_it_only_with_trust(
    tiny_pipeline, write_config, tmp_path, monkeypatch, capsys
):
    """A program beside the config stands for anything that a config could name."""
    (tmp_path / "foreign.py").write_text(
        "from pathlib import Path\nfrom ldm.models.diffusion.ddpm import LatentInpaintDiffusion\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\nclass Model(LatentInpaintDiffusion): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = yaml.safe_load((tiny_pipeline.parent / "tiny-inpainting.yaml").read_text())
    network["model"]["target"] = "foreign.Model"
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(network))
    content = yaml.safe_load(tiny_pipeline.read_text())
    checkpoint = str(tiny_pipeline.parent / "tiny-inpainting.safetensors")
    content["pipeline"]["inpainting"] = {"config": "network.yaml", "checkpoint": checkpoint}
    del content["pipeline"]["upscaler"]
    (tmp_path / "pipe.yaml").write_text(yaml.safe_dump(content))
    config = write_config({"painta": {"steps": 1}}, model=str(tmp_path / "pipe.yaml"))
    words = ("generate", "--config", config, "--limit", 1)
    assert run(*words) == 2
    assert "target 'foreign.Model' is no network of this project" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert run("check", "--config", config) == 2 and not (tmp_path / "ran").exists()
    capsys.readouterr()
    assert run(*words, "--trust-config") == 0 and (tmp_path / "ran").exists()
    assert len(Run.open(tmp_path / "run").done("painta")) == 1


@pytest.mark.parametrize("place", ["config", "entry"])
def test_no_file_says_that_it_is_trusted(write_config, capsys, place):
    config = write_config(
        {"painta": {"steps": 1, **({"trusted": True} if place == "entry" else {})}},
        **({"trusted": True} if place == "config" else {}),
    )
    assert run("generate", "--config", config) == 2
    assert "unknown key 'trusted'" in capsys.readouterr().err
