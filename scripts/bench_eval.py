"""How fast the benchmark runs: results per hour of each method, the share of time in which the models work, and
pictures per second of each metric.

    python scripts/bench_eval.py                                   # the miniature's Table 2
    python scripts/bench_eval.py --config mini-table1 --limit 24

The first batch of everything loads the models and is not counted. Reading, saving and counting happen while the
models work; the share tells how well that hides them.
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from eval.config import Config  # noqa: E402
from eval.generate import generate  # noqa: E402
from eval.metrics import make_metric, read_metrics  # noqa: E402
from eval.models import computing_dtype  # noqa: E402
from eval.runs import Run  # noqa: E402
from eval.score import of_run, score  # noqa: E402
from hdpainter.console import Parser, finish  # noqa: E402
from hdpainter.pipeline import usable_device  # noqa: E402
from ldm.util import UserError  # noqa: E402


def time_method(run: Run, method: str, batch: int) -> tuple[float, float]:
    """(results per hour, share of that time in which the method's models worked), the first batch left out."""
    rows = run.manifest(method)
    saved = sorted((run.result_path(method, index).stat().st_mtime_ns, index) for index in rows)
    (start, _), *rest = saved[batch - 1 :]
    seconds = (rest[-1][0] - start) / 1e9
    return 3600 * len(rest) / seconds, sum(rows[index]["seconds"] for _, index in rest) / seconds


def time_metrics(run: Run, method: str, batch: int, device: str | None, folder: Path) -> dict[str, float]:
    """Pictures per second of each metric of the run's config, the first batch left out."""
    items, rates = of_run(run, method), {}
    for name, parameters in read_metrics(run.info["metrics"]).items():
        metric = make_metric(name, parameters, usable_device(device))
        times = [time.perf_counter()]
        for part in (items[:batch], items):  # the second time, only what is new
            score(part, metric, folder / f"{name}.csv", batch_size=batch)
            times.append(time.perf_counter())
        _, second = (end - start for start, end in pairwise(times))
        rates[name] = (len(items) - batch) / second
    return rates


def main(argv: list[str]) -> int:
    """Run the config's methods and metrics and print two tables."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mini-table2", help="YAML file, or a name in configs/eval")
    parser.add_argument("--coco", help="folder of the dataset (default: the config's)")
    parser.add_argument(
        "--limit", type=int, default=48, help="triplets, at least three batches (default: 48)"
    )
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu (default: the first that is there)")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 (default: what the device computes fast)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = Config.load(args.config, out=str(Path(folder) / "run"), coco=args.coco, dtype=args.dtype)
        if args.limit < 3 * config.batch_size:
            raise UserError(f"--limit must be at least {3 * config.batch_size}, three batches")
        device = str(usable_device(args.device))
        names = [entry.name for entry in config.entries() if not entry.why_not]
        generate(config, devices=[device], limit=args.limit)
        run = Run.open(config.out)
        machine = f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
        made = f"{args.limit} triplets at {run.size} px in batches of {config.batch_size}"
        print(f"{args.config}, {made}, {computing_dtype(device, config.dtype)} on {device}; {machine}\n")
        print("| method | results per hour | share of time in the models |\n|---|---|---|")
        for name in names:
            rate, share = time_method(run, name, config.batch_size)
            print(f"| {name} | {rate:.0f} | {share:.3f} |")
        print("\n| metric | pictures per second |\n|---|---|")
        for name, rate in time_metrics(
            run, names[0], config.batch_size, device, Path(folder) / "scores"
        ).items():
            print(f"| {name} | {rate:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(finish("bench_eval.py", None, main))
