"""The command line: what it makes, what it says of mistakes, and its exit codes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hdpainter import HDPainter
from hdpainter.cli import main
from hdpainter.models.identity import identify
from hdpainter.models.random_weights import write_random_checkpoint
from hdpainter.models.registry import MODELS
from ldm.util import CONFIGS
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture


class Loader:
    """Stands in for the loading of a model; counts its calls."""

    def __init__(self, painter=None):
        self.painter, self.calls = painter or FakePainter(), []

    def __call__(self, model, device, dtype, superres):
        self.calls.append((model, device, dtype))
        return self.painter


def run(*words, loader=None):
    return main([str(word) for word in words], load=loader or Loader(), identify=lambda *_: MODEL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder, the current one, with a picture and a mask."""
    monkeypatch.chdir(tmp_path)
    make_picture(tmp_path / "a.png")
    make_mask(tmp_path / "m.png")
    return tmp_path


INPAINT = ("inpaint", "--image", "a.png", "--mask", "m.png", "--prompt", "a red kite")


def test_inpaint_writes_a_picture_and_its_record(here, capsys):
    loader = Loader()
    words = ("--seed", 7, "--steps", 20, "--no-superres", "--device", "cpu", "--model", "sd2")
    assert run(*INPAINT, "--out", "new/Bär.png", *words, loader=loader) == 0
    assert loader.calls == [("sd2", "cpu", None)]
    assert "new/Bär.png and Bär.json written" in capsys.readouterr().out.replace(os.sep, "/")
    record = json.loads((here / "new" / "Bär.json").read_text("utf-8"))
    assert record["name"] == "Bär" and record["source"] is None
    assert (record["inputs"]["seed"], record["inputs"]["superres"]) == (7, False)
    assert record["inputs"]["method"]["sampler"]["steps"] == 20
    before, after = (np.array(Image.open(here / name)) for name in ("a.png", "new/Bär.png"))
    filled = np.array(Image.open(here / "m.png")) > 127
    assert (before == after)[~filled].all() and not (before == after)[filled].all()
    assert sorted(path.name for path in (here / "new").iterdir()) == ["Bär.json", "Bär.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image", "none.png"), "image none.png is not there"),
        (("--image", "text.png"), "is not a picture"),
        (("--mask", "small.png"), "10 x 10 pixels but the image is 24 x 16"),
        (("--mask", "black.png"), "mask black.png marks nothing to fill"),
        (("--out", "out.gif"), "must end in .png (lossless), .jpg"),
        (("--out", "there.png"), "there.png exists; give another --out, or allow --overwrite"),
        (("--out", "record.png"), "record.json exists"),
        (("--out", "there.png/out.png"), "there.png cannot be made: File exists"),
        (("--out", "beside.png", "--overwrite"), "beside.json is a folder"),
        (("--out", "a.png", "--overwrite"), "a.png is what the job reads, and would be lost"),
        (("--out", "./m.png", "--overwrite"), "m.png is what the job reads, and would be lost"),
        (("--out", f"{'ä' * 100}.png"), "is longer than 200 bytes"),
        (("--out", "/proc/out.png"), "/proc cannot be written to"),
        (("--method", "hdpainter"), "unknown method 'hdpainter'"),
        (("--method", "folder.yaml"), "folder.yaml cannot be read: Is a directory"),
        (("--method", "five.yaml"), "five.yaml must hold a mapping"),
        (("--eta", "5"), "eta is 5.0: give a number from 0 to 4"),
        (("--eta", "2", "--method", "hd-painter-printed"), "eta is 2.0: give a number from 0 to 1"),
        (("--eta", "nan"), "eta is nan"),
        (("--method", "smoothing.yaml"), "painta.smoothing is 0.0: give a width from 0.01"),
        (("--method", "scale.yaml"), "rasg.scale is nan: give a number from -1000000.0 to 1000000.0"),
        (("--steps", "many"), "steps must be a whole number, not 'many'"),
        (("--steps", "0"), "steps is 0: give a number from 1 to 1000"),
        (("--seed", "-1"), "seed is -1"),
        (("--known-region", "soft"), "known_region must be one of exact, blended, not 'soft'"),
        (("--step", "3"), "unknown flag --step; did you mean '--steps'? (see hdpainter"),
    ],
)
def test_a_mistake_is_one_line_and_found_before_the_model_loads(here, capsys, words, message):
    (here / "text.png").write_text("no picture")
    make_mask(here / "small.png", (10, 10))
    Image.new("L", (24, 16)).save(here / "black.png")
    make_picture(here / "there.png")
    (here / "record.json").write_text("{}")
    for name in ("beside.json", "folder.yaml"):
        (here / name).mkdir()
    (here / "five.yaml").write_text("5")
    (here / "smoothing.yaml").write_text("painta: {smoothing: 0}")
    (here / "scale.yaml").write_text("rasg: {update: post-hoc, scale: .nan}")
    files = {path: path.is_file() and path.read_bytes() for path in here.iterdir()}
    loader = Loader()
    assert run(*INPAINT, "--out", "out.png", *words, loader=loader) == 2
    output = capsys.readouterr()
    assert output.err.startswith("hdpainter: error: ") and message in output.err
    assert output.err.count("\n") == 1 and not output.out
    assert not loader.calls
    assert {path: path.is_file() and path.read_bytes() for path in here.iterdir()} == files


@pytest.mark.parametrize("name", ["shot 12:30?.png", ".hidden.png", " lead.png", "猫" * 70 + ".png"])
def test_any_file_is_a_picture_whatever_its_name(here, name):
    (here / "a.png").rename(here / name)
    words = ("inpaint", "--image", name, "--mask", "m.png", "--prompt", "面" * 40, "--out", "out.png")
    assert run(*words) == 0 and (here / "out.png").is_file()


@pytest.mark.parametrize("flag", ["image", "mask", "method", "model", "checkpoint", "lora", "out"])
def test_a_name_too_long_for_a_file_is_one_short_line(here, capsys, flag):
    code = main([*INPAINT, "--out", "out.png", f"--{flag}", "x" * 5000 + ".png"], identify=identify)
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and len(error) < 300 and "too long" in error


def test_a_full_disk_is_one_line(here, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(*INPAINT, "--out", "out.png") == 2
    assert capsys.readouterr().err.endswith("error: out.png cannot be written: No space left on device\n")
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "m.png"]


def test_a_job_that_names_no_method_gets_the_models(here):
    pipeline = yaml.safe_load((MODELS / "sd2.yaml").read_text("utf-8"))
    pipeline["pipeline"]["method"] = "painta"
    (here / "own.yaml").write_text(yaml.safe_dump(pipeline))
    (here / "jobs.yaml").write_text(
        "defaults: {image: a.png, mask: m.png}\n"
        "jobs: [{name: one, prompt: a kite}, {name: two, prompt: a kite, method: rasg}]\n"
    )

    def methods(*words):
        assert run(*words, "--model", "own.yaml") == 0
        return [
            json.loads((here / "out" / f"{name}.json").read_text("utf-8"))["inputs"]["method"]["name"]
            for name in ("one", "two")
            if (here / "out" / f"{name}.json").exists()
        ]

    assert methods(*INPAINT, "--out", "out/one.png") == ["painta"]
    assert methods(*INPAINT, "--out", "out/two.png", "--method", "rasg") == ["painta", "rasg"]
    assert methods("batch", "jobs.yaml", "--out", "out", "--overwrite") == ["painta", "rasg"]
    flag = ("--method", "stable-inpainting")  # for the jobs that do not say otherwise
    assert methods("batch", "jobs.yaml", "--out", "out", "--overwrite", *flag) == [
        "stable-inpainting",
        "rasg",
    ]


def test_a_missing_word_and_an_unknown_model_are_mistakes_too(here, capsys):
    assert run("inpaint", "--image", "a.png") == 2
    assert "out is missing: give --out" in capsys.readouterr().err
    for lacking in ("image", "mask", "prompt"):
        words = {"image": "a.png", "mask": "m.png", "prompt": "boat", "out": "o.png"}
        given = (word for key, value in words.items() if key != lacking for word in (f"--{key}", value))
        assert run("inpaint", *given) == 2
        assert capsys.readouterr().err == f"hdpainter: error: {lacking} is missing\n"
    assert run() == 2
    assert main([*INPAINT, "--out", "out.png", "--model", "sd3"]) == 2
    assert "unknown model 'sd3'" in capsys.readouterr().err


def test_a_picture_is_replaced_only_on_demand(here):
    assert run(*INPAINT, "--out", "out.png") == 0
    first = (here / "out.png").read_bytes()
    assert run(*INPAINT, "--out", "out.png", "--seed", 1) == 2
    assert (here / "out.png").read_bytes() == first
    assert run(*INPAINT, "--out", "out.png", "--seed", 1, "--overwrite") == 0
    assert (here / "out.png").read_bytes() != first


def test_an_error_of_the_program_is_one_line_unless_debugged(here, capsys):
    broken = Loader(FakePainter(fail=lambda prompts: RuntimeError("first\nsecond")))
    assert run(*INPAINT, "--out", "out.png", loader=broken) == 1
    said = capsys.readouterr().err.splitlines()[2:]  # after what is told before the work
    assert said == ["hdpainter: error: RuntimeError: first second (--debug shows where)"]
    with pytest.raises(RuntimeError):
        run("--debug", *INPAINT, "--out", "out.png", loader=broken)
    assert not (here / "out.png").exists()


def fails(error, prompt=None):
    """A loader of a painter that fails, always or at one prompt."""
    return Loader(FakePainter(fail=lambda prompts: error if prompt is None or prompt in prompts else None))


def test_ctrl_c_has_its_own_exit_code(here, capsys):
    assert run(*INPAINT, "--out", "out.png", loader=fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.splitlines()[2:] == ["hdpainter: interrupted"]
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "m.png"]


def write_jobs(folder, *prompts, **more):
    jobs = [{"image": "a.png", "mask": "m.png", "prompt": prompt} for prompt in prompts]
    (folder / "jobs.yaml").write_text(yaml.safe_dump({"jobs": jobs, **more}))


def test_batch_takes_the_flags_for_what_the_jobs_leave_open(here, capsys):
    write_jobs(here, "boat", "hat", model="sd15", defaults={"steps": 10, "seed": 3})
    loader = Loader()
    assert run("batch", "jobs.yaml", "--steps", 20, "--batch-size", 2, loader=loader) == 0
    assert loader.calls == [("sd15", None, None)]
    assert loader.painter.calls == [["boat", "hat"]]
    record = json.loads((here / "jobs-results" / "a-hat.json").read_text())
    assert record["inputs"]["seed"] == 3 and record["inputs"]["method"]["sampler"]["steps"] == 20
    assert "2 done, 0 done before, 0 failed" in capsys.readouterr().err


def test_batch_of_a_folder(here):
    (here / "photos").mkdir()
    make_picture(here / "photos" / "x.png")
    make_mask(here / "photos" / "x_mask.png")
    assert run("batch", "photos", "--prompt", "boat", "--out", "elsewhere") == 0
    assert (here / "elsewhere" / "x.png").is_file()


def test_batch_tells_by_its_exit_code_how_it_ended(here, capsys):
    write_jobs(here, "boat", "hat")
    assert run("batch", "jobs.yaml", loader=fails(OSError(), "hat")) == 1
    assert run("batch", "jobs.yaml", loader=fails(KeyboardInterrupt())) == 130
    assert run("batch", "jobs.yaml") == 0
    assert run("batch", "jobs.yaml", "--batch-size", 0) == 2
    assert run("batch", "none.yaml") == 2
    assert capsys.readouterr().err.endswith(
        "hdpainter: error: none.yaml cannot be read: No such file or directory\n"
    )


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(here, capsys):
    write_jobs(here, "boat", "hat", "kite")
    assert run("batch", "jobs.yaml", loader=fails(OSError(), "hat")) == 1
    write_jobs(here, "boat", "hat", "kite", "none")
    text = (here / "jobs.yaml").read_text()
    text = text.replace("prompt: kite", "prompt: kite\n  steps: 20").replace("prompt: none", "prompt: 1")
    (here / "jobs.yaml").write_text(text)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    capsys.readouterr()
    loader = Loader()
    assert run("batch", "jobs.yaml", "--dry-run", loader=loader) == 1
    assert capsys.readouterr().out.splitlines() == [
        "done     a-boat.png  'boat' in a.png",
        "todo     a-hat.png  'hat' in a.png, fills 25% of the picture",
        "changed  a-kite.png  'kite' in a.png, fills 25% of the picture: making it again: steps 50 -> 20",
        "bad      jobs.yaml, job 4: prompt must be text, not 1",
        f"1 todo, 1 changed, 1 done, 1 bad -> {here / 'jobs-results'}",
    ]
    assert not loader.calls
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_real_ctrl_c_leaves_a_batch_that_goes_on(here):
    write_jobs(here, *"abcdef")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        os._exit(run("batch", "jobs.yaml", loader=Loader(FakePainter(delay=1.0))))
    # five seconds are left then, so that a busy machine does not miss the moment
    while not list(here.glob("jobs-results/*.png")):
        time.sleep(0.01)
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    made = {path: path.stat().st_mtime_ns for path in here.glob("jobs-results/*.png")}
    assert 0 < len(made) < 6
    loader = Loader()
    assert run("batch", "jobs.yaml", loader=loader) == 0
    assert len(loader.painter.calls) == 6 - len(made)
    assert {path: path.stat().st_mtime_ns for path in made} == made


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """A pipeline of the miniatures with random weights."""
    folder = tmp_path_factory.mktemp("model")
    pipeline = {"size": 64, "multiple": 64, "max_size": 256, "painta_levels": [2, 4], "rasg_levels": [4]}
    for stage, config in (("inpainting", "mini-inpainting"), ("upscaler", "mini-upscaler")):
        write_random_checkpoint(MODELS / f"{config}.yaml", folder / f"{config}.safetensors")
        pipeline[stage] = {"config": f"{config}.yaml", "checkpoint": f"{config}.safetensors"}
    (folder / "random.yaml").write_text(yaml.safe_dump({"pipeline": pipeline}))
    return folder / "random.yaml"


def test_the_whole_way_with_a_model_of_random_weights(tmp_path, random_model, capsys):
    original = make_picture(tmp_path / "a.png", (96, 80))
    mask = make_mask(tmp_path / "m.png", (96, 80))
    jobs = [
        {"image": "a.png", "mask": "m.png", "prompt": prompt, "name": prompt} for prompt in ("kite", "boat")
    ]
    settings = {"steps": 1, "superres": False}
    source = tmp_path / "jobs.yaml"
    source.write_text(yaml.safe_dump({"model": str(random_model), "defaults": settings, "jobs": jobs}))
    assert main(["batch", str(source), "--batch-size", "2", "--device", "cpu"]) == 0
    results = tmp_path / "jobs-results"
    record = json.loads((results / "kite.json").read_text())
    assert record["metadata"]["stage1_size"] == [64, 53]
    assert record["metadata"]["method"] == record["inputs"]["method"]

    words = [
        "--image",
        original,
        "--mask",
        mask,
        "--prompt",
        "kite",
        "--model",
        random_model,
        "--device",
        "cpu",
    ]
    words += ["--steps", 1, "--no-superres", "--out", tmp_path / "kite.png"]
    assert main(["inpaint", *map(str, words)]) == 0
    painter = HDPainter.from_config(random_model, device="cpu")
    by_hand = np.array(painter(original, mask, "kite", **settings).image)
    pixels = [
        np.array(Image.open(path)).astype(int)
        for path in (original, tmp_path / "kite.png", results / "kite.png")
    ]
    before, alone, batched = pixels
    known = np.array(Image.open(mask)) < 128
    assert (alone == before)[known].all() and not (alone == before)[~known].all()
    assert (alone == by_hand).all() and np.abs(alone - batched).max() <= 1
    capsys.readouterr()
    assert main(["batch", str(source)]) == 0
    assert "0 of 2 jobs to do" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["hdpainter.cli", "hdpainter.jobs.plan", "hdpainter.web.menu"])
def test_commands_are_checked_without_torch(module):
    """It takes seconds to import, and a mistake, --help or the page's first sight need none of it."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_version_is_that_of_the_checkout(capsys):
    """Also where it is not installed, or an older one is."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    project = tomllib.loads((CONFIGS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert capsys.readouterr().out == f"hdpainter {project['version']}\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from hdpainter.console import finish; "
    code += "sys.exit(finish('x', [], lambda words: print('line\\n' * 100_000)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=60) == 1
