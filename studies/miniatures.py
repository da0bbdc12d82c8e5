"""Measure the miniature models on held-out toy scenes: figures as JSON, sheets as PNG.

    python -m studies.miniatures --out outputs/mini-eval [--parts attention autoencoders] [--n 300]

What the methods do with them is measured by the benchmark: scripts/reproduce_table2.sh --mini. The detector's own
figures are in its card.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from hdpainter import HDPainter
from hdpainter.console import Parser, finish
from hdpainter.files import write_json
from hdpainter.images import save_png
from hdpainter.mini.training.base import psnr, tile, to_images, to_tensor
from hdpainter.mini.training.masks import hull
from hdpainter.mini.training.naming import separation, token_slots
from hdpainter.mini.training.views import shares
from hdpainter.mini.world.toycoco import describe_scene
from hdpainter.rasg import CrossAttentionScores

FIRST_SCENE = 10_000  # the trainings' own held-out scenes have smaller numbers


def box(mask: np.ndarray) -> list[float]:
    """The bounding box [x0, y0, x1, y1] of a mask in unit coordinates."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0] / mask.shape[1], rows[0] / mask.shape[0],
            (columns[-1] + 1) / mask.shape[1], (rows[-1] + 1) / mask.shape[0]]  # fmt: skip


@torch.no_grad()
def autoencoders(painter: HDPainter, out: Path, n: int) -> dict:
    """PSNR of f8 at 256 pixels over `n` scenes and of f4 at 1024 over n / 20."""
    figures = {}
    jobs = (("f8", painter.models.inpainting, 256, n), ("f4", painter.models.upscaler, 1024, max(n // 20, 4)))
    for name, model, size, count in jobs:
        values, pictures = [], []
        for i in range(count):
            truth = to_tensor(describe_scene("val", FIRST_SCENE + i).render(size)[None])
            y = model.first_stage_model.decode(model.first_stage_model.encode(truth).mode()).float()
            values.append(float(psnr(y, truth)))
            if i < 4:
                pictures += [to_images(truth)[0, :256, :256], to_images(y)[0, :256, :256]]
        figures[name] = {
            "psnr": float(np.mean(values)),
            "worst": float(np.min(values)),
            "n": count,
            "size": size,
        }
        save_png(Image.fromarray(tile(np.stack(pictures), 2)), out / f"autoencoder-{name}.png")
    return figures


@torch.no_grad()
def attention(painter: HDPainter, out: Path, n: int) -> dict:
    """How well a word's scores (Eq. 8), where RASG reads them, separate its object from the rest at t = 500.

    The AUC over the objects that `n` captions name; everything is masked, so that x_t alone tells where they
    are.
    """
    model, values = painter.models.inpainting, []
    size, level = painter.models.spec.size, painter.models.spec.rasg_levels[0]
    blank = model.get_first_stage_encoding(model.encode_first_stage(torch.zeros(1, 3, size, size)).mode())
    for i in range(FIRST_SCENE, FIRST_SCENE + n):
        scene, generator = describe_scene("val", i), torch.Generator().manual_seed(i)
        z = model.get_first_stage_encoding(
            model.encode_first_stage(to_tensor(scene.render(size)[None])).mode()
        )
        t = torch.tensor([500])
        noised = model.q_sample(z, t, torch.randn(z.shape, generator=generator))
        x = torch.cat([noised, torch.ones_like(z[:, :1]), blank], 1)
        unet = model.model.diffusion_model
        with CrossAttentionScores(unet, [level]) as scores:
            unet(x, t, model.get_learned_conditioning([scene.captions[0]]))
            maps = scores.mean()[level]
        names = [item.category.name for item in scene.objects]
        slots = torch.from_numpy(token_slots(scene.captions[0], names))[None]
        seen = shares(scene.visible_masks(size), round(maps.shape[1] ** 0.5))
        values.append(separation(maps, slots, torch.from_numpy(seen)[None]))
    found = np.array(values)[~np.isnan(values)]
    return {"auc": float(found.mean()), "worst tenth": float(np.quantile(found, 0.1)), "n": len(found)}


def upscaler(painter: HDPainter, out: Path, n: int) -> dict:
    """PSNR within the mask against the drawing at 1024, from the true low-resolution picture, and bicubic's."""
    from hdpainter.masks import shrink
    from hdpainter.settings import Method
    from hdpainter.superres import SuperResolution

    stage, method = (
        SuperResolution(painter.models.upscaler, painter.models.spec.multiple),
        Method.load("hd-painter"),
    )
    ours, bicubic, pictures = [], [], []
    for i in range(n):
        scene = describe_scene("val", FIRST_SCENE + i)
        truth, mask = scene.render(1024), hull(scene.visible_masks(1024)[-1])
        small = cv2.resize(truth, (256, 256), interpolation=cv2.INTER_AREA)
        small_mask = shrink(mask, (1024, 1024), "bicubic>0.5")
        name = scene.objects[-1].category.name
        y = np.array(
            stage(truth * ~mask[..., None], small, small_mask, name, method.superres, i, method.rounding)
        )
        plain = F.interpolate(to_tensor(small[None]), scale_factor=4, mode="bicubic", align_corners=False)
        plain = to_images(plain)[0]
        for picture, values in ((y, ours), (plain, bicubic)):
            error = np.square(picture[mask].astype(float) - truth[mask]).mean()
            values.append(10 * math.log10(255**2 / max(error, 1e-9)))
        x0, y0 = (min(int(v * 1024), 1024 - 320) for v in box(mask)[:2])
        pictures += [p[y0 : y0 + 320, x0 : x0 + 320] for p in (plain, y, truth)]
    save_png(Image.fromarray(tile(np.stack(pictures[:30]), 3)), out / "upscaler.png")
    return {"n": n, "psnr": float(np.mean(ours)), "bicubic": float(np.mean(bicubic))}


def speed(painter: HDPainter, out: Path, n: int) -> dict:
    """Seconds of the whole main job at 1024 pixels: the first one, which loads stage 2, and a second one.

    Stage 1 is loaded before the clock starts.
    """
    scene = describe_scene("val", FIRST_SCENE)
    image, mask = scene.render(1024), hull(scene.visible_masks(1024)[-1]).astype(np.uint8) * 255
    seconds = []
    for seed in (0, 1):
        start = time.perf_counter()
        painter(image, mask, "kite", seed=seed)
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "second": seconds[1], "threads": torch.get_num_threads()}


PARTS = {"speed": speed, "autoencoders": autoencoders, "attention": attention, "upscaler": upscaler}


def main(argv: list[str]) -> None:
    """Run the parts and write figures.json after each."""
    parser = Parser(
        prog="python -m studies.miniatures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/mini-eval"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="mini")
    parser.add_argument("--n", type=int, default=300, help="scenes per figure (the upscaler takes a tenth)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "figures.json"
    figures = json.loads(record.read_text()) if record.exists() else {}
    for part in args.parts:
        # speed is that of a user's first job; quality is the models', without the rounding of a fast dtype
        start = time.perf_counter()
        painter = HDPainter.from_config(args.model, dtype=None if part == "speed" else "float32")
        figures["seconds to load"] = time.perf_counter() - start
        figures[part] = PARTS[part](painter, args.out, max(args.n // 10, 2) if part == "upscaler" else args.n)
        print(part, json.dumps(figures[part], indent=1), flush=True)
        write_json(record, figures)


if __name__ == "__main__":
    sys.exit(finish("studies.miniatures", None, main))
