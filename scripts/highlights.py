"""What the paper brings, on one of the demo's examples: a strip of three pairs, and how the pictures came about.

- PAIntA against prompt neglect: what Stable Inpainting makes of the prompt, and the same with PAIntA.
- RASG: how well the prompt's words find the mask, σ(A) of Eq. 9 at t near 500, without RASG and with it.
- Super-resolution: the hole's surroundings by a bicubic filter, and by stage 2.

highlights.png is the strip, x0.gif the predicted picture at each step. Nothing is chosen by looking at results:
an example's number is its seed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from hdpainter.console import Parser, finish
from hdpainter.explain import Explanation, explain
from hdpainter.explain.animation import animate, save_gif
from hdpainter.explain.panels import COLOURS
from hdpainter.files import make_folder
from hdpainter.images import save_png
from hdpainter.jobs.progress import Progress
from hdpainter.mini.examples import detail, example, outlined, sheet
from hdpainter.pipeline import HDPainter
from ldm.util import UserError

PLAIN, PAINTA, RASG, FULL = METHODS = ("stable-inpainting", "painta", "rasg", "hd-painter")
TITLES = (
    "input and mask",
    "Stable Inpainting",
    "with PAIntA",
    "attention to the prompt",
    "guided by RASG",
    "x4: bicubic",
    "x4: HD-Painter",
)
CELL = 240


def main(words: list[str]) -> None:
    """Make the strip and the animation."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=int, default=0, help="its number, and its seed (default: 0)")
    parser.add_argument("--steps", type=int, help="of stage 1 (default: the methods')")
    parser.add_argument("--out", type=Path, default=Path("outputs/highlights"))
    args = parser.parse_args(words)
    if args.example < 0:
        raise UserError(f"--example {args.example}: examples have the numbers 0, 1, 2, ...")
    make_folder(args.out)
    painter = HDPainter.from_config("mini")
    picture, mask, prompt = example(args.example, painter.models.spec.max_size)
    steps = {} if args.steps is None else {"steps": args.steps}
    with Progress(len(METHODS) + 1) as progress:
        seen = explain(
            painter, picture, mask, prompt, METHODS, args.example, frames=12, progress=progress.step, **steps
        )
        progress.finish("stage 1", len(METHODS))
        progress.start("stage 2")
        final = painter(
            picture, mask, prompt, method=FULL, seed=args.example, progress=progress.step, **steps
        ).image
        progress.finish("stage 2", 1)
    low = seen.methods[FULL].result.image.resize(final.size, Image.Resampling.BICUBIC)
    row = [
        outlined(picture, mask),
        *(np.asarray(seen.methods[name].result.image) for name in (PLAIN, PAINTA)),
        *(_agreement(seen, name, outlined(picture, mask)) for name in (PLAIN, RASG)),
        *(detail(np.asarray(image), mask) for image in (low, final)),
    ]
    save_png(sheet(TITLES, [row], [f'"{prompt}"'], CELL), args.out / "highlights.png")
    save_gif(animate(seen), args.out / "x0.gif")
    print(f"{args.out / 'highlights.png'}\n{args.out / 'x0.gif'}")


def _agreement(seen: Explanation, name: str, picture: np.ndarray) -> np.ndarray:
    """σ(A) at the finest of RASG's levels and the middle of the way, laid over the picture."""
    trace = seen.methods[name].trace
    middle = int(np.abs(trace.timesteps - 500).argmin())
    scores = trace.agreement[min(trace.agreement)][middle]
    height, width = picture.shape[:2]
    heat = Image.fromarray(COLOURS(scores.clip(0, 1), bytes=True)[..., :3])
    heat = heat.resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(Image.blend(Image.fromarray(picture), heat, 0.75))


if __name__ == "__main__":
    sys.exit(finish("highlights", None, main))
