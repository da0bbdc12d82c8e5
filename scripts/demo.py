"""Add something to held-out scenes of toy COCO, by Stable Inpainting and by HD-Painter, and compare on one sheet.

The pictures are the first that have an empty place where something of the 20 categories makes sense, and what is
added is drawn among these with the scene's number as seed: nothing was chosen by looking at results.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from hdpainter.console import Parser, finish
from hdpainter.files import make_folder
from hdpainter.images import save_png
from hdpainter.jobs.progress import Progress
from hdpainter.mini.examples import detail, example, outlined, sheet
from hdpainter.pipeline import HDPainter
from ldm.util import UserError

SHOWN = {"stable-inpainting": "Stable Inpainting", "hd-painter": "HD-Painter"}
TITLES = ("input and mask", *SHOWN.values(), "HD-Painter, detail")


def main(words: list[str]) -> None:
    """Draw the scenes, fill them and write everything."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--examples", type=int, nargs="+", default=[0, 1, 2], help="their numbers, and their seeds"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    args = parser.parse_args(words)
    if min(args.examples) < 0:
        raise UserError(f"--examples {min(args.examples)}: examples have the numbers 0, 1, 2, ...")
    make_folder(args.out)
    painter = HDPainter.from_config("mini")
    examples = [example(number, painter.models.spec.max_size) for number in args.examples]
    folders = [args.out / f"example{number}" for number in args.examples]
    for folder, (picture, mask, _) in zip(folders, examples, strict=True):
        save_png(Image.fromarray(picture), folder / "image.png")
        save_png(Image.fromarray(mask), folder / "mask.png")
    rows = [[outlined(picture, mask)] for picture, mask, _ in examples]
    captions = [f'"{prompt}"' for _, _, prompt in examples]
    first, others = slice(0, 1), slice(1, None)  # something to see early; the others at once are faster
    with Progress(len(SHOWN) * len(examples)) as progress:
        for part in filter(examples.__getitem__, (first, others)):
            pictures, masks, prompts = (list(values) for values in zip(*examples[part], strict=True))
            seeds = args.examples[part]
            for method in SHOWN:
                job = f"example {', '.join(map(str, seeds))}: {method}"
                progress.start(job)
                results = painter(pictures, masks, prompts, method=method, seed=seeds, progress=progress.step)
                for folder, row, result in zip(folders[part], rows[part], results, strict=True):
                    save_png(result.image, folder / f"{method}.png", result.metadata)
                    row.append(np.array(result.image))
                progress.finish(job, len(results))
            for row, mask in zip(rows[part], masks, strict=True):
                row.append(detail(row[-1], mask))
            done = rows[: part.stop]
            save_png(sheet(TITLES, done, captions[: len(done)]), args.out / "sheet.png")
    print(f"Comparison: {args.out / 'sheet.png'}; pictures and their settings: {args.out}/example*/")
    print("Your own photo, with the public Stable Diffusion 2 checkpoints (about 9 GB):")
    if not shutil.which("hdpainter"):
        print("  source .venv/bin/activate")
    print("  hdpainter models download sd2")
    print('  hdpainter inpaint --model sd2 --image photo.jpg --mask mask.png --prompt "boat" --out boat.png')


if __name__ == "__main__":
    sys.exit(finish("demo", None, main))
