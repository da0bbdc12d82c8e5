"""Time and memory of one sampling step by each method, fast paths and plain equations, as ratios in one run.

    python -m benchmarks.steps                                            # the miniature's layout
    python -m benchmarks.steps --config configs/models/sd2-inpainting.yaml --rounds 3  # full size, random weights
    python -m benchmarks.steps --config configs/models/sd2-base.yaml --no-oracles      # bld's UNet at full size

Weights are random: cost does not depend on them. Times are of steps taken in turn in one process, the median over
rounds; peak memory is that of a fresh process that takes one step. `plain equations` are oracles.py: full
attention matrices, and for RASG the gradient through the UNet for both halves with weight gradients. `bld` is a
step of Blended Latent Diffusion with any UNet; of 50 steps it takes 38 (`BLDSettings.skip`).

`python -m benchmarks.evaluation` times the benchmark: triplets per hour, share of time in the networks, metrics.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.oracles import FullMatrixAttention, FullMatrixPAIntA, rasg_gradient
from hdpainter.baselines.bld import BLDSettings, BlendedLatentDiffusion
from hdpainter.configs import read_model_config
from hdpainter.console import Parser, finish
from hdpainter.levels import mask_pyramid
from hdpainter.models.random_weights import random_weight
from hdpainter.painta import PAIntA
from hdpainter.rasg import RASGSampler
from hdpainter.settings import Method
from ldm.checkpoint import build
from ldm.models.diffusion.ddim import DDIMSampler

FAST = ("plain", "painta", "rasg", "both", "bld")
ORACLES = ("plain equations", "painta, plain equations", "rasg, plain equations", "both, plain equations")
TIMESTEP = 801


class Bench:
    """A model with random weights and the inputs of one step for `batch` images."""

    def __init__(self, args: argparse.Namespace):
        config = read_model_config(args.config)
        for part in ("first_stage_config", "cond_stage_config"):  # a step needs neither
            config["params"][part] = {"target": "torch.nn.Identity"}
        self.model = build(config)
        unet = self.model.model.diffusion_model
        self.unet = unet.to_empty(device="cpu")
        with torch.no_grad():
            for name, parameter in self.unet.named_parameters():
                parameter.copy_(random_weight(name, parameter.shape))
        self.model.eval().requires_grad_(False).to(args.device)
        self.unet.to(getattr(torch, args.dtype))
        self.device = torch.device(args.device)
        self.context_dim = config["params"]["unet_config"]["params"]["context_dim"]
        self.painta_levels, self.rasg_levels = args.painta_levels, args.rasg_levels
        self.size = args.latent

    def inputs(self, batch: int) -> dict:
        generator = torch.Generator().manual_seed(0)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        size = self.size
        mask = torch.zeros(batch, 1, size, size, device=self.device)
        mask[..., size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 1  # a quarter of the picture
        concat = [torch.cat([mask, randn(batch, 4, size, size)], 1)]
        cond, uncond = (
            {"c_concat": concat, "c_crossattn": [randn(batch, 77, self.context_dim)]} for _ in range(2)
        )
        return {
            "x": randn(batch, 4, size, size),
            "cond": cond,
            "uncond": uncond,
            "mask": mask,
            "tokens": [[1, 2, 3]] * batch,
        }

    def step(self, kind: str, batch: int = 1) -> Callable[[], object]:
        """A function that takes one step of a kind."""
        io = self.inputs(batch)
        name, _, oracle = kind.partition(", ") if ", " in kind else (kind, "", "")
        if kind == "plain equations":
            name, oracle = "plain", kind
        levels = sorted({*self.painta_levels, *self.rasg_levels})
        masks = mask_pyramid(io["mask"], levels)
        settings = Method.load("hd-painter-printed")
        t = torch.full((batch,), TIMESTEP, device=self.device)

        def sampled(sampler: DDIMSampler, **guidance: object) -> object:
            sampler.make_schedule(50, ddim_eta=settings.sampler.eta)
            return sampler.p_sample_ddim(io["x"], io["cond"], t, 40, 7.5, io["uncond"], **guidance)

        def run() -> object:
            with ExitStack() as stack:
                if oracle:
                    stack.enter_context(FullMatrixAttention(self.unet))
                if name in ("painta", "both"):
                    painta = FullMatrixPAIntA if oracle else PAIntA
                    stack.enter_context(
                        painta(self.unet, masks, io["tokens"], self.painta_levels, settings.painta)
                    )
                if name == "bld":
                    return self.bld(io)
                if name in ("plain", "painta"):
                    return sampled(DDIMSampler(self.model))
                if not oracle:
                    sampler = RASGSampler(self.model, self.rasg_levels, settings.rasg)
                    return sampled(sampler, target=masks, token_indices=io["tokens"])
                return self.release_way(io, t, masks)

        return run

    def bld(self, io: dict) -> object:
        """A step with its blending."""
        x, one = io["x"], BLDSettings(steps=1, skip=0)
        sample = BlendedLatentDiffusion(self.model).sample
        return sample(x, io["mask"], io["cond"], io["uncond"], one, lambda: torch.randn_like(x))

    def release_way(self, io: dict, t: Tensor, masks: dict[int, Tensor]) -> object:
        """RASG's gradient through the UNet for both halves, and for the weights."""
        concat = io["cond"]["c_concat"][0]
        context = torch.cat([c["c_crossattn"][0] for c in (io["uncond"], io["cond"])])
        self.unet.requires_grad_(True)
        try:
            return rasg_gradient(
                self.unet,
                io["x"],
                lambda x: {"x": torch.cat([torch.cat([x, concat], 1)] * 2), "context": context},
                t.repeat(2),
                masks[self.rasg_levels[0]],
                io["tokens"],
                self.rasg_levels,
            )
        finally:
            self.unet.requires_grad_(False)
            self.unet.zero_grad(set_to_none=True)

    def tflop(self, kind: str) -> float:
        """Floating point operations of the matrix products and convolutions of one step, in 10^12."""
        with FlopCounterMode(display=False) as counter:
            self.step(kind)()
        return counter.get_total_flops() / 1e12

    def seconds(self, run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage: there a process starts with the peak of the one that it was forked from.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def main(argv: list[str]) -> None:
    """Time, count, weigh and print the table."""
    parser = Parser(
        prog="python -m benchmarks.steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="configs/models/mini-inpainting.yaml")
    parser.add_argument("--latent", type=int, help="side of the latent (default: the config's image_size)")
    parser.add_argument("--painta-levels", type=int, nargs="+")
    parser.add_argument("--rasg-levels", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="for the batch against singles; 0 leaves it out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--no-oracles", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    side = read_model_config(args.config)["params"]["image_size"]
    args.latent = args.latent or side
    # The token grids of the paper: 32x32 and 16x16.
    args.painta_levels = args.painta_levels or [args.latent // 32, args.latent // 16]
    args.rasg_levels = args.rasg_levels or [args.latent // 16]

    if args.memory_of:
        bench = Bench(args)
        weights = peak_gib(bench.device)
        bench.step(args.memory_of)()
        print(json.dumps({"peak": peak_gib(bench.device), "weights": weights}))
        return

    kinds = FAST if args.no_oracles else FAST + ORACLES
    bench = Bench(args)
    figures: dict[str, dict[str, float]] = {}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_ in tqdm(range(args.rounds + 1), desc="rounds", disable=None):
        for kind in kinds:
            seconds = bench.seconds(bench.step(kind))
            if round_:  # the first one warms up
                times[kind].append(seconds)
    for kind, seconds in times.items():
        figures[kind] = {"seconds": statistics.median(seconds), "fastest": min(seconds)}
        figures[kind]["tflop"] = bench.tflop(kind)
    if args.batch:
        for kind in FAST:
            runs = [(bench.step(kind, args.batch), 1), (bench.step(kind), args.batch)]
            pairs = [
                [sum(bench.seconds(run) for _ in range(times)) for run, times in runs]
                for _ in range(args.rounds)
            ]
            figures[kind]["batch"] = statistics.median(together / apart for together, apart in pairs)
    del bench
    for kind in tqdm(kinds, desc="memory", disable=None):
        words = [sys.executable, "-m", "benchmarks.steps", *argv, "--memory-of", kind]
        out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        figures[kind] |= json.loads(out.splitlines()[-1])
    report(args, figures)
    if args.json:
        args.json.write_text(
            json.dumps({"arguments": vars(args) | {"json": None}, "figures": figures}, indent=1)
        )


def report(args: argparse.Namespace, figures: dict[str, dict[str, float]]) -> None:
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(
        f"{args.config}, latent {args.latent}, {args.dtype} on {args.device}; {platform.machine()}, {machine}"
    )
    print(
        "| one step | seconds | / plain | TFLOP | peak GiB | its plain equations | memory | 8 / 8 singles |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind, row in figures.items():
        oracle = figures.get("plain equations" if kind == "plain" else f"{kind}, plain equations")
        slower = f"{oracle['seconds'] / row['seconds']:.2f} x slower" if oracle else ""
        memory = f"{row['peak'] / oracle['peak']:.2f} of theirs" if oracle else ""
        batch = f"{row['batch']:.2f}" if "batch" in row else ""
        ratio = row["seconds"] / figures["plain"]["seconds"]
        times = f"{row['seconds']:.3f} | {ratio:.2f} | {row['tflop']:.3f} | {row['peak']:.2f}"
        print(f"| {kind} | {times} | {slower} | {memory} | {batch} |")


if __name__ == "__main__":
    sys.exit(finish("benchmarks.steps", None, main))
