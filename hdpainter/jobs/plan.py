"""What there is to do for a list of jobs, found out before a model loads.

Every job is checked, everything that determines its picture is written down as plain values, and these are
compared with the record of what is on disk.
"""

import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdpainter.files import digest, file_sha256
from hdpainter.images import header_size
from hdpainter.inputs import prompts_of, read
from hdpainter.jobs.job import Job, JobSettings, with_method
from hdpainter.jobs.job_files import JobFile, Problem
from hdpainter.jobs.results import State, state_of
from hdpainter.masks import Mask, binarize, padded_size, stage_size
from hdpainter.models.registry import PipelineSpec
from hdpainter.prompts import has_weights, names_any
from hdpainter.settings import Method
from hdpainter.values import quoted
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
            task = make_task(job, path, resolved, check_files(job, resolved), model, hash_once)
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
    """The task of a job whose result has this (width, height) and whose result goes to `path`.

    Its inputs hold files by their contents, not their names. Where it is computed (device, dtype, batch size) is
    not among them, nor the upscaler where it is not used. Raises UserError where `path` is the job's own image or
    mask: without these nobody could make the picture again.
    """
    for source in filter(None, (job.image, job.mask)):
        if path.exists() and path.samefile(source):
            raise UserError(f"{path} is what the job reads, and would be lost: give the result another name")
    method.check_model(model["name"], model.get("text_to_image", False))
    settings: dict[str, Any] = {
        "size": job.settings.size or model["size"],
        "superres": job.settings.superres,
        "method": dataclasses.asdict(method),
        "model": model if job.settings.superres else {**model, "upscaler": None},
    }
    inputs = {
        "image": hash_file(job.image),
        "mask": job.mask and hash_file(job.mask),
        "prompt": job.prompt,
        "seed": job.settings.seed,
        **settings,
    }
    stage1 = padded_size(*stage_size(size[1], size[0], settings["size"]), model["multiple"])
    plain = json.loads(json.dumps(inputs))  # tuples become lists, as in a record that was read back
    return Task(job, path, method, plain, digest([settings, stage1]))


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


def warn_of_prompts(jobs: Sequence[Job], spec: PipelineSpec) -> None:
    """Warn, once each, of prompts in another program's syntax, and of those that name nothing the model knows."""
    texts = [text for job in jobs for text in (job.prompt, job.settings.negative_prompt or "")]
    if weighted := [text for text in texts if has_weights(text)]:
        _warn(weighted, "weights such as (word:1.3) and <lora:...> mean nothing here and are read as words")
    prompts = [job.prompt for job in jobs if job.prompt.strip()]
    if spec.knows and (strange := [text for text in prompts if not names_any(text, spec.knows)]):
        _warn(strange, f"{spec.name} knows nothing that is named there; it knows {', '.join(spec.knows)}")


def _warn(prompts: Sequence[str], what: str) -> None:
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    warnings.warn(f"prompt {quoted(prompts[0])}{more}: {what}", stacklevel=3)
