"""Many results of one method on one sheet, each cut out around its mask, for looking at by eye.

    python -m studies.fills outputs/mini-other hd-painter-release --out fills.jpg [--first 100]

The label that was asked for is above each.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from eval.runs import Run
from hdpainter.console import Parser, finish
from hdpainter.files import make_folder, replacing
from hdpainter.mini.examples import detail
from ldm.util import UserError

CELL, HEAD, COLUMNS = 110, 16, 10


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
        cell = Image.fromarray(detail(run.result(method, i), run.mask(i)))
        canvas.paste(cell.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y + HEAD))
    return canvas


def main(argv: list[str]) -> int:
    """Write the sheet."""
    parser = Parser(prog="python -m studies.fills", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a results folder of `python -m eval generate`")
    parser.add_argument("method", help="a method of it")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, .jpg or .png")
    parser.add_argument("--first", type=int, default=100, help="how many samples at most (default: 100)")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--out {args.out}: give a file that ends in .jpg or .png")
    run = Run.open(args.run)
    run.method(args.method)
    picture = sheet(run, args.method, args.first)
    make_folder(args.out.parent)
    with replacing(args.out) as part:
        picture.save(part, quality=88)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(finish("studies.fills", None, main))
