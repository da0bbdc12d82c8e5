"""Fill a hole in held-out scenes of toy COCO by Stable Inpainting and by HD-Painter, and compare on one sheet.

HD-Painter comes twice: by the paper's equations, and as the authors' code computes it, with far weaker guidance
(docs/paper-vs-release.md).

The scenes are numbers 0, 1, 2, ... of the held-out split. The hole is the convex hull of a scene's largest
object, the prompt the name of a category that the scene does not have, drawn with the scene's number as seed.
"""

import argparse
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hdpainter.console import Parser, finish
from hdpainter.files import make_folder
from hdpainter.images import save_png
from hdpainter.jobs.progress import Progress
from hdpainter.masks import bbox
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import describe_scene
from hdpainter.pipeline import HDPainter
from ldm.util import UserError

METHODS = ("stable-inpainting", "hd-painter", "hd-painter-release")
TITLES = ("input and mask", *METHODS, f"{METHODS[-1]}, detail")


def example(index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Picture [size, size, 3], mask [size, size] (255 = fill) and prompt of an example."""
    scene = describe_scene("val", index)
    visible = scene.visible_masks(size)
    largest = max(visible, key=np.count_nonzero)
    points = np.argwhere(largest)[:, ::-1].astype(np.int32)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points), 255)
    present = {part.category.name for part in scene.objects}
    names = [category.name for category in CATEGORIES if category.name not in present]
    return scene.render(size), mask, str(np.random.default_rng(index).choice(names))


def sheet(rows: list[list[np.ndarray]], captions: list[str], cell: int = 320) -> Image.Image:
    """Rows of pictures in columns under `TITLES`, a caption over each row."""
    pad, head = 10, 30
    height, width = head + len(rows) * (cell + head), pad + len(TITLES) * (cell + pad)
    canvas = np.full((height, width, 3), 255, np.uint8)

    def text(words: str, x: int, y: int) -> None:
        cv2.putText(canvas, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)

    lefts = [pad + column * (cell + pad) for column in range(len(TITLES))]
    for left, title in zip(lefts, TITLES, strict=True):
        text(title, left, 20)
    for index, (pictures, caption) in enumerate(zip(rows, captions, strict=True)):
        top = head + index * (cell + head) + head - 5
        text(caption, pad, top - 7)
        for left, picture in zip(lefts, pictures, strict=True):
            small = Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS)
            canvas[top : top + cell, left : left + cell] = small
    return Image.fromarray(canvas)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the mask's outline in white on black."""
    out = picture.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for colour, width in ((0, 11), (255, 5)):
        cv2.drawContours(out, contours, -1, (colour,) * 3, width, cv2.LINE_AA)
    return out


def detail(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A square crop around the mask, at full resolution."""
    top, bottom, left, right = bbox(mask > 0, margin=16)
    side = min(max(bottom - top, right - left), *mask.shape)
    top, left = min(top, mask.shape[0] - side), min(left, mask.shape[1] - side)
    return picture[top : top + side, left : left + side]


def main(words: list[str]) -> None:
    """Draw the scenes, fill them and write everything."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, nargs="+", default=[0, 1, 2], help="numbers of held-out scenes")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    args = parser.parse_args(words)
    if min(args.scenes) < 0:
        raise UserError(f"--scenes {min(args.scenes)}: scenes have the numbers 0, 1, 2, ...")
    make_folder(args.out)
    painter = HDPainter.from_config("mini")
    examples = [example(index, painter.models.spec.max_size) for index in args.scenes]
    folders = [args.out / f"scene{index}" for index in args.scenes]
    for folder, (picture, mask, _) in zip(folders, examples, strict=True):
        save_png(Image.fromarray(picture), folder / "image.png")
        save_png(Image.fromarray(mask), folder / "mask.png")
    rows = [[outlined(picture, mask)] for picture, mask, _ in examples]
    captions = [f'"{prompt}"' for _, _, prompt in examples]
    first, others = slice(0, 1), slice(1, None)  # something to see early; the others at once are faster
    with Progress(len(METHODS) * len(examples)) as progress:
        for part in filter(examples.__getitem__, (first, others)):
            pictures, masks, prompts = (list(values) for values in zip(*examples[part], strict=True))
            seeds = args.scenes[part]
            for method in METHODS:
                job = f"scene {', '.join(map(str, seeds))}: {method}"
                progress.start(job)
                results = painter(pictures, masks, prompts, method=method, seed=seeds, progress=progress.step)
                for folder, row, result in zip(folders[part], rows[part], results, strict=True):
                    save_png(result.image, folder / f"{method}.png", result.metadata)
                    row.append(np.array(result.image))
                progress.finish(job, len(results))
            for row, mask in zip(rows[part], masks, strict=True):
                row.append(detail(row[-1], mask))
            done = rows[: part.stop]
            save_png(sheet(done, captions[: len(done)]), args.out / "sheet.png")
    print(f"Comparison: {args.out / 'sheet.png'}; pictures and their settings: {args.out}/scene*/")
    print("Your own photo, with the public Stable Diffusion 2 checkpoints (about 9 GB):")
    if not shutil.which("hdpainter"):
        print("  source .venv/bin/activate")
    print("  hdpainter models download sd2")
    print('  hdpainter inpaint --model sd2 --image photo.jpg --mask mask.png --prompt "boat" --out boat.png')


if __name__ == "__main__":
    sys.exit(finish("demo", None, main))
