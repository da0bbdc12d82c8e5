"""Peak memory and time of an autoencoder with random weights at a given size, each pass in a fresh process.

    python -m benchmarks.memory --size 2048 --dtype bfloat16
    python -m benchmarks.memory --size 2048 --without-attention     # its one attention is most of the time

At 2048 x 2048 the attention in the middle of the upscaler's autoencoder has 262,144 tokens; a plain score matrix
would take 256 GiB. `--attention-only` runs it alone, for a few of the queries against all of the keys.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from hdpainter.configs import read_model_config
from hdpainter.console import Parser, finish
from hdpainter.models.random_weights import random_weight
from ldm.modules.diffusionmodules.bounded import bounded_attention
from ldm.util import instantiate_from_config


def peak_gib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def autoencoder(args: argparse.Namespace) -> torch.nn.Module:
    with torch.device("meta"):
        model = instantiate_from_config(read_model_config(args.config)["params"]["first_stage_config"])
    model = model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        parameter.copy_(random_weight(name, parameter.shape))
    if args.without_attention:
        for half in (model.encoder, model.decoder):
            half.mid.attn_1 = torch.nn.Identity()
    return model.eval().to(getattr(torch, args.dtype))


@torch.no_grad()
def measure(args: argparse.Namespace) -> str:
    dtype, side = getattr(torch, args.dtype), args.size // args.factor
    if args.part == "attention":
        keys = torch.randn(1, side * side, args.width, dtype=dtype)
        before, start = peak_gib(), time.perf_counter()
        bounded_attention(keys[:, : args.queries], keys, keys)
        tokens = f"{args.queries} queries, {side * side} keys"
        return f"attention, {tokens} | {time.perf_counter() - start:.0f} | {before:.2f} | {peak_gib():.2f}"
    model = autoencoder(args)
    z = torch.randn(1, 4, side, side)
    x = torch.rand(1, 3, args.size, args.size) * 2 - 1
    before, start = peak_gib(), time.perf_counter()
    if args.part == "decode":
        model.decode(z)
    else:
        model.encode(x)
    return f"{args.part} | {time.perf_counter() - start:.0f} | {before:.2f} | {peak_gib():.2f}"


def main(argv: list[str]) -> None:
    """Measure each pass and print the table."""
    parser = Parser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=Path("configs/models/x4-upscaler.yaml"))
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--factor", type=int, default=4, help="pixels per latent")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--without-attention", action="store_true")
    parser.add_argument("--attention-only", action="store_true")
    parser.add_argument("--queries", type=int, default=2048, help="with --attention-only")
    parser.add_argument("--width", type=int, default=512, help="with --attention-only")
    parser.add_argument("--part", choices=("encode", "decode", "attention"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        print(measure(args))
        return
    kind = ", without attention" if args.without_attention else ""
    print(f"{args.config}, {args.size} px, {args.dtype}{kind}")
    print("| pass | seconds | GiB before | peak GiB |\n|---|---|---|---|")
    for part in ("attention",) if args.attention_only else ("encode", "decode"):
        words = [sys.executable, "-m", "benchmarks.memory", *argv, "--part", part]
        print(
            "|",
            subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip(),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(finish("benchmarks.memory", None, main))
