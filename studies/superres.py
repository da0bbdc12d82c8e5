"""What inpainting-specialised super-resolution gains: with and without Eq. 10, against what bounds it.

    python -m studies.superres                           # the miniature, toy COCO at 1024 px
    python -m studies.superres --model sd2 --device cuda

The completion that is enlarged is the scene itself, made four times smaller, with an object's convex hull as the
mask and its label as the prompt: so what there should be is known. Rows:

    bicubic            the completion enlarged by a bicubic filter, no network
    without Eq. 10     the upscaler as it is
    Eq. 10             the original's latents in the known region at every step, M hard as in the paper
    Eq. 10, soft M     the same with the release's dilated and blurred M
    autoencoder        the scene itself through the upscaler's autoencoder: no latent can be drawn better

Columns, means over the scenes with 95% intervals (normal): PSNR, SSIM and LPIPS in the mask, against the scene;
LPIPS where its weights are here (python -m eval score --metric fidelity --download fetches them). Seam: of the
result pasted into the scene, see `eval.metrics.pixels.Seam`; the last row has the scene's own. PSNR outside: not
pasted.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import cv2
import kornia
import numpy as np
import torch

from eval.metrics.pixels import Fidelity, seam
from hdpainter.console import Parser, finish
from hdpainter.masks import pad_to_multiple
from hdpainter.mini.training.masks import hull
from hdpainter.mini.world.toycoco import describe_scene
from hdpainter.pipeline import HDPainter
from hdpainter.settings import Method
from hdpainter.superres import SCALE, SuperResolution
from hdpainter.tensors import to_image, to_tensor
from ldm.util import UserError

FIRST_SCENE = 20_000  # of the held-out split, behind those of the benchmark
WAYS: Mapping[str, Mapping[str, Any]] = {
    "without Eq. 10": {"superres.blend": False},
    "Eq. 10": {},
    "Eq. 10, soft M": {"superres.mask": "soft"},
}
COLUMNS = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "seam": 2, "PSNR outside": 2}
WINDOW = 11  # of SSIM


def figures(result: np.ndarray, truth: np.ndarray, mask: np.ndarray, fidelity: Fidelity) -> dict[str, float]:
    """The columns of one result; pictures RGB uint8 [H, W, 3], mask bool [H, W]."""
    pasted = np.where(mask[..., None], result, truth)
    inside, outside = (fidelity([result], [where], [""], [truth]) for where in (~mask, mask))
    pair = ((to_tensor(picture) + 1) / 2 for picture in (result, truth))
    ssim = kornia.metrics.ssim(*pair, WINDOW).mean(1)[0].numpy()[mask].mean()
    found = {
        "PSNR": inside["psnr"][0],
        "SSIM": ssim,
        "LPIPS": inside["lpips"][0],
        "seam": seam(pasted, mask),
        "PSNR outside": outside["psnr"][0],
    }
    return {name: np.nan if value is None else float(value) for name, value in found.items()}


@torch.no_grad()
def through_autoencoder(stage: SuperResolution, truth: np.ndarray) -> np.ndarray:
    """The scene encoded and decoded by the upscaler's autoencoder."""
    model, (height, width) = stage.model, truth.shape[:2]
    pixels = to_tensor(pad_to_multiple(truth, stage.multiple * SCALE, "edge")).to(model.device)
    latent = model.get_first_stage_encoding(model.encode_first_stage(pixels).mode())
    return np.array(to_image(model.decode_first_stage(latent).cpu()).crop((0, 0, width, height)))


def study(painter: HDPainter, scenes: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """{row: the figures of each scene}."""
    spec, fidelity = painter.models.spec, Fidelity()
    assert painter.models.upscaler is not None, "no stage 2"
    stage = SuperResolution(painter.models.upscaler, spec.multiple)
    method = Method.load("hd-painter").override({"superres.steps": steps})
    rows: dict[str, list[dict[str, float]]] = {}
    for number in range(scenes):
        scene = describe_scene("val", FIRST_SCENE + number)
        truth, mask = scene.render(spec.max_size), hull(scene.visible_masks(spec.max_size)[-1])
        small = cv2.resize(truth, (spec.max_size // SCALE,) * 2, interpolation=cv2.INTER_AREA)
        prompt = scene.objects[-1].category.name
        made = {"bicubic": cv2.resize(small, (spec.max_size,) * 2, interpolation=cv2.INTER_CUBIC)}
        for name, values in WAYS.items():
            settings = method.override(values).superres
            made[name] = stage(truth * ~mask[..., None], small, mask, prompt, settings, number)
        made["autoencoder"] = through_autoencoder(stage, truth)
        for name, picture in made.items():
            rows.setdefault(name, []).append(figures(picture, truth, mask, fidelity))
        own = {"seam": seam(truth, mask)}
        rows.setdefault("the scene itself", []).append({c: own.get(c) or np.nan for c in COLUMNS})
        print(f"scene {number + 1} of {scenes}", file=sys.stderr, flush=True)
    return rows


def table(rows: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """Lines of Markdown; and what Eq. 10 changes, scene by scene."""
    lines = [f"| {' | '.join(['stage 2', *COLUMNS])} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    paired = [
        {column: with_it[column] - without[column] for column in COLUMNS}
        for with_it, without in zip(rows["Eq. 10"], rows["without Eq. 10"], strict=True)
    ]
    for name, found in {**rows, "Eq. 10 less without": paired}.items():
        cells = [
            _cell(np.array([row[column] for row in found]), digits) for column, digits in COLUMNS.items()
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _cell(values: np.ndarray, digits: int) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = Parser(
        prog="python -m studies.superres",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=24)
    args = parser.parse_args(argv)
    if args.scenes < 1:
        raise UserError(f"--scenes must be at least 1, not {args.scenes}")
    painter = HDPainter.from_config(args.model, args.device, args.dtype)
    if painter.models.upscaler is None:
        raise UserError(f"model {args.model} has no upscaler: there is nothing to study")
    rows = study(painter, args.scenes, args.steps)
    print(f"{args.model}, {painter.models.spec.max_size} px, {args.steps} steps, {args.scenes} scenes\n")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(finish("studies.superres", None, main))
