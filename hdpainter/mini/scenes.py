"""Toy scenes drawn once into a memory-mapped file, with what is known about them."""

import hashlib
import json
import multiprocessing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from hdpainter.files import replacing
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import Scene, describe_scene
from ldm.util import UserError

_SOURCES = sorted((Path(__file__).parent / "world").glob("*.py"))
DRAWING = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:8]
"""Stands for the code that draws, so that pictures of an older one are not taken for today's."""


@dataclass(frozen=True)
class SceneCache:
    """Pictures [N, size, size, 3] RGB uint8 (memory-mapped) and one record per picture.

    A record has `captions` (list of str) and `objects`: for each visible one its `category` (index into
    `CATEGORIES`), `colour` (word or None) and `box` [x0, y0, x1, y1] in unit coordinates.
    """

    images: np.ndarray
    records: list[dict[str, Any]]


def names(category: str, colour: str | None) -> list[str]:
    """What an object may be called: with an article or without, half of them with its colour, if it has one."""
    called = [category, f"{colour} {category}"] if colour else [category]
    articles = ["an" if name[0] in "aeiou" else "a" for name in called]
    return [
        form
        for article, name in zip(articles, called, strict=True)
        for form in (name, f"{article} {name}", f"a photo of {article} {name}")
    ]


def _record(scene: Scene) -> dict[str, Any]:
    objects = []
    for item, mask in zip(scene.objects, scene.visible_masks(128), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = [columns[0] / 128, rows[0] / 128, (columns[-1] + 1) / 128, (rows[-1] + 1) / 128]
            objects.append({"category": CATEGORIES.index(item.category), "colour": item.colour, "box": box})
    return {"captions": list(scene.captions), "objects": objects}


def _draw(block: range, split: str, size: int, path: Path) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)
    images = np.load(path, mmap_mode="r+")
    records = []
    for index in block:
        scene = describe_scene(split, index)
        images[index] = scene.render(size)
        records.append(_record(scene))
    return records


def _draw_all(split: str, count: int, size: int, path: Path, workers: int) -> list[dict[str, Any]]:
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3)).flush()
    blocks = [range(i, min(i + 64, count)) for i in range(0, count, 64)]
    draw = partial(_draw, split=split, size=size, path=path)
    if workers == 1:
        return [record for block in blocks for record in draw(block)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return [record for records in pool.imap(draw, blocks) for record in records]


def scene_cache(folder: str | Path, split: str, count: int, size: int, workers: int = 1) -> SceneCache:
    """Scenes 0 .. count-1 of a split at `size` pixels, from `folder` or drawn into it by `workers` processes.

    Trainings that start together share a folder: one of them draws, the others wait for it.
    """
    if count < 1:
        raise UserError(f"a cache of {count} scenes was asked for; set count to 1 or more")
    folder = Path(folder) / f"{split}-{count}-{size}-{DRAWING}"
    pictures, records_file = folder / "images.npy", folder / "records.json"
    if not records_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not records_file.exists():  # nobody has drawn them meanwhile
                records = _draw_all(split, count, size, pictures, workers)
                with replacing(records_file) as part:  # its existence says that the cache is complete
                    part.write_text(json.dumps(records))
    return SceneCache(np.load(pictures, mmap_mode="r"), json.loads(records_file.read_text()))
