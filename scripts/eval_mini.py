"""Measure the miniature models on held-out toy scenes: figures as JSON, sheets as PNG.

    python scripts/eval_mini.py --out outputs/mini-eval [--parts autoencoders upscaler inpainting speed] [--n 300]

Accuracy: the label is found in the crop of the filled hole, by the RTMDet in runs/mini-rtmdet if it is there
(score > 0.3), else by the miniature CLIP (best of the 20 names); the JSON says by which.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from hdpainter import HDPainter
from ldm.checkpoint import read_state_dict
from ldm.data.objects import CATEGORIES
from ldm.data.toycoco import describe_scene
from ldm.training.base import psnr, tile, to_images, to_tensor
from ldm.training.clip import build_clip, normalise, square_crop
from ldm.training.diffusion import hull

METHODS = ("stable-inpainting", "painta", "rasg", "hd-painter", "hd-painter-release")
FIRST_SCENE = 10_000  # the trainings' own held-out scenes have smaller numbers
NAMES = [category.name for category in CATEGORIES]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """A rate and its 95% Wilson interval."""
    p = hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def holes(n: int, size: int = 256) -> list[dict]:
    """`n` scenes with the convex hull of their nearest object as the mask, its name and another one."""
    found = []
    for i in range(n):
        scene = describe_scene("val", FIRST_SCENE + i)
        own = scene.objects[-1].category.name
        others = [name for name in NAMES if name not in {o.category.name for o in scene.objects}]
        other = others[np.random.default_rng((7, i)).integers(len(others))]
        mask = hull(scene.visible_masks(size)[-1])
        found.append({"image": scene.render(size), "mask": mask, "true": own, "other": other})
    return found


def box(mask: np.ndarray) -> list[float]:
    """The bounding box [x0, y0, x1, y1] of a mask in unit coordinates."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0] / mask.shape[1], rows[0] / mask.shape[0],
            (columns[-1] + 1) / mask.shape[1], (rows[-1] + 1) / mask.shape[0]]  # fmt: skip


def clip_judge(painter: HDPainter) -> Callable[[list[np.ndarray], list[np.ndarray]], list[set[str]]]:
    """Names the best of the 20 categories for what is in the box of each mask."""
    clip = build_clip("configs/models/mini-clip.json").eval()
    prefix = "cond_stage_model.model."
    state = read_state_dict(painter.models.checkpoint("inpainting"))
    clip.load_state_dict(
        {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
    )
    import open_clip

    with torch.no_grad():
        words = clip.encode_text(open_clip.tokenize([f"a {name}" for name in NAMES]), normalize=True)

    @torch.no_grad()
    def judge(images, masks):
        size = clip.visual.image_size[0]
        crops = np.stack([square_crop(i, box(m), size) for i, m in zip(images, masks, strict=True)])
        best = (clip.encode_image(normalise(crops), normalize=True) @ words.T).argmax(1)
        return [{NAMES[i]} for i in best.tolist()]

    return judge


def detector_judge(weights: Path) -> Callable[[list[np.ndarray], list[np.ndarray]], list[set[str]]]:
    """Names what RTMDet finds with a score above 0.3 in the box of each mask."""
    from ldm.training.detector import Detector, build_detector, crop_view

    detector = Detector(build_detector("configs/models/mini-rtmdet.py"))
    detector.network.load_state_dict(
        {k: v.float() for k, v in read_state_dict(weights).items()}, strict=False
    )

    def judge(images, masks):
        views = []
        for image, mask in zip(images, masks, strict=True):
            window = np.round(np.array(box(mask)) * len(image)).astype(int)
            views.append(crop_view(image, np.zeros((0, 4)), np.zeros(0, int), window, detector.size)[0])
        found = detector.detect(views)
        return [{NAMES[i] for i in f.labels[f.scores > 0.3].tolist()} for f in found]

    return judge


def outlined(hole: dict) -> np.ndarray:
    """The picture with the hole's outline in magenta."""
    picture = hole["image"].copy()
    contours, _ = cv2.findContours(hole["mask"].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (255, 0, 255), 2)
    return picture


def inpainting(painter: HDPainter, out: Path, n: int, methods=METHODS, batch: int = 8) -> dict:
    """Accuracy of each method for the true label and for another one; sheets of the first 100."""
    scenes = holes(n)
    weights = Path("runs/mini-rtmdet/model.safetensors")
    judge = detector_judge(weights) if weights.exists() else clip_judge(painter)
    figures: dict = {"n": n, "judge": "rtmdet" if weights.exists() else "clip zero-shot"}
    truth = judge([s["image"] for s in scenes], [s["mask"] for s in scenes])
    figures["true pictures"] = wilson(sum(s["true"] in t for s, t in zip(scenes, truth, strict=True)), n)
    for wanted in ("other", "true"):
        rows = [np.stack([outlined(s) for s in scenes[:100]])]
        for method in methods:
            results = []
            for i in range(0, n, batch):
                part = scenes[i : i + batch]
                done = painter(
                    [s["image"] for s in part], [s["mask"].astype(np.uint8) * 255 for s in part],
                    [s[wanted] for s in part], method=method, seed=list(range(i, i + len(part))), superres=False,
                )  # fmt: skip
                results += [np.array(r.image) for r in done]
            found = judge(results, [s["mask"] for s in scenes])
            hits = sum(s[wanted] in f for s, f in zip(scenes, found, strict=True))
            figures[f"{method}, {wanted} label"] = wilson(hits, n)
            print(method, wanted, figures[f"{method}, {wanted} label"], flush=True)
            rows.append(np.stack(results[:100]))
        columns = 10
        for page in range(0, min(n, 100), columns):
            sheet = tile(np.concatenate([row[page : page + columns] for row in rows]), min(columns, n))
            save(out / f"inpainting-{wanted}-{page // columns}.png", sheet)
    return figures


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
        save(out / f"autoencoder-{name}.png", tile(np.stack(pictures), 2))
    return figures


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
        plain = np.array(
            F.interpolate(to_tensor(small[None]), scale_factor=4, mode="bicubic", align_corners=False)
        )
        plain = to_images(torch.from_numpy(plain))[0]
        for picture, values in ((y, ours), (plain, bicubic)):
            error = np.square(picture[mask].astype(float) - truth[mask]).mean()
            values.append(10 * math.log10(255**2 / max(error, 1e-9)))
        x0, y0 = (min(int(v * 1024), 1024 - 320) for v in box(mask)[:2])
        pictures += [p[y0 : y0 + 320, x0 : x0 + 320] for p in (plain, y, truth)]
    save(out / "upscaler.png", tile(np.stack(pictures[:30]), 3))
    return {"n": n, "psnr": float(np.mean(ours)), "bicubic": float(np.mean(bicubic))}


def speed(painter: HDPainter, out: Path, n: int) -> dict:
    """Seconds of the whole main job at 1024 pixels: the first one, with loading, and a second one."""
    scene = describe_scene("val", FIRST_SCENE)
    image, mask = scene.render(1024), hull(scene.visible_masks(1024)[-1]).astype(np.uint8) * 255
    seconds = []
    for seed in (0, 1):
        start = time.perf_counter()
        painter(image, mask, "kite", seed=seed)
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "second": seconds[1], "threads": torch.get_num_threads()}


def save(path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


PARTS = {"speed": speed, "autoencoders": autoencoders, "upscaler": upscaler, "inpainting": inpainting}


def main() -> None:
    """Run the parts and write figures.json after each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/mini-eval"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="mini")
    parser.add_argument("--n", type=int, default=300, help="scenes per figure (the upscaler takes a tenth)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    painter = HDPainter.from_config(args.model)
    record = args.out / "figures.json"
    figures = json.loads(record.read_text()) if record.exists() else {}
    figures["seconds to load"] = time.perf_counter() - start
    for part in args.parts:
        figures[part] = PARTS[part](painter, args.out, max(args.n // 10, 2) if part == "upscaler" else args.n)
        print(part, json.dumps(figures[part], indent=1), flush=True)
        record.with_suffix(".part").write_text(json.dumps(figures, indent=1))
        record.with_suffix(".part").replace(record)


if __name__ == "__main__":
    main()
