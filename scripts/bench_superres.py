"""Time of stage 2 whole, cropped to the mask and tiled, and how far the results differ in the mask.

    python scripts/bench_superres.py                       # the miniature
    python scripts/bench_superres.py --model sd2 --device cuda

The picture is a scene of toy COCO at the model's largest size, the low-resolution completion is the scene itself.
"""

import argparse
import time

import numpy as np
from demo import example
from PIL import Image

from hdpainter.pipeline import HDPainter
from hdpainter.settings import Method
from hdpainter.superres import SCALE, SuperResolution

CHOICES = {
    "whole picture": {},
    "crop, margin 16": {"crop_margin": 16},
    "crop, margin 64": {"crop_margin": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scene", type=int, default=0)
    args = parser.parse_args()
    painter = HDPainter.from_config(args.model, args.device, args.dtype)
    spec = painter.models.spec
    stage = SuperResolution(painter.models.upscaler, spec.multiple)
    picture, mask, prompt = example(args.scene, spec.max_size)
    low = np.array(Image.fromarray(picture).resize((spec.max_size // SCALE,) * 2, Image.Resampling.LANCZOS))
    inside = mask > 0
    print(f"{args.model}, {spec.max_size} px, {args.steps} steps, mask {inside.mean():.0%} of the picture")
    print("| stage 2 | seconds | / whole | mean difference in the mask, grey levels | largest |")
    print("|---|---|---|---|---|")
    whole = None
    tile = f"tiles of {spec.max_size // 2}"
    for name, options in {**CHOICES, tile: {"tile": spec.max_size // 2}}.items():
        settings = Method.load("hd-painter").override(superres={"steps": args.steps, **options}).superres
        start = time.perf_counter()
        result = stage(picture, low, inside, prompt, settings).astype(int)
        seconds = time.perf_counter() - start
        whole = whole or (seconds, result)
        off = np.abs(result - whole[1])[inside]
        print(f"| {name} | {seconds:.1f} | {seconds / whole[0]:.2f} | {off.mean():.2f} | {off.max()} |")


if __name__ == "__main__":
    main()
