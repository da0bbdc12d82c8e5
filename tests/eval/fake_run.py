"""A small run with made-up pictures and scores, in the layout of a results folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.rows import write_rows
from eval.runs import INPUTS, MANIFEST, RUN_FILE, TRIPLETS_FILE, Run, Sample

CATEGORIES = ("boat", "cat", "clock", "kite")
METHODS = {
    "stable-inpainting": {"label": "Stable Inpainting", "kind": "pipeline"},
    "painta": {"label": "only PAIntA", "kind": "pipeline"},
    "hd-painter": {"label": "HD-Painter", "kind": "pipeline"},
    "original": {"label": "original image", "kind": "original"},
    "glide": {"label": "GLIDE", "kind": "folder", "why_not": "weights not included"},
}
LABELS = {"clip": "mini CLIP (toy COCO)", "accuracy": "mini RTMDet (toy COCO)", "minipick": "mini CLIP"}
SKILL = {"stable-inpainting": 0.4, "painta": 0.45, "hd-painter": 0.7, "original": 0.95}


def fake_run(
    path: Path,
    n: int = 24,
    *,
    size: int = 32,
    methods: Mapping[str, Mapping[str, Any]] = METHODS,
    metrics: Sequence[str] = ("clip", "accuracy", "minipick", "fidelity", "seam", "saturation"),
    prompts: Sequence[str] = CATEGORIES,
    seed: int = 0,
    **for_tables: str,
) -> Run:
    """Write a run of `n` samples, two from each image, and open it.

    Methods with a `why_not` have no results; others are as good as `SKILL` says, 0.5 if it does not. Every
    detail follows from `seed` and the method's name.
    """
    rng = np.random.default_rng(seed)
    samples = [
        Sample(
            index=i,
            image_id=100 + i // 2,
            annotation_id=1000 + i,
            image_idx=i // 2,
            segment_idx=i % 2,
            file_name=f"{i // 2:06d}.jpg",
            category=CATEGORIES[i % 4],
            prompt=prompts[i % len(prompts)],
            mask_share=float(rng.uniform(0.02, 0.6)),
        )
        for i in range(n)
    ]
    (path / INPUTS).mkdir(parents=True)
    info = {
        "benchmark": {"coco": "toy", "n": n, "prompt": "true"},
        "size": size,
        "model": "mini",
        "fingerprint": "0123abcd",
        "methods": {
            name: {"base": name.split(",")[0], "varied": {}, "why_not": None, "settings": {}, **entry}
            for name, entry in methods.items()
        },
        **for_tables,
    }
    (path / RUN_FILE).write_text(json.dumps(info))
    write_rows(path / TRIPLETS_FILE, list(Sample.__dataclass_fields__), map(asdict, samples))
    run = Run.open(path)
    for sample in samples:
        image = rng.integers(60, 200, (size, size, 3)) // 2 + 60
        mask = np.zeros((size, size), bool)
        side = int(size * np.sqrt(sample.mask_share))
        mask[2 : 2 + side, 2 : 2 + side] = True
        Image.fromarray(image.astype(np.uint8)).save(run.image_path(sample.index))
        Image.fromarray(mask.astype(np.uint8) * 255).save(run.mask_path(sample.index))
    for name, entry in methods.items():
        if not entry.get("why_not"):
            _results(run, name, metrics, seed)
    return run


def _results(run: Run, name: str, metrics: Sequence[str], seed: int) -> None:
    rng = np.random.default_rng([seed, *name.encode()])
    skill = SKILL.get(name.split(",")[0], 0.5)
    run.folder(name).mkdir()
    with (run.folder(name) / MANIFEST).open("w") as manifest:
        for sample in run.triplets:
            image = run.image(sample.index)
            image[run.mask(sample.index)] = rng.integers(0, 255, 3)
            Image.fromarray(image).save(run.result_path(name, sample.index))
            manifest.write(json.dumps({"index": sample.index, "seed": 1}) + "\n")
    hits = rng.random(len(run.triplets)) < skill
    quality = rng.normal(skill, 0.3, len(run.triplets))
    columns = {
        "clip": lambda i: {"clip": 20 + 10 * quality[i]},
        "accuracy": lambda i: {
            "acc": int(hits[i]),
            "acc_release": int(hits[i] and i % 9 > 0),
            "best_label": "boat",
            "best_score": 0.8,
        },
        "minipick": lambda i: {"logit": 3 * quality[i]},
        "fidelity": lambda i: {"psnr": "inf" if name == "original" else 40 + quality[i], "max_difference": 3},
        "seam": lambda i: {"seam": 1 + quality[i] / 10, "seam_original": 1.5},
        "saturation": lambda i: {"saturation_shift": 9 * quality[i], "saturation_contrast": quality[i]},
    }
    for metric in metrics:
        write_scores(
            run, name, metric, [{"index": i, **columns[metric](i)} for i in range(len(run.triplets))]
        )
        if metric in LABELS:
            run.score_path(name, metric).with_suffix(".json").write_text(
                json.dumps({"metric": metric, "label": LABELS[metric], "settings": {}, "notes": []})
            )


def write_scores(run: Run, method: str, metric: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a metric's rows, each with `index` and the same columns; None is an empty value."""
    rows = sorted(rows, key=lambda row: row["index"])
    write_rows(run.score_path(method, metric), list(rows[0]) if rows else ["index"], rows)
