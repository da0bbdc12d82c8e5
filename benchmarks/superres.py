"""Time of stage 2 whole, cropped to the mask and in tiles, and what that changes in the mask.

    python -m benchmarks.superres                       # the miniature
    python -m benchmarks.superres --model sd2 --device cuda

The pictures are scenes of toy COCO at the model's largest size. The low-resolution completion is the scene
itself, so that PSNR tells how much of the true detail comes back.
"""

import argparse
import sys
import time
from collections import defaultdict

import numpy as np
from PIL import Image

from hdpainter.console import Parser, finish
from hdpainter.mini.examples import example
from hdpainter.pipeline import HDPainter
from hdpainter.settings import Method
from hdpainter.superres import SCALE, SuperResolution


def psnr(true: np.ndarray, image: np.ndarray, mask: np.ndarray) -> float:
    """In dB, of uint8 pictures [H, W, 3] where the mask is."""
    return 10 * np.log10(255**2 / np.mean((true[mask].astype(float) - image[mask]) ** 2))


def main(argv: list[str]) -> None:
    """Run stage 2 in all ways and print the table."""
    parser = Parser(
        prog="python -m benchmarks.superres",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=6)
    args = parser.parse_args(argv)
    painter = HDPainter.from_config(args.model, args.device, args.dtype)
    spec = painter.models.spec
    stage = SuperResolution(painter.models.upscaler, spec.multiple)
    method = Method.load("hd-painter").override({"superres.steps": args.steps})
    choices = {"whole picture": {}}
    choices |= {f"crop, margin {margin}": {"superres.crop_margin": margin} for margin in (16, 32, 64)}
    tile = max(spec.max_size // 2, 256)  # the smallest that there is
    choices |= {f"tiles of {tile}": {"superres.tile": tile}}
    found, shares, plain = defaultdict(list), [], []
    for scene in range(args.scenes):
        picture, mask, prompt = example(scene, spec.max_size)
        small = Image.fromarray(picture).resize((spec.max_size // SCALE,) * 2, Image.Resampling.LANCZOS)
        low, inside = np.array(small), mask > 0
        bicubic = np.array(small.resize((spec.max_size,) * 2, Image.Resampling.BICUBIC))
        shares.append(inside.mean())
        plain.append(psnr(picture, bicubic, inside))
        whole = None
        for name, options in choices.items():
            settings = method.override(options).superres
            start = time.perf_counter()
            result = stage(picture, low, inside, prompt, settings)
            seconds = time.perf_counter() - start
            whole = result if whole is None else whole
            off = np.abs(result.astype(int) - whole)[inside].mean()
            found[name].append((seconds, psnr(picture, result, inside), off))
        print(f"scene {scene + 1} of {args.scenes}", flush=True)
    print(
        f"{args.model}, {spec.max_size} px, {args.steps} steps, masks {np.mean(shares):.0%} of the picture;"
    )
    print(f"enlarged by a bicubic filter: {np.mean(plain):.1f} dB")
    print("| stage 2 | seconds | / whole | PSNR in the mask, dB | difference from whole, grey levels |")
    print("|---|---|---|---|---|")
    means = {name: np.mean(rows, 0) for name, rows in found.items()}
    for name, (seconds, db, off) in means.items():
        ratio = seconds / means["whole picture"][0]
        print(f"| {name} | {seconds:.1f} | {ratio:.2f} | {db:.1f} | {off:.1f} |")


if __name__ == "__main__":
    sys.exit(finish("benchmarks.superres", None, main))
