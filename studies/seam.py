"""Draw docs/images/seam.png: the two ways to join a fill with its surroundings, on a strongly shifted one.

Below each picture, how much the known pixels changed (black: much); grey is what was to be filled.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hdpainter.blend import blend
from hdpainter.console import Parser, finish
from hdpainter.images import save_png
from hdpainter.mini.world.toycoco import describe_scene

SIZE, CELL, PAD, HEAD = 512, 300, 10, 30


def main(argv: list[str]) -> None:
    """Draw it."""
    parser = Parser(prog="python -m studies.seam", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images/seam.png"), help="(default: %(default)s)"
    )
    args = parser.parse_args(argv)
    original = describe_scene("val", 12).render(SIZE)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.ellipse(mask, (256, 300), (150, 110), 20, 0, 360, 255, -1)
    # A fill in other light: what a diffusion model's colour drift looks like, only stronger.
    fill = np.clip(original * 0.8 + np.array([45, 25, -15]), 0, 255).astype(np.uint8)
    inside = mask > 0
    panels = {
        "fill, pasted": np.where(inside[..., None], fill, original),
        "exact (default)": blend(original, fill, inside, "exact"),
        "blended (release)": blend(original, fill, inside, "blended"),
    }
    canvas = np.full((2 * (CELL + HEAD) + PAD, PAD + 3 * (CELL + PAD), 3), 255, np.uint8)
    for column, (title, picture) in enumerate(panels.items()):
        left = PAD + column * (CELL + PAD)
        change = np.abs(picture.astype(int) - original).max(2)
        known = int((change[~inside] > 0).sum())
        shown = np.where(inside, 90, np.minimum(change * 8, 255)).astype(np.uint8)
        shown[:2] = shown[-2:] = shown[:, :2] = shown[:, -2:] = 90
        rows = [
            (title, picture),
            (f"known pixels changed: {known:,}", np.repeat(255 - shown[..., None], 3, 2)),
        ]
        for row, (words, image) in enumerate(rows):
            top = row * (CELL + HEAD) + HEAD
            cv2.putText(
                canvas, words, (left, top - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA
            )
            small = Image.fromarray(np.ascontiguousarray(image)).resize(
                (CELL, CELL), Image.Resampling.LANCZOS
            )
            canvas[top : top + CELL, left : left + CELL] = small
    save_png(Image.fromarray(canvas), args.out)


if __name__ == "__main__":
    sys.exit(finish("studies.seam", None, main))
