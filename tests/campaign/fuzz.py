"""Files that are damaged at random, byte by byte and value by value; thousands of them in one process."""

import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from eval.coco import Coco, sample
from eval.config import Config
from eval.runs import Run
from eval.summary import summarise
from hdpainter.configs import read_yaml
from hdpainter.images import load_image, load_mask
from hdpainter.jobs.job_files import read_jobs
from hdpainter.masks import binarize
from hdpainter.models.registry import MODELS, PipelineSpec
from hdpainter.settings import METHOD_FILES, Method
from ldm.checkpoint import build
from ldm.util import CONFIGS
from tests.campaign.count import Count
from tests.campaign.damage import damaged, texts
from tests.eval.fake_run import fake_run
from tests.hdpainter.fakes import make_mask, make_picture


def pictures(rng: random.Random, pixels: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Damaged pictures of all formats, and how their names end."""
    kinds = {
        ".png": "PNG",
        ".jpg": "JPEG",
        ".webp": "WEBP",
        ".tif": "TIFF",
        ".bmp": "BMP",
        ".gif": "GIF",
        ".ppm": "PPM",
    }
    whole = {}
    for suffix, kind in kinds.items():
        pixels.save(buffer := io.BytesIO(), kind)
        whole[suffix] = buffer.getvalue()
    while True:
        suffix = rng.choice(list(whole))
        yield suffix, damaged(whole[suffix], rng)


def run(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """All kinds of files, 1,000 of each at scale 1."""
    warnings.simplefilter("ignore")
    number = max(int(1000 * scale), 5)
    picture, mask = make_picture(folder / "a.png"), make_mask(folder / "m.png")

    def each(part: str, name: str, variants: Iterator[Any], use: Callable[[Path], Any]) -> Count:
        count = Count(part)
        for index in range(number):
            content = next(variants)
            suffix, content = content if isinstance(content, tuple) else ("", content)
            path = folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            count.call(use, path, about=f"seed {seed}, input {index}")
            path.unlink()
        return count

    def rng(part: str) -> random.Random:
        return random.Random(f"{seed} {part}")

    yield each("pictures", "p", pictures(rng("pictures"), Image.open(picture)), load_image)
    yield each(
        "masks",
        "k",
        pictures(rng("masks"), Image.open(mask)),
        lambda path: binarize(load_mask(path, (24, 16))),
    )
    jobs = [
        {"image": "a.png", "mask": "m.png", "prompt": "x", "seed": 3, "steps": 5},
        {"image": "a.png", "name": "b"},
    ]
    table = 'image,mask,prompt,seed\na.png,m.png,x,3\na.png,m.png,"y, z",4\n'
    lines = "\n".join(map(json.dumps, jobs))
    whole = {"model": "mini", "out": "o", "defaults": {"size": 64, "method": "painta"}, "jobs": jobs}
    assert picture.is_file() and mask.is_file()
    yield each("job files, YAML", "j.yaml", texts(whole, rng("yaml"), yaml.safe_dump), read_jobs)
    yield each("job files, JSON Lines", "j.jsonl", texts(lines, rng("jsonl"), str), read_jobs)
    yield each("job files, CSV", "j.csv", texts(table, rng("csv"), str), read_jobs)
    method = yaml.safe_load((METHOD_FILES / "hd-painter-release.yaml").read_text())
    yield each("methods", "method.yaml", texts(method, rng("methods"), yaml.safe_dump), Method.load)
    pipeline = yaml.safe_load((MODELS / "mini.yaml").read_text())
    yield each("pipelines", "pipe.yaml", texts(pipeline, rng("pipelines"), yaml.safe_dump), PipelineSpec.load)
    network = yaml.safe_load((MODELS / "mini-inpainting.yaml").read_text())
    yield each("model configs", "net.yaml", texts(network, rng("models"), yaml.safe_dump), _build)
    config = yaml.safe_load((CONFIGS / "eval" / "mini-table2.yaml").read_text())
    yield each("benchmark configs", "eval.yaml", texts(config, rng("configs"), yaml.safe_dump), _entries)
    coco = {
        "images": [{"id": 1, "width": 32, "height": 24, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0},
            {"id": 6, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 20, 2, 9, 19]], "iscrowd": 0},
        ],
    }
    places = texts(coco, rng("coco"), json.dumps)
    yield each(
        "annotations", "annotations/instances_val2017.json", places, lambda path: _masks(path.parents[1])
    )
    results = fake_run(folder / "run", 6, metrics=("clip",))
    for part, path in (
        ("manifests", results.folder("painta") / "manifest.jsonl"),
        ("run.json", results.path / "run.json"),
        ("triplets.csv", results.path / "triplets.csv"),
        ("scores", results.score_path("painta", "clip")),
    ):
        intact = path.read_text(encoding="utf-8")
        name = path.relative_to(folder).as_posix()
        values, dump = (json.loads(intact), json.dumps) if part == "run.json" else (intact, str)
        yield each(part, name, texts(values, rng(part), dump), lambda _: _summary(results.path))
        path.write_text(intact, encoding="utf-8")


def _build(path: Path) -> None:
    content = read_yaml(path)
    if isinstance(content.get("model"), dict):
        build(content["model"])


def _entries(path: Path) -> None:
    Config.load(path).entries()


def _masks(root: Path) -> None:
    coco = Coco(root)
    for triplet in sample(coco, 1):
        assert coco.mask(triplet).any()


def _summary(path: Path) -> None:
    summarise(Run.open(path), repeats=20)
