"""Fill the samples of a results folder once, and join each fill with its picture in several ways.

    python -m studies.joining RUN                   # a results folder of `python -m eval generate`
    python -m studies.joining RUN --samples 24 --method hd-painter --out DIR

A folder for each way, of pictures named as in RUN. `configs/eval/mini-joining.yaml` scores them and has all
commands.

    beside    exact, matched to the known pixels right beside the mask
    pasted    nothing is matched
    exact     matched a latent further out: what this program does
    blended   the authors' release's blending, which moves known pixels too

Prompts are the benchmark's, seeds those of a benchmark that does not set any. Started again, it makes what is
missing.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from eval.config import Seeds, seed_of
from eval.models import model_identity
from eval.runs import Run, Sample
from hdpainter.blend import blend, membrane_blend
from hdpainter.console import Parser, finish
from hdpainter.files import digest, make_folder, write_json
from hdpainter.images import save_png
from hdpainter.jobs.results import locked
from hdpainter.pipeline import HDPainter
from hdpainter.settings import Method
from ldm.util import UserError

WAYS = {
    "beside": lambda original, fill, mask: membrane_blend(original, fill, mask, reach=0),
    "pasted": lambda original, fill, mask: np.where(mask[..., None], fill, original),
    "exact": lambda original, fill, mask: blend(original, fill, mask, "exact"),
    "blended": lambda original, fill, mask: blend(original, fill, mask, "blended"),
}


def fills(painter: HDPainter, run: Run, samples: list[Sample], method: str) -> list[np.ndarray]:
    """What the method paints for the samples before it is joined with anything, RGB uint8 [H, W, 3] each."""
    results = painter(
        [run.image(sample.index) for sample in samples],
        [run.mask(sample.index) for sample in samples],
        [sample.prompt for sample in samples],
        method=method,
        seed=[seed_of(Seeds.base, Seeds.per_sample, sample.index) for sample in samples],
        size=run.size,
        superres=False,
    )
    return [np.array(result.low_res) for result in results]


def claim(out: Path, scratch: Path, facts: dict[str, Any]) -> None:
    """Write down what the fills in `out` are of. Raises UserError where they are of something else."""
    path = out / "study.json"
    if path.is_file() and digest(json.loads(path.read_text(encoding="utf-8"))) != digest(facts):
        raise UserError(
            f"{out} has fills of other samples, methods or weights: give another --out, or delete it"
        )
    write_json(path, facts, scratch)


def main(argv: list[str]) -> int:
    """Write the folders."""
    parser = Parser(
        prog="python -m studies.joining",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="results folder, for its samples")
    parser.add_argument("--out", type=Path, default=Path("outputs/joining"), help="(default: %(default)s)")
    parser.add_argument("--samples", type=int, help="only the first N")
    parser.add_argument("--method", default="painta", help="(default: %(default)s)")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--batch-size", type=int, default=8, help="fills at once (default: %(default)s)")
    parser.add_argument("--device")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 (default: what the device computes fast)")
    args = parser.parse_args(argv)
    for name in ("samples", "batch_size"):
        if (given := getattr(args, name)) is not None and given < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {given}")
    run = Run.open(args.run)
    facts = {
        "samples": run.info["fingerprint"],
        "method": dataclasses.asdict(Method.load(args.method)),
        "model": model_identity(args.model),
        "dtype": args.dtype,
    }
    with locked(args.out) as scratch:
        claim(args.out, scratch, facts)
        folders = {way: args.out / way for way in WAYS}
        for folder in folders.values():
            make_folder(folder)
        todo = [
            sample
            for sample in run.triplets[: args.samples]
            if not all((folder / f"{sample.index:06d}.png").is_file() for folder in folders.values())
        ]
        if todo:
            painter = HDPainter.from_config(args.model, args.device, args.dtype, superres=False)
        for start in tqdm(range(0, len(todo), args.batch_size), unit="batch", disable=None):
            samples = todo[start : start + args.batch_size]
            for sample, fill in zip(samples, fills(painter, run, samples, args.method), strict=True):
                original, mask = run.image(sample.index), run.mask(sample.index)
                for way, join in WAYS.items():
                    joined = Image.fromarray(join(original, fill, mask))
                    save_png(joined, folders[way] / f"{sample.index:06d}.png", scratch=scratch)
    print(f"{len(todo)} fills joined in {len(WAYS)} ways -> {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(finish("studies.joining", None, main))
