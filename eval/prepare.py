"""Making a results folder: the dataset, the list of samples, their inputs at evaluation size, run.json."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from eval.coco import Coco, Triplet, read_list, sample
from eval.config import Benchmark, Config, Entry
from eval.models import checkpoint_of, weights_in
from eval.rows import write_rows
from eval.runs import INPUTS, MANIFEST, RUN_FILE, TRIPLETS_FILE, Run, Sample
from hdpainter.files import digest, make_folder, write_json, writing
from hdpainter.images import save_png
from hdpainter.jobs.results import differences
from hdpainter.masks import shrink, stage_size
from hdpainter.mini.scenes import DRAWING
from hdpainter.mini.world import toycoco
from ldm.util import UserError

Say = Callable[[str], None]

SAY_SECONDS = 10.0
_THREADS = min(8, os.cpu_count() or 1)


def dataset(benchmark: Benchmark, out: Path, say: Say) -> Coco:
    """The benchmark's dataset; toy COCO is drawn where it is not there yet."""
    root = folder_of(benchmark, out)
    if benchmark.coco == "toy" and not root.exists():
        with _waiting_for(root.parent, say):
            if not root.exists():  # nobody drew it meanwhile
                say(f"drawing toy COCO, {benchmark.images} pictures of {benchmark.size} px -> {root}")
                with writing(root):
                    assert benchmark.images is not None, "Benchmark checks it"
                    toycoco.export(benchmark.split, benchmark.images, benchmark.size, root, _THREADS)
    return Coco(root, benchmark.split)


def folder_of(benchmark: Benchmark, out: Path) -> Path:
    """Where the benchmark's dataset is, or will be drawn to; for every version of toy COCO another place."""
    if benchmark.coco != "toy":
        return Path(benchmark.coco)
    cache = Path(benchmark.cache) if benchmark.cache else out / "dataset"
    return cache / f"toycoco-{benchmark.split}-{benchmark.images}-{benchmark.size}-{DRAWING}"


@contextmanager
def _waiting_for(folder: Path, say: Say) -> Iterator[None]:
    """Hold a folder of datasets, when the others are done with it."""
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another process that is writing to {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def draw(coco: Coco, benchmark: Benchmark) -> list[Triplet]:
    """The benchmark's triplets."""
    if benchmark.list is not None:
        return read_list(coco, benchmark.list)
    assert benchmark.samples is not None, "Benchmark checks it"
    return sample(coco, benchmark.samples, benchmark.seed)


def prompts_of(triplets: Sequence[Triplet], benchmark: Benchmark) -> list[str]:
    """The label to paint for each triplet. Raises UserError where there is none."""
    other = benchmark.prompt == "other"
    if bad := [triplet for triplet in triplets if other and not triplet.other]:
        raise UserError(f"sample {bad[0].index} has no other label: its image has things of all categories")
    return [triplet.other if other else triplet.category for triplet in triplets]


def open_run(
    config: Config,
    coco: Coco,
    triplets: Sequence[Triplet],
    entries: Sequence[Entry],
    out: Path,
    scratch: Path,
    say: Say,
) -> Run:
    """The results folder `out`, made or continued, with run.json as the config has it.

    Methods that the folder has and the config does not stay. Raises UserError if the folder is of another
    benchmark, has results of a method with other settings, or has inputs, results or scores of which nothing is
    known.
    """
    benchmark = {
        "coco": coco.root.name,
        "annotations": coco.sha256,
        "list": digest([asdict(triplet) for triplet in triplets]),
        "n": len(triplets),
        "prompt": config.benchmark.prompt,
        "mask": config.benchmark.mask,
    }
    facts = {
        **{key: value for key, value in benchmark.items() if key != "coco"},
        "size": config.benchmark.size,
    }
    described = {
        entry.name: entry.described(
            config.seeds.base if entry.seed is None else entry.seed, config.seeds.per_sample
        )
        for entry in entries
    }
    if (out / RUN_FILE).is_file():
        old = Run.open(out)
        _refuse_others(old, facts, entries, described)
        described = {**old.info["methods"], **described}
    else:
        _refuse_unknown(out)
        _write_samples(out / TRIPLETS_FILE, coco, triplets, config.benchmark, say)
    order = [entry.name for entry in config.entries()] + list(described)
    info = {
        "benchmark": benchmark,
        "size": config.benchmark.size,
        "model": config.model,
        "fingerprint": digest(facts),
        "methods": {name: described[name] for name in dict.fromkeys(order) if name in described},
        **config.for_tables,
    }
    write_json(out / RUN_FILE, info, scratch)
    return Run.open(out)


def write_inputs(run: Run, coco: Coco, triplets: Sequence[Triplet], scratch: Path, say: Say) -> None:
    """Write the image and the mask of each triplet at evaluation size.

    Raises UserError if images are missing, before any is written, or damaged.
    """
    precise = run.info["benchmark"].get("mask") == "precise"
    missing = [coco.image_path(triplet) for triplet in triplets if not coco.image_path(triplet).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(triplets)} images are missing, the first is {missing[0]}")

    def write(triplet: Triplet) -> None:
        image, mask = coco.image(triplet), _mask(coco, triplet, run.size, precise)
        small = Image.fromarray(image).resize(mask.shape[::-1], Image.Resampling.BICUBIC)
        grey = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
        save_png(small, run.image_path(triplet.index), scratch=scratch)
        save_png(grey, run.mask_path(triplet.index), scratch=scratch)  # last: with it, both are there

    _in_threads(write, triplets, "inputs", say)


def _refuse_unknown(out: Path) -> None:
    found = next(
        chain.from_iterable(map(out.glob, (f"{INPUTS}/*.png", f"*/{MANIFEST}", "*/scores/*.csv"))), None
    )
    if found is not None:
        raise UserError(
            f"{out} has {found.relative_to(out)} but no {RUN_FILE}, which says what it was made with: give "
            f"another --out, or delete {found.parent}"
        )


def _refuse_others(
    old: Run, facts: Mapping[str, Any], entries: Sequence[Entry], described: Mapping[str, Any]
) -> None:
    before = {"mask": "hull", **old.info["benchmark"], "size": old.size}  # older runs do not say
    if changed := differences({key: before.get(key) for key in facts}, facts):
        raise UserError(f"{old.path} was made with another config ({changed}); give another --out")
    for entry in entries:
        name, new = entry.name, described[entry.name]
        values = old.info["methods"].get(name)
        if values is None or values["hash"] == new["hash"] or not any(old.folder(name).glob("*.png")):
            continue
        had, has = weights_in(values["settings"]), weights_in(new["settings"])
        if had and has and had != has:
            raise UserError(
                f"{old.path} has results of {name} made with other weights (SHA-256 {had[:12]}, and "
                f"{checkpoint_of(entry.how.model)} has {has[:12]}): put that file back as it was, give another "
                f"--out, or delete {old.folder(name)}"
            )
        changed = differences([values["kind"], values["settings"]], [new["kind"], new["settings"]])
        changed = differences(values["settings"], new["settings"]) or changed
        raise UserError(
            f"{old.path} has results of {name} with other settings ({changed}); give it another name, give "
            f"another --out, or delete {old.folder(name)}"
        )


def _write_samples(
    path: Path, coco: Coco, triplets: Sequence[Triplet], benchmark: Benchmark, say: Say
) -> None:
    say(f"{len(triplets)} samples from {coco.root}")
    prompts = prompts_of(triplets, benchmark)
    precise = benchmark.mask == "precise"
    shares = _in_threads(
        lambda t: float(_mask(coco, t, benchmark.size, precise).mean()), triplets, "masks", say
    )
    columns = [field.name for field in fields(Sample)]
    rows = [
        {**asdict(t), "prompt": prompt, "mask_share": share, "labels": ";".join(coco.labels(t.image_id))}
        for t, prompt, share in zip(triplets, prompts, shares, strict=True)
    ]
    write_rows(path, columns, rows)


def _mask(coco: Coco, triplet: Triplet, size: int, precise: bool) -> np.ndarray:
    """M at evaluation size, bool [h, w]."""
    mask = coco.mask(triplet, precise)
    if not mask.any():
        raise UserError(f"sample {triplet.index} (annotation {triplet.annotation_id}) has an empty mask")
    height, width = mask.shape
    return shrink(mask, stage_size(height, width, size), "bicubic>0")


def _in_threads(
    work: Callable[[Triplet], Any], triplets: Sequence[Triplet], label: str, say: Say
) -> list[Any]:
    """The results of `work` in order; with a bar on a terminal, and elsewhere a line now and then."""
    results, started, said = [], time.monotonic(), time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for result in tqdm(pool.map(work, triplets), label, len(triplets), leave=False, disable=None):
                results.append(result)
                now = time.monotonic()
                if not sys.stderr.isatty() and now - said > SAY_SECONDS:
                    left = (now - started) / len(results) * (len(triplets) - len(results))
                    say(f"[{len(results)}/{len(triplets)}] {label} ({tqdm.format_interval(left)} left)")
                    said = now
            return results
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
