"""Floating point operations of GLIDE and NUWA-LIP at full size, counted on shapes alone.

    python -m benchmarks.baselines

Matrix products and convolutions, by torch's FlopCounterMode, as in steps.py. Nothing is computed and no weights
are needed: the networks are on the meta device.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hdpainter.baselines.glide.timesteps import spaced_timesteps
from hdpainter.configs import read_model_config
from hdpainter.console import Parser, finish
from hdpainter.models.registry import MODELS
from hdpainter.settings import GlideMethod
from ldm.checkpoint import build

GLIDE = {"base": (64, None), "upsample": (256, 64)}  # sides of the pictures and of the smaller ones


def network(config: str) -> Any:
    return build(read_model_config(MODELS / config)).eval()


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


@torch.no_grad()
def tflop(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


@torch.no_grad()
def of_glide(name: str) -> dict[str, float]:
    """Of one prompt's transformer and of one evaluation of the UNet."""
    net, (side, smaller) = network(f"glide-{name}-inpaint.yaml"), GLIDE[name]
    tokens = zeros(1, 128, dtype=torch.int64), zeros(1, 128, dtype=torch.bool)
    text, x = net.encode_text(*tokens), zeros(1, 3, side, side)
    low_res = smaller and zeros(1, 3, smaller, smaller)
    return {
        "text": tflop(lambda: net.encode_text(*tokens)),
        "UNet": tflop(lambda: net(x, zeros(1), text, x, x[:, :1], low_res)),
    }


@torch.no_grad()
def of_nuwa_lip() -> dict[str, float]:
    """Of the parts of one picture; the decoder's is a full pass over its 1,024 codes."""
    net = network("nuwa-lip-256.yaml")
    picture, mask = zeros(1, 3, 256, 256), zeros(1, 1, 256, 256, dtype=torch.bool)
    cells, tokens = zeros(1, 1, 32, 32, dtype=torch.bool), zeros(1, 77, dtype=torch.int64)
    codes, skips = net.vqgan.encode(picture, mask)
    memory = net.memory(codes, cells, picture, tokens)
    return {
        "VQ encoder": tflop(lambda: net.vqgan.encode(picture, mask)),
        "text and picture encoders": tflop(lambda: net.memory(codes, cells, picture, tokens)),
        "decoder, full pass": tflop(lambda: net.logits(codes, cells, memory)),
        "VQ decoder": tflop(lambda: net.vqgan.decode(codes, skips)),
    }


def main(argv: list[str]) -> None:
    Parser(
        prog="python -m benchmarks.baselines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    found = {f"GLIDE {name}": of_glide(name) for name in GLIDE} | {"NUWA-LIP": of_nuwa_lip()}
    for name, parts in found.items():
        for part, count in parts.items():
            print(f"{name}: {part}: {count:.4f} TFLOP")
    base, upsampler, nuwa_lip = found.values()
    method = GlideMethod()
    picture = method.sampler.steps * 2 * base["UNet"] + 2 * base["text"] + upsampler["text"]
    picture += len(spaced_timesteps(method.glide.steps)) * upsampler["UNet"]
    print(f"GLIDE: a picture: {picture:.1f} TFLOP")
    print(f"NUWA-LIP: a picture, all of it masked: {sum(nuwa_lip.values()):.2f} TFLOP")


if __name__ == "__main__":
    sys.exit(finish("benchmarks.baselines", None, main))
