"""Time and peak memory of loading a checkpoint, against a plain sequential read of its file.

    python -m benchmarks.loading --config configs/models/sd2-inpainting.yaml --checkpoint FILE [--dtype bfloat16]

Every measurement runs in a fresh process after the file was dropped from the page cache (`cold`) or read into it
(`warm`). Loading leaves weights memory-mapped, so the time to be compared is that of loading *and* touching
every weight once. Memory is the peak resident size above that of the process after its imports.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from hdpainter.console import Parser, finish

BLOCK = 16 << 20


def read(args: argparse.Namespace) -> dict[str, float]:
    """The plain read."""
    buffer = bytearray(BLOCK)
    start = time.perf_counter()
    with args.checkpoint.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return {"seconds": time.perf_counter() - start}


def load(args: argparse.Namespace) -> dict[str, float]:
    """The model, and one pass over its weights."""
    import torch

    from hdpainter.configs import read_model_config
    from hdpainter.models.devices import dtype_named
    from ldm.checkpoint import build, load_into

    torch.set_num_threads(1)
    config = read_model_config(args.config)
    build(config)  # for its imports, which are not what is measured
    before = peak_bytes()
    start = time.perf_counter()
    model = build(config)
    built = time.perf_counter()
    load_into(model, args.checkpoint, args.config.name, dtype=dtype_named(args.dtype) if args.dtype else None)
    loaded = time.perf_counter()
    for parameter in model.parameters():
        parameter.detach().reshape(-1).view(torch.uint8)[::4096].sum()  # one byte of every page
    end = time.perf_counter()
    return {
        "build": built - start,
        "load": loaded - built,
        "touch": end - loaded,
        "seconds": end - start,
        "bytes": peak_bytes() - before,
        "peak": peak_bytes(),
    }


def peak_bytes() -> int:
    """Peak resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(what: str, argv: list[str], checkpoint: Path, cold: bool) -> dict[str, float]:
    """Run this module's function `what` in a fresh process."""
    with checkpoint.open("rb") as file:
        if cold:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(BLOCK):
                pass
    command = [sys.executable, "-m", "benchmarks.loading", *argv, "--only", what]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(argv: list[str]) -> None:
    """Measure and print."""
    parser = Parser(
        prog="python -m benchmarks.loading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="YAML")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dtype", help="default: as in the file")
    parser.add_argument("--repeat", type=int, default=3, help="the median of this many is taken")
    parser.add_argument("--only", choices=("read", "load"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.only:
        print(json.dumps({"read": read, "load": load}[args.only](args)))
        return
    size = args.checkpoint.stat().st_size
    print(f"{args.checkpoint.name}: {size / 1e9:.2f} GB, weights loaded as {args.dtype or 'they are'}")
    for cold in (True, False):
        runs = [
            {what: measure(what, argv, args.checkpoint, cold) for what in ("read", "load")}
            for _ in range(args.repeat)
        ]
        reading, loading = (
            sorted((run[what] for run in runs), key=lambda figures: figures["seconds"])[args.repeat // 2]
            for what in ("read", "load")
        )
        parts = ", ".join(f"{part} {loading[part]:.2f}" for part in ("build", "load", "touch"))
        print(
            f"{'cold' if cold else 'warm'}: read {reading['seconds']:.2f} s; loaded and touched in "
            f"{loading['seconds']:.2f} s ({parts}), {loading['seconds'] / reading['seconds']:.2f} x reading; "
            f"memory {loading['bytes'] / 1e9:.2f} GB, {loading['bytes'] / size:.2f} x the file "
            f"(process {loading['peak'] / 1e9:.2f} GB, {loading['peak'] / size:.2f} x)"
        )


if __name__ == "__main__":
    sys.exit(finish("benchmarks.loading", None, main))
