"""How fast the benchmark runs: triplets per hour of each method, the share of that time in which the networks
compute, and pictures per second of each metric.

    python -m benchmarks.evaluation                                   # the methods of the miniature tables
    python -m benchmarks.evaluation --methods painta bld --limit 48
    python -m benchmarks.evaluation --config table2 --coco DIR

The first batch of everything loads the models and is not counted. Of the rest, all time counts in which something
else than UNet, text encoder, autoencoder and the gradient through the UNet runs and they wait: reading, resizing,
samplers, joining, saving. The share tells how well it is hidden, or how little it is.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from eval.config import Config
from eval.generate import generate
from eval.metrics import make_metric, read_metrics
from eval.models import computing_dtype
from eval.runs import Run
from eval.score import of_run, score
from hdpainter.console import Parser, finish
from hdpainter.models.devices import usable_device
from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.modules.encoders.modules import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder
from ldm.util import UserError

NETWORKS = (
    (UNetModel, "begin"),
    (UNetModel, "advance"),
    (UNetModel, "finish"),
    (torch.autograd, "grad"),
    (FrozenCLIPEmbedder, "encode_tokens"),
    (FrozenOpenCLIPEmbedder, "encode_tokens"),
    (AutoencoderKL, "encode"),
    (AutoencoderKL, "decode"),
)


class NetworkClock:
    """Context manager: notes when the networks of this process compute.

    spans: (start, end) of every call, in ns since 1970 as the times of files are.
    """

    def __init__(self, device: torch.device):
        self.spans: list[tuple[int, int]] = []
        self._wait = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
        self._stack = ExitStack()

    def __enter__(self) -> "NetworkClock":
        for owner, name in NETWORKS:
            self._stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name))))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            self._wait()
            start = time.time_ns()
            result = call(*args, **options)
            self._wait()
            self.spans.append((start, time.time_ns()))
            return result

        return timed

    def between(self, start: int, end: int) -> int:
        """The ns from `start` to `end` in which they compute."""
        return sum(max(min(b, end) - max(a, start), 0) for a, b in self.spans)


def time_method(run: Run, method: str, batch: int, clock: NetworkClock) -> tuple[float, float]:
    """(results per hour, share of that time in which the networks compute), the first batch left out."""
    saved = sorted(run.result_path(method, index).stat().st_mtime_ns for index in run.done(method))
    start, *rest = saved[batch - 1 :]
    time_taken = rest[-1] - start
    return 3600e9 * len(rest) / time_taken, clock.between(start, rest[-1]) / time_taken


def time_metrics(run: Run, method: str, batch: int, device: torch.device, folder: Path) -> dict[str, float]:
    """Pictures per second of each metric of the run's config, the first batch left out."""
    items, rates = of_run(run, method), {}
    for name, parameters in read_metrics(run.info["metrics"]).items():
        metric = make_metric(name, parameters, device)
        times = [time.perf_counter()]
        for part in (items[:batch], items):  # the second time, only what is new
            score(part, metric, folder / f"{name}.csv", batch_size=batch)
            times.append(time.perf_counter())
        _, second = (end - start for start, end in pairwise(times))
        rates[name] = (len(items) - batch) / second
    return rates


def main(argv: list[str]) -> int:
    """Run the config's methods and metrics and print two tables."""
    parser = Parser(
        prog="python -m benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="mini-speed", help="YAML file, or a name in configs/eval")
    parser.add_argument("--coco", help="folder of the dataset (default: the config's)")
    parser.add_argument("--methods", nargs="+", help="only these of the config")
    parser.add_argument("--limit", type=int, help="triplets, at least three batches (default: three batches)")
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu (default: the first that is there)")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 (default: what the device computes fast)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = Config.load(args.config, out=str(Path(folder) / "run"), coco=args.coco, dtype=args.dtype)
        batch, device = config.batch_size, usable_device(args.device)
        limit = 3 * batch if args.limit is None else args.limit
        if limit < 3 * batch:
            raise UserError(f"--limit must be at least {3 * batch}, three batches")
        names = [entry.name for entry in config.runs(args.methods)]
        with NetworkClock(device) as clock:
            generate(config, devices=[str(device)], limit=limit, methods=names)
        run = Run.open(config.out)
        machine = f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
        made = f"{limit} triplets at {run.size} px in batches of {batch}"
        print(f"{args.config}, {made}, {computing_dtype(str(device), config.dtype)} on {device}; {machine}\n")
        print("| method | triplets per hour | share of time in the networks |\n|---|---|---|")
        for name in names:
            rate, share = time_method(run, name, batch, clock)
            print(f"| {name} | {rate:.0f} | {share:.3f} |")
        print("\n| metric | pictures per second |\n|---|---|")
        for name, rate in time_metrics(run, names[0], batch, device, Path(folder) / "scores").items():
            print(f"| {name} | {rate:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(finish("benchmarks.evaluation", None, main))
