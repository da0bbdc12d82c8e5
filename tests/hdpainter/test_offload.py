"""``--offload``: only the stage at work is on the device."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hdpainter import HDPainter
from hdpainter.cli import main
from hdpainter.settings import Method

QUICK = Method.load("painta").override({"sampler.steps": 1, "superres.steps": 1})
DEVICE = "cpu:0"  # stands for a GPU: another name for the CPU, to which models can be moved


@pytest.fixture
def moves(monkeypatch) -> list[tuple[str, str]]:
    """(model, device) of every move of a whole model, in order."""
    made: list[tuple[str, str]] = []
    move = nn.Module.to

    def recorded(module: nn.Module, *args, **kwargs) -> nn.Module:
        if type(module).__name__.startswith("Latent") and args and not isinstance(args[0], torch.dtype):
            made.append((type(module).__name__.removesuffix("Diffusion"), str(args[0])))
        return move(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", recorded)
    return made


@pytest.fixture
def inputs() -> tuple[Image.Image, Image.Image]:
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[32:80, 32:80] = 255
    return Image.fromarray(picture), Image.fromarray(mask)


def test_stages_take_turns_on_the_device_and_make_the_same_pictures(tiny_pipeline, inputs, moves):
    settings = {"method": QUICK, "size": 64}
    plain = HDPainter.from_config(str(tiny_pipeline), device="cpu")
    wanted = plain(*inputs, "boat", **settings)
    moves.clear()
    painter = HDPainter.from_config(str(tiny_pipeline), device=DEVICE, offload=True)
    assert moves == [("LatentInpaint", "cpu")]  # loaded, and waiting
    for _ in range(2):
        moves.clear()
        result = painter(*inputs, "boat", **settings)
        assert result.metadata["superres"]
        assert np.array_equal(np.asarray(result.image), np.asarray(wanted.image))
        assert result.metadata["device"] == DEVICE
        at_work = [move for move in moves if move[1] == DEVICE]
        assert at_work == [("LatentInpaint", DEVICE), ("LatentUpscale", DEVICE)]
        before = moves.index(("LatentUpscale", DEVICE))
        assert ("LatentInpaint", "cpu") in moves[:before]  # gone before the other comes
    assert moves[0] == ("LatentUpscale", "cpu")  # as the second picture began


def test_without_it_nothing_moves_between_stages(tiny_pipeline, inputs, moves):
    painter = HDPainter.from_config(str(tiny_pipeline), device="cpu")
    painter(*inputs, "boat", method=QUICK, size=64)
    moves.clear()
    painter(*inputs, "boat", method=QUICK, size=64)
    assert not moves


def test_the_flag_reaches_the_painter(tiny_pipeline, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs[0].save("a.png")
    inputs[1].save("m.png")
    asked = []
    monkeypatch.setattr(
        HDPainter, "from_config", lambda *args, **kwargs: asked.append(kwargs["offload"]) or 1 / 0
    )
    words = ["--image", "a.png", "--mask", "m.png", "--prompt", "boat", "--model", str(tiny_pipeline)]
    for flag in ([], ["--offload"]):
        assert main(["inpaint", *words, *flag, "--device", "cpu", "--out", "out.png"]) == 1
    assert asked == [False, True]
