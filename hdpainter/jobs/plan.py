"""What there is to do for a list of jobs, found out before a model loads.

Every job is checked. Where there is a result already, everything that determines the picture is written down as
plain values, and these are compared with the record of what is on disk; the files of all other jobs are hashed
when it is their turn.
"""

import dataclasses
import functools
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hdpainter.files import digest, file_sha256
from hdpainter.images import header_size
from hdpainter.inputs import prompts_of, read
from hdpainter.jobs.hashes import Hashes, stamp
from hdpainter.jobs.job import Job, JobSettings
from hdpainter.jobs.job_files import JobFile, Problem
from hdpainter.jobs.results import State, is_occupied, state_of
from hdpainter.masks import Mask, binarize, padded_size, stage_size
from hdpainter.models.registry import PipelineSpec
from hdpainter.prompts import has_weights, names_any
from hdpainter.settings import Method
from hdpainter.values import quoted
from ldm.util import UserError

_TODO = State("todo")


@dataclass(frozen=True)
class Task:
    """A job to be painted.

    method: the job's, with the job's own values in it. inputs: plain values of everything that determines the
    picture.
    """

    job: Job
    path: Path
    method: Method
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """A job that has passed all checks; there may be very many, so that each keeps little.

    batch_key: equal for jobs that can run in one batch. stamps: of its files, as they were. state: what is on
    disk for it.
    """

    job: Job
    out: Path
    method: Method
    batch_key: str
    stamps: tuple[int, ...]
    state: State

    @property
    def path(self) -> Path:
        """Where its picture is to be."""
        return self.out / f"{self.job.name}.png"

    def check_stamps(self) -> None:
        """Raise UserError where a file has been written to or replaced since."""
        for path, before, now in zip(_files(self.job), self.stamps, _stamps(self.job), strict=True):
            if before != now:
                raise UserError(f"{path} has changed since it was looked at: start again with the new one")


def plan(
    file: JobFile, out: Path, model: Mapping[str, Any], method: str, hashes: Hashes | None = None
) -> tuple[list[Planned], list[Problem]]:
    """Check every job and compare it with what is in `out`.

    model: what `identify` says of it. method: of jobs that name none. hashes: of the files of jobs whose result
    is there; no others are hashed.
    """
    hash_file = (hashes or Hashes()).of

    @functools.cache  # thousands of jobs share a few settings
    def resolved(settings: JobSettings) -> tuple[Method, str]:
        if settings.method is None:
            settings = dataclasses.replace(settings, method=method)
        found = settings.resolve()
        found.check_model(model["name"], model.get("text_to_image", False))
        return found, digest(_plain_settings(settings, found, model))

    planned, problems = [], list(file.problems)
    for job in file.jobs:
        try:
            own, settings = resolved(dataclasses.replace(job.settings, seed=0))
            before = _stamps(job)  # before they are looked at
            width, height = check_files(job, own)
            stage1 = padded_size(
                *stage_size(height, width, job.settings.size or model["size"]), model["multiple"]
            )
            path, state = out / f"{job.name}.png", _TODO
            if is_occupied(path):
                inputs = make_task(job, path, own, model, hash_file).inputs
                state = state_of(path, inputs, file.source, hash_file)
        except UserError as error:
            problems.append(Problem(job.where, str(error)))
        else:
            planned.append(Planned(job, out, own, sys.intern(f"{settings} {stage1}"), before, state))
    return planned, problems


def _files(job: Job) -> list[Path]:
    return [path for path in (job.image, job.mask) if path is not None]


def _stamps(job: Job) -> tuple[int, ...]:
    """What changes with the files; 0 for one that is not there."""
    return tuple(hash(stamp(path)) if path.exists() else 0 for path in _files(job))


def make_task(
    job: Job,
    path: Path,
    method: Method,
    model: Mapping[str, Any],
    hash_file: Callable[[Path], str] = file_sha256,
) -> Task:
    """The task of a job by this method, whose result goes to `path`.

    Its inputs hold files by their contents, not their names. Where it is computed (device, dtype, batch size) is
    not among them, nor the upscaler where it is not used. Raises UserError where `path` is the job's own image or
    mask: without these nobody could make the picture again.
    """
    for source in _files(job):
        if path.exists() and path.samefile(source):
            raise UserError(f"{path} is what the job reads, and would be lost: give the result another name")
    method.check_model(model["name"], model.get("text_to_image", False))
    inputs = {
        "image": hash_file(job.image),
        "mask": job.mask and hash_file(job.mask),
        "prompt": job.prompt,
        "seed": job.settings.seed,
        **_plain_settings(job.settings, method, model),
    }
    return Task(job, path, method, inputs)


def _plain_settings(settings: JobSettings, method: Method, model: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a picture besides its files, prompt and seed, as in a record that was read back."""
    values: dict[str, Any] = {
        "size": settings.size or model["size"],
        "superres": settings.superres,
        "method": dataclasses.asdict(method),
        "model": model if settings.superres else {**model, "upscaler": None},
    }
    return json.loads(json.dumps(values))  # tuples become lists


def check_files(job: Job, method: Method) -> tuple[int, int]:
    """The (width, height) of the job's result, from the headers of image and mask.

    Raises UserError when one cannot be read or their sizes differ. The pixels are decoded when it is their turn:
    for thousands of jobs that would take minutes.
    """
    size, masked = header_size(job.image), job.mask and header_size(job.mask)
    alike = masked == size or (masked is not None and method.input.resize_mask)
    if size is None or not (alike or job.mask is None):
        return check_pixels(job, method)[0]  # decoding tells precisely what is wrong
    return method.input.grown(size)


def check_pixels(job: Job, method: Method) -> tuple[tuple[int, int], Mask]:
    """Like `check_files`, but decodes all pixels: UserError also for damaged data, a mask that is empty, and
    another number of prompts than of holes. Returns the size and the mask, bool [H, W]."""
    image, grey = read(job.image, job.mask, method.input, method.masks.threshold)
    mask = binarize(grey, method.masks.threshold, f"mask {job.mask}" if job.mask else "mask")
    prompts_of(mask, job.prompt, method.input)
    return image.size, mask


def look_at_mask(job: Job, method: Method) -> Mask:
    """M of a job of which `check_files` had nothing to say, without decoding its picture. Raises UserError where
    the mask cannot be used."""
    size = header_size(job.image)
    if size is None:
        return check_pixels(job, method)[1]
    grey = read(Image.new("RGB", size), job.mask, method.input, method.masks.threshold)[1]
    return binarize(grey, method.masks.threshold, f"mask {job.mask}" if job.mask else "mask")


def warn_of_prompts(jobs: Sequence[Job], spec: PipelineSpec) -> None:
    """Warn, once each, of prompts in another program's syntax, and of those that name nothing the model knows."""
    texts = [text for job in jobs for text in (job.prompt, job.settings.negative_prompt or "")]
    if weighted := [text for text in texts if has_weights(text)]:
        _warn(
            weighted, "weights such as (word:1.3) and <lora:...> are read as words here (--lora adds a LoRA)"
        )
    prompts = [job.prompt for job in jobs if job.prompt.strip()]
    if spec.knows and (strange := [text for text in prompts if not names_any(text, spec.knows)]):
        _warn(strange, f"{spec.name} knows nothing that is named there; it knows {', '.join(spec.knows)}")


def _warn(prompts: Sequence[str], what: str) -> None:
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    warnings.warn(f"prompt {quoted(prompts[0])}{more}: {what}", stacklevel=3)
