"""No documented command can rot: each runs here on its smallest input.

What takes more than seconds runs with -m slow. Every program has a line in `SMALLEST`, with flags that make its
commands small; they come last and so take the place of the document's own. A command of a program without a line
fails.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.request
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from benchmarks.browser import find_chromium
from eval.__main__ import main as evaluate
from hdpainter.cli import main as hdpainter
from hdpainter.configs import read_yaml
from hdpainter.models.registry import MODELS
from tests.documentation import MODULES, ROOT, SCRIPTS, documented
from tests.eval.conftest import toy_root  # noqa: F401 (a fixture)
from tests.hdpainter.conftest import tiny_pipeline  # noqa: F401 (a fixture)

SKIPPED = (
    ".git",
    ".venv*",
    "outputs",
    "runs",
    "build",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


@dataclass(frozen=True)
class Small:
    """How a program's commands become small.

    more: flags that make them so. needs: what the program's bare name lacks to be a command. code: the exit code
    that is right. slow: it takes more than seconds. browser: it needs Chromium.
    """

    more: str = ""
    needs: str = ""
    code: int = 0
    slow: bool = False
    browser: bool = False


@dataclass(frozen=True)
class NotRun:
    reason: str


CPU = "--device cpu --dtype float32"
MINI = "--prompt true --methods stable-inpainting --limit 1 --devices cpu --dtype float32 --out {new}"
PICTURE = "--image photo.jpg --mask mask.png --prompt boat"
SMALLEST = {
    "source .venv/bin/activate": NotRun("the tests run in an environment already"),
    "source .venv-cpu/bin/activate": NotRun("the tests run in an environment already"),
    "python3 -m venv": NotRun("the tests run in an environment already"),
    "conda": NotRun("conda is not everywhere; tests/test_project_files.py reads the file"),
    "pip install": NotRun("the registry is not asked; tests/test_cpu_install.py reads what is installed"),
    "hdpainter --help": Small(),
    "hdpainter --version": Small(),
    "hdpainter inpaint": Small("--model {tiny} --steps 1 --out {new}.png " + CPU, PICTURE),
    "hdpainter inpaint --checkpoint": Small("--steps 1 --no-superres --out {new}.png " + CPU, slow=True),
    "hdpainter batch": Small("--model {tiny} --steps 1 --batch-size 2 --out {new} " + CPU, "jobs.yaml"),
    "hdpainter batch configs/inference/example.yaml": Small("--model {tiny} --out {new} " + CPU, slow=True),
    "hdpainter explain": Small("--model {tiny} --steps 2 --out {new} " + CPU, PICTURE, slow=True),
    "hdpainter web": Small("--model {tiny} --port 0 --device cpu", slow=True),
    "hdpainter web --help": Small(),
    "hdpainter models list": Small(),
    "hdpainter models download": Small("--to {new}"),
    "hdpainter models merge": NotRun("three models of one kind are tests/hdpainter/test_models_merge.py's"),
    "hdpainter models convert": Small(needs="OLD.ckpt {new}.safetensors"),
    "python -m eval triplets": Small("--coco DIR --samples 2 --out {new}.csv"),
    "python -m eval generate": Small(needs="--config {eval} --limit 1 --devices cpu --out {new}"),
    "python -m eval generate --config": Small(
        "--limit 1 --devices cpu --dtype float32 --out {new}", slow=True
    ),
    "python -m eval score": Small(needs="RUN"),
    "python -m eval score --metric": NotRun(
        "it fetches public weights; tests/eval/test_reproduce.py stands in"
    ),
    "python -m eval table": Small("--repeats 100", "RUN"),
    "python -m eval report": Small("--repeats 100 --out {new}.html", "RUN"),
    "python -m eval study": Small("--samples 1 --out {new}", "--runs RUN"),
    "python -m eval study --collect": Small(needs="ada.json"),
    "python -m benchmarks.baselines": Small("", slow=True),
    "python -m benchmarks.evaluation": Small(
        "--config {eval} --limit 3 --methods painta bld " + CPU, slow=True
    ),
    "python -m benchmarks.loading": Small("--config {config} --checkpoint {weights} --repeat 1", slow=True),
    "python -m benchmarks.memory": Small("--config {upscaler} --size 64 --dtype float32", slow=True),
    "python -m benchmarks.page": Small("--model {tiny}", slow=True, browser=True),
    "python -m benchmarks.screenshots": Small(
        "--model {tiny} --steps 1 --out {new}", slow=True, browser=True
    ),
    "python -m benchmarks.planning": Small("--photos 5"),
    "python -m benchmarks.steps": Small("--config {config} --rounds 1", slow=True),
    "python -m benchmarks.superres": Small("--model {tiny} --steps 1 --scenes 1 " + CPU, slow=True),
    "python -m benchmarks.team": Small("--pictures 0 --echoes 3", slow=True),
    "python -m studies.fills": Small("--first 1 --out {new}.png"),
    "python -m studies.holes": Small(
        "--model {tiny} --methods painta --each 1 --set steps=1 --out {new} " + CPU, slow=True
    ),
    "python -m studies.joining": Small("--model {tiny} --samples 1 --out {new} " + CPU, slow=True),
    "python -m studies.miniatures": Small("--model {tiny} --n 1 --out {new}", slow=True),
    "python -m studies.rasg": Small("--model {tiny} --samples 1 --device cpu", slow=True),
    "python -m studies.superres": Small("--model {tiny} --steps 1 --scenes 1 " + CPU, slow=True),
    "python -m studies.seam": Small("--out {new}.png"),
    "python scripts/make_random_checkpoint.py": Small("--config {config} --out {new}.safetensors"),
    "python scripts/highlights.py": Small("--steps 1 --out {new}", slow=True),
    "bash scripts/demo.sh": Small("--examples 0 --out {new}", slow=True),
    "bash scripts/test.sh": Small("tests/ldm/test_util.py", slow=True),
    # nothing there is slow
    "bash scripts/test.sh -m slow": Small("tests/ldm/test_util.py", code=5, slow=True),
    "bash scripts/reproduce_table1.sh": Small(code=2, slow=True),  # says what is missing
    "bash scripts/reproduce_table2.sh": Small(code=2, slow=True),
    "bash scripts/reproduce_table1.sh --mini": Small(MINI, slow=True),
    "bash scripts/reproduce_table2.sh --mini": Small(MINI, slow=True),
    "bash scripts/reproduce_ablation.sh": Small(code=2, slow=True),
    "bash scripts/reproduce_ablation.sh --mini": Small(MINI, slow=True),
    "bash scripts/reproduce_all.sh": Small(code=2, slow=True),
    "bash scripts/reproduce_all.sh --mini": Small(MINI, slow=True),
    "bash scripts/reproduce_superres.sh": Small("--model {tiny} --steps 1 --scenes 1 " + CPU, slow=True),
    "bash scripts/reproduce_figures.sh": Small(
        "--model {tiny} --pictures configs/inference/pictures --count 1 --steps 1 --out {new} " + CPU,
        slow=True,
    ),
    "bash scripts/lock.sh": Small(slow=True),
    "bash scripts/train_mini.sh": Small("mini-autoencoder-f8", slow=True),
}


def cases() -> list:
    """Each documented command with its way to be small, None if it has none."""
    found = []
    for (command, folder), where in documented().items():
        program = max(filter(partial(begins_with, command), SMALLEST), key=len, default=None)
        small = SMALLEST.get(program)
        marks = [pytest.mark.slow] if isinstance(small, Small) and small.slow else []
        found.append(pytest.param(command, folder, program, small, id=f"{where}: {command}", marks=marks))
    return found


def begins_with(command: str, program: str) -> bool:
    return f"{command} ".startswith(f"{program} ")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, tiny_pipeline, toy_root) -> Path:  # noqa: F811
    """A copy of the repository, with what the documents' commands read, by the names that they have there."""
    folder = tmp_path_factory.mktemp("checkout") / "repository"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*SKIPPED))
    pictures = folder / "configs" / "inference" / "pictures"
    for path in pictures.glob("*.png"):
        Image.open(path).resize((64, 64), Image.Resampling.NEAREST).save(path)
    shutil.copytree(pictures, folder / "FILE")  # a folder is a list of jobs too
    for place in (folder, folder / "outputs" / "demo" / "example2"):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / "garden_mask.png", place / "mask.png")
        for name in ("photo.jpg", "photo.png", "image.png"):
            Image.open(pictures / "garden.png").convert("RGB").save(place / name)
    for way in ("beside", "pasted", "exact", "blended"):  # what studies.joining makes for mini-joining
        (folder / "outputs" / "joining" / way).mkdir(parents=True)
        Image.open(pictures / "garden.png").resize((256, 256)).save(
            folder / f"outputs/joining/{way}/000000.png"
        )
    write_yaml(folder / "jobs.yaml", {"jobs": [{"image": "photo.jpg", "mask": "mask.png", "prompt": "boat"}]})
    shutil.copytree(toy_root, folder / "DIR")
    for path in folder.glob("configs/train/*.yaml"):
        few = re.sub(r"\b(scenes|steps|minutes): [\d.]+", r"\1: 16", path.read_text(encoding="utf-8"))
        path.write_text(few, encoding="utf-8")

    methods = {name: {"steps": 1} for name in ("stable-inpainting", "painta", "hd-painter-release")}
    content = {
        "benchmark": {"coco": str(toy_root), "samples": 4, "size": 64},
        "model": str(tiny_pipeline),
        "methods": methods | {"bld": {"kind": "bld", "steps": 2, "skip": 0}},
        "metrics": {"seam": {}, "saturation": {}},
        "batch_size": 1,
        "dtype": "float32",
        "out": str(folder / "RUN"),
    }
    write_yaml(folder / "eval.yaml", content)
    assert (
        evaluate(["generate", "--config", str(folder / "eval.yaml"), "--limit", "2", "--devices", "cpu"]) == 0
    )
    assert evaluate(["score", str(folder / "RUN")]) == 0
    for name in ("mini-other", "mini-joining-other"):
        shutil.copytree(folder / "RUN", folder / "outputs" / name)

    picture = [
        "--image",
        str(folder / "photo.jpg"),
        "--mask",
        str(folder / "mask.png"),
        "--prompt",
        "a clock",
    ]
    tiny = ["--model", str(tiny_pipeline), "--steps", "1", *CPU.split()]
    assert hdpainter(["inpaint", *picture, *tiny, "--out", str(folder / "clock.png")]) == 0

    choice = {"question": "prompt", "sample": 0, "left": "painta", "right": "bld", "choice": "left"}
    for rater in ("ada", "ben"):
        ballot = {"study": "0", "rater": rater, "name": "", "complete": False, "answers": [choice]}
        (folder / f"{rater}.json").write_text(json.dumps(ballot), encoding="utf-8")

    weights = load_file(tiny_pipeline.with_name("tiny-inpainting.safetensors"))
    torch.save({"state_dict": weights}, folder / "OLD.ckpt")
    return folder


def write_yaml(path: Path, content: dict) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_pipeline):  # noqa: F811
    """Environment variables by which the public checkpoints are small, and come from a server on this machine."""
    folder = tmp_path_factory.mktemp("hub")
    checkpoints = read_yaml(MODELS / "registry.yaml")["checkpoints"]
    weights = tiny_pipeline.with_name("tiny-inpainting.safetensors")
    for entry in checkpoints.values():
        shutil.copy(weights, folder / entry["file"])
        entry |= {"parameters": weights.stat().st_size // 4, "dtype": "float32", "sha256": None}
    write_yaml(folder / "registry.yaml", {"checkpoints": checkpoints})
    handler = type("Handler", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HDPAINTER_REGISTRY": str(folder / "registry.yaml"),
        "HDPAINTER_MIRRORS": f"http://127.0.0.1:{server.server_port}/{{file}}",
        "no_proxy": "127.0.0.1",
    }
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("command", "folder", "program", "small"), cases())
def test_command(command, folder, program, small, checkout, hub, tiny_pipeline, tmp_path, monkeypatch):  # noqa: F811
    assert program, "give its program a line in SMALLEST"
    if isinstance(small, NotRun):
        pytest.skip(small.reason)
    if small.browser and find_chromium() is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    places = {
        "tiny": tiny_pipeline,
        "config": tiny_pipeline.with_name("tiny-inpainting.yaml"),
        "upscaler": tiny_pipeline.with_name("tiny-upscaler.yaml"),
        "weights": tiny_pipeline.with_name("tiny-inpainting.safetensors"),
        "eval": checkout / "eval.yaml",
        "new": tmp_path / "new",
    }
    for name, value in hub.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(checkout / folder)
    words = smallest(command, program, small, places)
    assert run(words, checkout) == small.code


def smallest(command: str, program: str, small: Small, places: dict[str, Path]) -> list[str]:
    """The words of a command with what makes it small. What is [optional] is there; placeholders have values."""
    optional = re.sub(r"\[(?!-)\w+\]", "", command).replace("[", "").replace("]", "")
    words = [{"N": "1", "NAME": "sd2"}.get(word, word) for word in shlex.split(optional)]
    name = len(shlex.split(program))
    if len(words) == name or small.needs.startswith("--"):
        words[name:name] = shlex.split(small.needs.format(**places))
    return words + shlex.split(small.more.format(**places))


def run(words: list[str], checkout: Path) -> int:
    """The exit code of a command. Python runs in this process, which has loaded what takes seconds to load."""
    if words[:2] == ["hdpainter", "web"] and "--help" not in words:
        return serve(words)
    try:
        match words:
            case ["hdpainter", *rest]:
                return hdpainter(rest)
            case ["python", "-m", "eval", *rest]:
                return evaluate(rest)
            case ["python", "-m", module, *rest]:
                return importlib.import_module(module).main(rest) or 0
            case ["python", path, *rest]:
                return importlib.import_module(path.removesuffix(".py").replace("/", ".")).main(rest) or 0
    except SystemExit as end:  # --help and --version
        return end.code or 0
    words = words if words[0] == "bash" else ["bash", *words]
    return subprocess.run(words, env=environment(checkout)).returncode


def environment(checkout: Path) -> dict[str, str]:
    """That of a user who works in the checkout with its environment active."""
    binaries = str(Path(sys.executable).parent)
    path = os.pathsep.join([binaries, os.environ["PATH"]])
    return {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": path, "PYTHONPATH": str(checkout)}


def serve(words: list[str]) -> int:
    """0 if the page is served at the address that the command prints."""
    command = [sys.executable, "-m", "hdpainter.cli", *words[1:]]
    quiet = {**os.environ, "BROWSER": "true", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet) as server:
        try:
            url = re.search(r"http://\S+", server.stdout.readline())[0]
            with urllib.request.urlopen(url, timeout=60) as page:
                return 0 if b"HD-Painter" in page.read() else 1
        finally:
            server.terminate()


def test_every_program_is_run():
    """Also those that no document names."""
    run_here = " ".join(SMALLEST)
    shell = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    for path in MODULES + SCRIPTS:
        name = str(path.relative_to(ROOT))
        assert name in run_here or name[:-3].replace("/", ".") in run_here or path.name in shell, name


def test_every_line_is_of_a_documented_command():
    commands = [command for command, _ in documented()]
    modules = [str(path.relative_to(ROOT)).removesuffix(".py").replace("/", ".") for path in MODULES]
    commands += [f"python -m {module}" for module in modules]
    for program in SMALLEST:
        assert any(begins_with(command, program) for command in commands), program
