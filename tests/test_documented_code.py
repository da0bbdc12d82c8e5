"""The documents' Python runs as it stands there, on the miniatures, and so do their calls of the HTTP API."""

import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from hdpainter import HDPainter
from hdpainter.mini.examples import example
from tests.documentation import PAGES, ROOT, fences, is_script

PYTHON = [page for page in PAGES if fences(page, "python")]
ADDRESS = "http://127.0.0.1:7860"
load = HDPainter.from_config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the pictures that the documents name."""
    picture, mask, _ = example(2, 256)
    for name in ("photo.jpg", "photo.png", "beach.png"):
        Image.fromarray(picture).save(tmp_path / name)
    for name in ("mask.png", "beach_mask.png"):
        Image.fromarray(mask).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def address():
    """That of a page on the miniatures."""
    command = [sys.executable, "-m", "hdpainter.cli", "web", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        yield re.search(r"http://[\w.:]+", server.stdout.readline())[0]
        server.terminate()


def given(painter: HDPainter) -> dict:
    """What the documents' lines take as given."""
    picture, mask, _ = example(0, 64)
    square = torch.zeros(1, 1, 64, 64)
    square[..., 16:48, 16:48] = 1
    texts = painter.models.inpainting.get_learned_conditioning(["wooden boat", ""])
    cond, uncond = ({"c_concat": [torch.zeros(1, 5, 64, 64)], "c_crossattn": [t[None]]} for t in texts)
    images = {"a": picture, "b": picture, "mask_a": mask, "mask_b": mask}
    return images | {"mask": square, "cond": cond, "uncond": uncond}


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python(page, folder, address, monkeypatch):
    monkeypatch.setattr(HDPainter, "from_config", lambda name, **_: load("mini", "cpu", "float32"))
    names = given(load("mini", "cpu", "float32"))
    for block in fences(page, "python"):
        exec(block.replace(ADDRESS, address), names)


@pytest.mark.slow
def test_http_api(folder, address):
    (page,) = [page for page in PAGES if any(map(is_script, fences(page, "bash")))]
    (block,) = filter(is_script, fences(page, "bash"))
    done = subprocess.run(
        ["bash", "-c", block.replace(ADDRESS, address)], cwd=ROOT, capture_output=True, text=True
    )
    assert "event: complete" in done.stdout, done
