"""What there is to do for a list of jobs, found out before a model loads.

Every job is checked, everything that determines its picture is written down as plain values, and these are
compared with the record of what is on disk.
"""

import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from hdpainter.files import digest, file_sha256
from hdpainter.images import FORMATS, MAX_PIXELS, load_image, load_mask
from hdpainter.jobs.job import Job, JobSettings, with_method
from hdpainter.jobs.job_files import JobFile, Problem
from hdpainter.jobs.results import State, state_of
from hdpainter.masks import binarize, padded_size, stage_size
from hdpainter.settings import Method
from ldm.util import UserError

_TODO = State("todo")


@dataclass(frozen=True)
class Task:
    """A job that has passed all checks.

    method: the job's, with the job's own values in it. inputs: plain values of everything that determines the
    picture. batch_key: equal for tasks that can run in one batch. state: what is on disk for it.
    """

    job: Job
    path: Path
    method: Method
    inputs: dict[str, Any]
    batch_key: str
    state: State = _TODO


def plan(file: JobFile, out: Path, model: Mapping[str, Any], method: str) -> tuple[list[Task], list[Problem]]:
    """Check every job and compare it with what is in `out`.

    model: what `identify` says of it. method: of jobs that name none.
    """
    # Thousands of jobs share a few settings, and often their pictures.
    resolve_once, hash_once = functools.cache(JobSettings.resolve), functools.cache(file_sha256)
    tasks, problems = [], list(file.problems)
    for job in (with_method(job, method) for job in file.jobs):
        path = out / f"{job.name}.png"
        try:
            resolved = resolve_once(dataclasses.replace(job.settings, seed=0))
            task = make_task(job, path, resolved, check_files(job), model, hash_once)
            state = state_of(path, task.inputs, file.source)
        except UserError as error:
            problems.append(Problem(job.where, str(error)))
        else:
            tasks.append(dataclasses.replace(task, state=state))
    return tasks, problems


def make_task(
    job: Job,
    path: Path,
    method: Method,
    size: tuple[int, int],
    model: Mapping[str, Any],
    hash_file: Callable[[Path], str] = file_sha256,
) -> Task:
    """The task of a job whose image has this (width, height) and whose result goes to `path`.

    Its inputs hold files by their contents, not their names. Where it is computed (device, dtype, batch size) is
    not among them, nor the upscaler where it is not used. Raises UserError where `path` is the job's own image or
    mask: without these nobody could make the picture again.
    """
    for source in (job.image, job.mask):
        if path.exists() and path.samefile(source):
            raise UserError(f"{path} is what the job reads, and would be lost: give the result another name")
    settings: dict[str, Any] = {
        "size": job.settings.size or model["size"],
        "superres": job.settings.superres,
        "method": dataclasses.asdict(method),
        "model": model if job.settings.superres else {**model, "upscaler": None},
    }
    inputs = {
        "image": hash_file(job.image),
        "mask": hash_file(job.mask),
        "prompt": job.prompt,
        "seed": job.settings.seed,
        **settings,
    }
    stage1 = padded_size(*stage_size(size[1], size[0], settings["size"]), model["multiple"])
    plain = json.loads(json.dumps(inputs))  # tuples become lists, as in a record that was read back
    return Task(job, path, method, plain, digest([settings, stage1]))


def check_files(job: Job) -> tuple[int, int]:
    """The (width, height) of the job's image, from the headers of image and mask.

    Raises UserError when one cannot be read or their sizes differ. The pixels are decoded when it is their turn:
    for thousands of jobs that would take minutes.
    """
    size = _header_size(job.image)
    if size is None or _header_size(job.mask) != size:
        image = load_image(job.image)  # decoding tells precisely what is wrong
        load_mask(job.mask, image.size)
        return image.size
    return size


def check_pixels(job: Job, threshold: int) -> tuple[int, int]:
    """Like `check_files`, but decodes all pixels: UserError also for damaged data and a mask that is empty."""
    image = load_image(job.image)
    binarize(load_mask(job.mask, image.size), threshold, f"mask {job.mask}")
    return image.size


def _header_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of the upright picture; None where the header alone does not tell."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.init()  # Image.open knows a format by name only once its plugin is loaded
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception:  # Pillow raises nearly anything on damaged files; load_image will say what
        return None
    if width * height > MAX_PIXELS:
        return None
    return (height, width) if sideways else (width, height)
