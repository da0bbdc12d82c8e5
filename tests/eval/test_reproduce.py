"""The scripts that reproduce the tables: what is missing, the estimate, and from samples to the report."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from eval.__main__ import main, parser_of
from eval.config import Config
from eval.requirements import (
    BYTES_A_PIXEL,
    bytes_of,
    duration,
    estimate,
    missing,
    planned,
    seconds_per_evaluation,
    size,
)
from hdpainter.mini.scenes import DRAWING
from hdpainter.mini.world.toycoco import CATEGORIES
from hdpainter.settings import Method
from tests.eval.test_coco import edited

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
JUDGES = {"fidelity": {}, "seam": {}, "saturation": {}}


def test_nothing_is_missing_where_all_is_there(write_config, tiny_pipeline):
    config = Config.load(
        write_config({"painta": {}, "mean": {"kind": "mean"}}, model=str(tiny_pipeline), metrics=JUDGES)
    )
    assert missing(config) == []


def test_everything_that_is_missing_is_listed_with_how_to_get_it(write_config, tmp_path):
    pipeline = tmp_path / "lost.yaml"
    pipeline.write_text(
        "pipeline: {inpainting: {config: mini-inpainting.yaml, checkpoint: lost.safetensors}}"
    )
    methods = {
        "painta": {},
        "rasg": {},  # the same file
        "theirs": {"kind": "folder", "path": str(tmp_path / "absent")},
        "glide": {"kind": "folder", "path": None, "why_not": "weights not included"},
    }
    metrics = {"clip": {"model": "models/mini-clip.json", "weights": "lost-clip.safetensors"}, "fidelity": {}}
    root = tmp_path / "coco2017"
    path = write_config(methods, model=str(pipeline), metrics=metrics, benchmark={"coco": str(root)})
    dataset, model, folder, judge = missing(Config.load(path))
    assert str(root) in dataset and f"mkdir -p {root}" in dataset and "val2017.zip" in dataset
    assert "lost.safetensors" in model and "HDPAINTER_CHECKPOINTS" in model
    assert str(tmp_path / "absent") in folder
    assert "lost-clip.safetensors" in judge


def test_missing_images_are_counted(write_config, toy_root, tmp_path):
    root = tmp_path / "coco"
    shutil.copytree(toy_root, root)
    for picture in root.rglob("*.png"):
        picture.unlink()
    (message,) = missing(
        Config.load(write_config({"mean": {"kind": "mean"}}, benchmark={"coco": str(root)}, metrics=JUDGES))
    )
    assert "images of" in message and "are missing" in message


def test_a_package_that_a_metric_needs(write_config, monkeypatch):
    monkeypatch.setattr("eval.metrics.accuracy.find_spec", lambda name: None if name == "mmengine" else name)
    judges = {"accuracy": {"weights": "weights.pth"}}
    (message,) = missing(Config.load(write_config({"mean": {"kind": "mean"}}, metrics=judges)))
    assert "mmengine" in message and "pip install ./shims/opencv-python -e '.[eval]'" in message


def test_estimate_follows_from_samples_steps_and_time(write_config, tiny_pipeline, tmp_path):
    config = Config.load(
        write_config({"painta": {"steps": 7}, "mean": {"kind": "mean"}}, model=str(tiny_pipeline))
    )
    plan = planned(config)
    assert plan.samples == 6 and plan.results == 12
    assert planned(config, methods=["painta"]).evaluations == 6 * 14  # with and without the prompt
    assert bytes_of(config, plan) == 6 * 3 * 64**2 * BYTES_A_PIXEL
    assert planned(config, limit=2).samples == 2 and planned(config, limit=99).samples == 6
    one, two = (estimate(config, plan, 100.0, devices) for devices in (1, 2))
    total = 6 * (14 + plan.entries["mean"].how.cost()) * 100.0
    assert duration(total) in one[1] and duration(total / 2) in two[1]
    assert not [line for line in one if "warning" in line]


def test_what_is_made_already_is_not_estimated_again(write_config, tiny_pipeline, capsys, monkeypatch):
    path = write_config(
        {"painta": {"steps": 2}, "mean": {"kind": "mean"}}, model=str(tiny_pipeline), metrics=JUDGES
    )
    words = ["--config", str(path), "--devices", "cpu"]
    assert main(["generate", *words, "--methods", "mean", "--limit", "4"]) == 0
    config = Config.load(path)
    plan = planned(config)
    assert (plan.samples, plan.results, plan.made) == (6, 8, 4)
    assert plan.pictures == 8 + 2  # two samples have no inputs yet
    assert plan.evaluations == pytest.approx(6 * 4 + 2 * plan.entries["mean"].how.cost())
    assert (planned(config, limit=3).results, planned(config, limit=3).pictures) == (3, 3)

    assert main(["generate", *words]) == 0
    capsys.readouterr()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert main(["check", *words]) == 0
    text = capsys.readouterr().out
    assert "0 pictures to make, 12 made before" in text and "time: about 00:00" in text
    assert "warning" not in text, "a full disk is no trouble where nothing more comes"


def test_toy_coco_takes_disk_only_until_it_is_drawn(write_config, tmp_path):
    toy = {"coco": "toy", "images": 5, "cache": str(tmp_path / "cache")}
    config = Config.load(write_config({"mean": {"kind": "mean"}}, benchmark=toy))
    before = planned(config).pictures
    (tmp_path / "cache" / "toycoco-val-5-64-of-another-version").mkdir(parents=True)
    assert planned(config).pictures == before
    (tmp_path / "cache" / f"toycoco-val-5-64-{DRAWING}").mkdir()
    assert before - planned(config).pictures == 5


def test_too_little_disk_is_said(write_config, monkeypatch):
    config = Config.load(write_config({"mean": {"kind": "mean"}}))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert "warning" in estimate(config, planned(config), 1.0, 1)[-1]


@pytest.mark.parametrize(("seconds", "text"), [(59, "00:59"), (3700, "1:01:40"), (86400 * 3, "3.0 days")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(10, "1 MB"), (25e6, "25 MB"), (6.2e10, "62.0 GB")])
def test_sizes(count, text):
    assert size(count) == text


def test_a_network_evaluation_is_measured(write_config, tiny_pipeline):
    config = Config.load(write_config({"painta": {}}, model=str(tiny_pipeline)))
    assert 0 < seconds_per_evaluation(config, "cpu") < 30


@pytest.mark.parametrize(("processes", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_it_is_measured_with_the_threads_that_a_process_will_have(
    write_config, tiny_pipeline, processes, threads
):
    config = Config.load(write_config({"painta": {}}, model=str(tiny_pipeline)))
    seen, before = set(), torch.get_num_threads()
    hook = register_module_forward_pre_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(4)
    try:
        seconds_per_evaluation(config, "cpu", processes)
        assert (seen, torch.get_num_threads()) == ({threads}, 4)
    finally:
        hook.remove()
        torch.set_num_threads(before)


def test_check_lists_and_fails_or_agrees(write_config, tiny_pipeline, capsys):
    path = write_config({"painta": {}}, model=str(tiny_pipeline), metrics=JUDGES)
    assert main(["check", "--config", str(path), "--devices", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "all that it needs is there" in text and "time: about" in text and "disk: up to" in text
    assert main(["check", "--config", str(path), "--coco", "nowhere", "--devices", "cpu"]) == 2
    assert "1 missing:" in (text := capsys.readouterr().out) and "nowhere" in text
    assert main(["check", "--config", str(path), "--limit", "0"]) == 2
    assert "--limit must be at least 1, not 0" in capsys.readouterr().err


def test_check_counts_only_the_methods_that_are_asked_for(write_config, tiny_pipeline):
    methods = {"painta": {}, "theirs": {"kind": "folder", "path": "/absent"}}
    config = Config.load(write_config(methods, model=str(tiny_pipeline), metrics=JUDGES))
    assert missing(config, ["painta"]) == [] and len(missing(config)) == 1
    assert set(planned(config, methods=["painta"]).entries) == {"painta"}


@pytest.fixture
def detector(tmp_path):
    """The metrics of a config: a detector that knows the labels of toy COCO."""
    pytest.importorskip("mmdet", reason="needs mmdet and mmcv or mmcv-lite")
    weights = tmp_path / "rtmdet.safetensors"
    weights.touch()
    return {"accuracy": {"config": "models/mini-rtmdet.py", "weights": str(weights)}}


@pytest.mark.parametrize("prompt", ["true", "other"])
def test_check_finds_labels_that_the_detector_does_not_know(
    write_config, toy_root, tmp_path, capsys, detector, prompt
):
    """Before the pictures are made, not when they are scored."""

    def rename(content):
        for category in content["categories"]:
            category["name"] = {"bottle": "bottles"}.get(category["name"], category["name"])

    root = tmp_path / "coco"
    edited(toy_root, root, rename)
    shutil.copytree(toy_root / "val2017", root / "val2017")
    settings = {"coco": str(root), "prompt": prompt}
    config = str(write_config({"mean": {"kind": "mean"}}, metrics=detector, benchmark=settings))
    assert main(["check", "--config", config]) == 2
    text = capsys.readouterr().out
    assert "1 missing:" in text and "has no class 'bottles' (but 'bottle'); 1 of 6 labels" in text
    assert main(["check", "--config", config, "--limit", "2"]) == 0, "none of the first two is one"


def test_check_finds_labels_of_toy_coco_before_it_is_drawn(
    write_config, tmp_path, capsys, detector, monkeypatch
):
    toy = {"coco": "toy", "images": 5, "cache": str(tmp_path)}
    words = [
        "check",
        "--config",
        str(write_config({"mean": {"kind": "mean"}}, metrics=detector, benchmark=toy)),
    ]
    assert main(words) == 0
    names = [dataclasses.replace(category, name=f"a {category.name}") for category in CATEGORIES]
    monkeypatch.setattr("eval.requirements.CATEGORIES", names)
    assert main(words) == 2
    assert "20 of 20 labels" in capsys.readouterr().out
    assert not list(tmp_path.glob("toycoco*"))


def test_the_hint_fetches_the_weights_that_the_config_needs(write_config, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    monkeypatch.setattr("eval.metrics.weights.try_to_load_from_cache", lambda *_, **__: None)
    metrics = {"clip": {"model": "ViT-L-14", "weights": "laion2b_s32b_b82k"}}
    path = str(write_config({"mean": {"kind": "mean"}}, metrics=metrics))
    assert main(["check", "--config", path, "--devices", "cpu"]) == 2
    hint = re.search(r"get them with: python -m eval (score .*)", capsys.readouterr().out)[1]
    fetched = []
    monkeypatch.setattr(
        "eval.metrics.weights.download", lambda urls, target: fetched.append(target) or target
    )
    assert main([*hint.split(), "--device", "cpu"]) == 0
    assert fetched == [tmp_path / "open_clip" / "ViT-L-14-laion2b_s32b_b82k.safetensors"]


def test_from_samples_to_the_report(write_config, tiny_pipeline, tmp_path):
    """All commands in turn, with real pictures by an untrained model and real judges that need no weights."""
    methods = {
        "stable-inpainting": {"steps": 2, "seed": [1, 2]},
        "hd-painter": {"steps": 2},
        "original": {"kind": "original"},
        "nuwa-lip": {"kind": "folder", "path": None, "why_not": "weights not included"},
    }
    config = str(
        write_config(methods, model=str(tiny_pipeline), metrics=JUDGES, published="table1", dtype="float32")
    )
    run = tmp_path / "run"
    assert main(["generate", "--config", config, "--devices", "cpu"]) == 0
    assert main(["score", str(run), "--device", "cpu"]) == 0
    assert main(["table", str(run), "--config", config, "--repeats", "100"]) == 0
    assert main(["report", str(run), "--config", config, "--repeats", "100"]) == 0
    table = (run / "tables" / "table1.md").read_text()
    assert "(2 seeds) | 6 |" in table and "not run: weights not included" in table
    assert re.search(r"^\| original \| 6 \| ∞ \| 0\.0 ", table, re.MULTILINE)  # PSNR, largest change
    assert (run / "report.html").stat().st_size > 20_000


@pytest.fixture
def called(tmp_path):
    """called(script, *arguments) -> (exit code, the commands that the script would run). A stand-in for Python
    records them; it fails at the command in $FAIL with $CODE. The real parser takes what was recorded."""
    bin, log = tmp_path / "bin", tmp_path / "log"
    bin.mkdir()
    python = bin / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -I ] && exit 0\necho "$@" >> {log}\n[ "$3" = "$FAIL" ] && exit $CODE\nexit 0\n'
    )
    python.chmod(0o755)

    def call(script, *arguments, fail="", code=2):
        log.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "VIRTUAL_ENV": str(tmp_path),
            "PATH": f"{bin}:{os.environ['PATH']}",
            "FAIL": fail,
            "CODE": str(code),
        }
        done = subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        commands = log.read_text().splitlines() if log.is_file() else []
        for words in (command.split()[2:] for command in commands):
            parser_of(words).parse_args(words)
        return done.returncode, commands

    return call


def test_mini_script_runs_every_step_for_both_kinds_of_prompts(called):
    code, commands = called("reproduce_table2.sh", "--mini", "--limit", "8")
    assert code == 0 and len(commands) == 14
    steps = ["changed", "check", "generate", "score", "table", "report", "changed"]
    assert [command.split()[2] for command in commands] == steps * 2
    for prompt, part in (("other", commands[:7]), ("true", commands[7:])):
        for command in (*part[:3], part[6]):
            assert f"--config mini-table2 --prompt {prompt} --out outputs/mini-{prompt} --limit 8" in command
        assert all(f"outputs/mini-{prompt}" in command for command in part)


def test_full_script_uses_true_labels_and_the_given_folders(called, tmp_path):
    code, commands = called(
        "reproduce_table1.sh", "--coco", "data/coco", "--out", "results", "--devices", "cuda:0"
    )
    assert code == 0 and len(commands) == 7
    dataset, results = tmp_path / "data" / "coco", tmp_path / "results-true"
    expected = f"--config table1 --prompt true --out {results} --coco {dataset} --devices cuda:0"
    assert expected in commands[2]
    assert commands[5].endswith(f"--out {results}/table1.html")


@pytest.mark.parametrize(("step", "count"), [("check", 2), ("generate", 3), ("score", 4)])
def test_script_stops_at_the_first_failure(called, step, count):
    code, commands = called("reproduce_table1.sh", "--mini", fail=step)
    assert code == 2 and len(commands) == count


def test_script_goes_on_where_results_failed_and_says_so_in_the_end(called):
    code, commands = called("reproduce_table2.sh", "--mini", "--prompt", "true", fail="generate", code=1)
    assert code == 1 and len(commands) == 6
    assert all("--finished" not in command for command in commands)
    assert called("reproduce_table2.sh", "--mini")[0] == 0


def test_script_does_nothing_where_nothing_has_changed_since_it_finished(called):
    code, commands = called("reproduce_table2.sh", "--mini", fail="changed", code=3)
    assert code == 0 and [command.split()[2] for command in commands] == ["changed"] * 2


def test_every_table_has_a_script_and_the_ablation_its_own_folder(called):
    code, commands = called("reproduce_all.sh", "--mini", "--prompt", "other")
    assert code == 0 and len(commands) == 4 * 7
    runs = [
        command.split()[command.split().index("--out") + 1] for command in commands if "generate" in command
    ]
    assert runs == ["outputs/mini-other"] * 3 + ["outputs/mini-ablation-other"]
    for table, part in zip(("table2", "table1", "strength", "ablation"), range(0, 28, 7), strict=True):
        assert all("generate" not in c or f"--config mini-{table} " in c for c in commands[part : part + 7])
    assert called("reproduce_all.sh", "--mini", "--prompt", "other", fail="generate", code=1)[0] == 1
    assert len(called("reproduce_all.sh", "--mini", fail="check")[1]) == 2  # nor any other table
    words = called("reproduce_ablation.sh", "--mini", "--prompt", "true", "--out", "there")[1][1].split()
    assert words[words.index("--out") + 1].endswith("there-ablation-true")


def test_script_can_be_told_some_methods(called):
    code, commands = called(
        "reproduce_table2.sh", "--mini", "--prompt", "true", "--methods", "painta", "rasg", "--limit", "3"
    )
    assert code == 0
    assert all(command.endswith("--methods painta rasg --limit 3") for command in commands[:3])


def test_script_can_be_told_devices_and_dtype(called):
    words = ["--mini", "--devices", "cpu,cpu", "--dtype", "bfloat16"]
    code, commands = called("reproduce_table2.sh", *words)
    assert code == 0 and len(commands) == 14
    made = [command for command in commands if command.split()[2] in ("check", "generate")]
    assert len(made) == 4 and all(c.endswith("--devices cpu,cpu --dtype bfloat16") for c in made)
    assert called("reproduce_table2.sh", "--mini", "--devices=cuda:1,cuda:2")[1][3].endswith(
        "--devices cuda:1,cuda:2"
    )


def test_script_says_how_it_is_used(called):
    code, commands = called("reproduce_table1.sh", "--help")
    assert code == 0 and commands == []
    assert called("reproduce_table1.sh", "--prompt")[0] == 2


@pytest.mark.parametrize("name", ["table1", "table2", "mini-table1", "mini-table2"])
def test_the_scripts_configs_are_what_the_tables_expect(name):
    config = Config.load(name)
    assert config.for_tables["published"] == name.removeprefix("mini-")
    names = [entry.name for entry in config.entries()]
    assert {"stable-inpainting", "hd-painter"} <= set(names)
    if name.endswith("table2"):
        assert {"painta", "rasg"} <= set(names)
    for entry in config.entries():
        if entry.kind == "pipeline":
            Method.load(entry.how.method)
    assert planned(config).samples >= 500
