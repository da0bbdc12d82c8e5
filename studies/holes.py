"""Fill free holes in held-out scenes, where a person might add something: a sheet of all fills, and a judge.

    python -m studies.holes --out outputs/holes [--methods stable-inpainting hd-painter-release] [--each 5]

For each of the 20 categories `--each` holes, on ground where such an object makes sense, filled for its name in
stage 1 alone. The judge is the detector of the miniature tables, which rewards colour and texture: look at the
sheets too.
"""

import argparse
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from eval.metrics import make_metric, read_metrics
from hdpainter.console import Parser, finish
from hdpainter.files import make_folder, write_json
from hdpainter.images import save_png
from hdpainter.mini.examples import detail
from hdpainter.mini.holes import FreeHole, free_holes
from hdpainter.mini.training.base import tile
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.models.registry import PipelineSpec
from hdpainter.pipeline import HDPainter
from ldm.util import UserError

CELL, HEAD, COLUMNS, BATCH = 110, 14, 10, 10
METHODS = ["stable-inpainting", "painta", "hd-painter-release"]


def fill(
    painter: HDPainter, holes: list[FreeHole], method: str, size: int, **adjustments
) -> list[np.ndarray]:
    """The holes filled for their categories' names, RGB uint8 [size, size, 3]; a scene's number is its seed."""
    pictures: list[np.ndarray] = []
    for start in range(0, len(holes), BATCH):
        part = holes[start : start + BATCH]
        results = painter(
            [hole.scene.render(size) for hole in part],
            [hole.mask.astype(np.uint8) * 255 for hole in part],
            [hole.category.name for hole in part],
            method=method,
            seed=[hole.index for hole in part],
            **adjustments,
        )
        pictures += [np.asarray(result.image) for result in results]
        print(f"{method}: {len(pictures)} of {len(holes)}", file=sys.stderr, flush=True)
    return pictures


def sheet(pictures: list[np.ndarray], holes: list[FreeHole], hits: list[int]) -> Image.Image:
    """All fills, each cut out around its hole under its category's name, in red where the judge misses it."""
    cells = np.full((len(holes), CELL + HEAD, CELL, 3), 255, np.uint8)
    for cell, picture, hole, hit in zip(cells, pictures, holes, hits, strict=True):
        cut = detail(picture, hole.mask.astype(np.uint8))
        cell[HEAD:] = cv2.resize(cut, (CELL, CELL), interpolation=cv2.INTER_AREA)
        colour = (0, 0, 0) if hit else (200, 0, 0)
        cv2.putText(cell, hole.category.name, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return Image.fromarray(tile(cells, COLUMNS))


def by_category(holes: list[FreeHole], hits: list[int]) -> dict[str, int]:
    """How many of each category's holes the judge approves."""
    return {
        category.name: sum(hit for hole, hit in zip(holes, hits, strict=True) if hole.category is category)
        for category in CATEGORIES
    }


def with_weights(model: str, weights: Path | None) -> PipelineSpec:
    """The pipeline, with other weights of its stage 1 if there are any."""
    spec = PipelineSpec.load(model)
    return replace(spec, inpainting=replace(spec.inpainting, checkpoint=str(weights))) if weights else spec


def setting(text: str) -> tuple[str, object]:
    """The name and the value of "name=value"."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: give name=value, such as guidance_scale=4")
    return name, yaml.safe_load(value)


def main(argv: list[str]) -> None:
    """Fill the holes by each method and write a sheet of each and figures.json."""
    parser = Parser(
        prog="python -m studies.holes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for sheets and figures")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    parser.add_argument("--each", type=int, default=5, help="holes of each category (default: %(default)s)")
    parser.add_argument(
        "--first", type=int, default=0, help="held-out scene to begin with (default: %(default)s)"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of all methods")
    parser.add_argument("--model", default="mini")
    parser.add_argument(
        "--weights", type=Path, help="other weights of the inpainting model, to choose among some"
    )
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    args = parser.parse_args(argv)
    adjustments = dict(setting(text) for text in args.set)
    spec = with_weights(args.model, args.weights)
    painter = HDPainter.from_config(spec, args.device, args.dtype, superres=False)
    size = spec.size
    holes = [hole for c in CATEGORIES for hole in islice(free_holes(c, size, first=args.first), args.each)]
    judge = make_metric("accuracy", read_metrics("metrics-mini")["accuracy"])
    make_folder(args.out)
    figures = {"holes": len(holes), "settings": adjustments}
    for method in args.methods:
        pictures = fill(painter, holes, method, size, **adjustments)
        names, masks = [hole.category.name for hole in holes], [hole.mask for hole in holes]
        hits = judge(pictures, masks, names, pictures)["acc"]
        save_png(sheet(pictures, holes, hits), args.out / f"{method}.png")
        figures[method] = {"accuracy": 100 * float(np.mean(hits)), "found": by_category(holes, hits)}
        print(f"{method}: {figures[method]['accuracy']:.1f}% of {len(holes)}")
        write_json(args.out / "figures.json", figures)


if __name__ == "__main__":
    sys.exit(finish("studies.holes", None, main))
