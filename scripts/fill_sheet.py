"""Many results of one method on one sheet, each cut out around its mask, for looking at by eye.

    python scripts/fill_sheet.py outputs/mini-other hd-painter-release --out fills.jpg [--first 100]

The label that was asked for is above each.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from eval.crops import box
from eval.runs import Run
from ldm.util import UserError

CELL, HEAD, COLUMNS = 110, 16, 10
CONTEXT = 1.5  # sides of the mask's box


def around(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square [CELL, CELL, 3] around the mask, with something of what is beside it."""
    x0, y0, x1, y1 = box(mask)
    height, width = mask.shape
    side = min(int(CONTEXT * max(x1 - x0, y1 - y0)) + 16, height, width)
    left = int(np.clip((x0 + x1 - side) // 2, 0, width - side))
    top = int(np.clip((y0 + y1 - side) // 2, 0, height - side))
    part = image[top : top + side, left : left + side]
    return cv2.resize(part, (CELL, CELL), interpolation=cv2.INTER_AREA if side > CELL else cv2.INTER_CUBIC)


def sheet(run: Run, method: str, first: int) -> Image.Image:
    """The first results of a method in rows of `COLUMNS`. Raises UserError if there are none."""
    indices = [i for i in sorted(run.done(method)) if i < first]
    if not indices:
        raise UserError(f"{run.path} has none of the first {first} results of {method}")
    rows = -(-len(indices) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + HEAD)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, i in enumerate(indices):
        x, y = place % COLUMNS * CELL, place // COLUMNS * (CELL + HEAD)
        draw.text((x + 2, y + 2), run.triplets[i].prompt, fill="black")
        canvas.paste(Image.fromarray(around(run.result(method, i), run.mask(i))), (x, y + HEAD))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a results folder of `python -m eval generate`")
    parser.add_argument("method", help="a method of it")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    parser.add_argument("--first", type=int, default=100, help="how many samples at most (default: 100)")
    args = parser.parse_args()
    try:
        run = Run.open(args.run)
        run.method(args.method)
        picture = sheet(run, args.method, args.first)
    except UserError as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.out, quality=88)
    print(args.out)


if __name__ == "__main__":
    main()
