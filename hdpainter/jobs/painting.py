"""Painting tasks, here or by the members of a team, who get the pictures as bytes and give back bytes."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hdpainter.console import one_line
from hdpainter.files import digest
from hdpainter.images import Hashed, encode
from hdpainter.inputs import told
from hdpainter.jobs.hashes import Hashes
from hdpainter.jobs.plan import Planned, Task, make_task
from hdpainter.jobs.progress import OnStep
from hdpainter.jobs.results import FORMAT, relative_to
from hdpainter.memory import out_of_memory, release_memory
from ldm.util import UserError


class Painter(Protocol):
    """What a batch needs of `hdpainter.HDPainter`: lists in, a list of `Result`s out."""

    def __call__(self, image: list, mask: list, prompt: list[str], **settings: Any) -> Sequence[Any]: ...


def paint(painter: Painter, task: Task, progress: OnStep) -> Any:
    """The Result of a task. Raises UserError where a file is not the one that the task was made for."""
    image, mask = Hashed(task.job.image, task.inputs["image"]), None
    if task.job.mask is not None:
        mask = Hashed(task.job.mask, task.inputs["mask"])
    (result,) = _paint(painter, [task], [image], [mask], progress)
    return result


def _paint(
    painter: Painter, tasks: Sequence[Task], images: list, masks: list, progress: OnStep
) -> Sequence[Any]:
    return painter(
        images,
        masks,
        [task.job.prompt for task in tasks],
        method=tasks[0].method,
        seed=[task.job.settings.seed for task in tasks],
        size=tasks[0].job.settings.size,
        superres=tasks[0].job.settings.superres,
        progress=progress,
    )


def make_record(task: Task, result: Any, source: Path | None) -> dict[str, Any]:
    """The record of a task's result: all that is needed to make it again.

    source: the job file; None for a single picture. Raises UserError where the weights or the config of a model
    are no longer those of the plan.
    """
    return _completed(_begun(task, source), result.metadata)


def _begun(task: Task, source: Path | None) -> dict[str, Any]:
    """The record, but for what the result says of itself."""
    job, folder = task.job, task.path.parent
    return {
        "format": FORMAT,
        "name": job.name,
        "source": source and relative_to(folder, source),
        "hash": digest(task.inputs),
        "files": {
            "image": relative_to(folder, job.image),
            "mask": job.mask and relative_to(folder, job.mask),
        },
        "inputs": task.inputs,
    }


def _completed(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    _check_models(record["inputs"]["model"], metadata.get("models", {}))
    return {**record, "metadata": metadata}


def _check_models(planned: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    for stage in ("inpainting", "upscaler"):
        plan, model = planned.get(stage) or {}, used.get(stage) or {}
        for file, key in (("checkpoint", "sha256"), ("config", "config_sha256")):
            if model.get(key) and plan.get(file) and model[key] != plan[file]:
                raise UserError(f"{model[file]} has changed since the jobs were checked: start again with it")


def remark(metadata: Mapping[str, Any]) -> str:
    """What the user should know of a result beyond that it is there, from its metadata."""
    return "".join(
        f"; the {name} was too long, its last {f'{cut} words were' if cut > 1 else 'word was'} cut"
        for key, name in (("words_cut", "prompt"), ("negative_words_cut", "negative prompt"))
        if (cut := metadata.get(key))
    )


def filled(metadata: Mapping[str, Any]) -> str:
    """What the mask of a result filled, in words."""
    return told(metadata["mask_share"], metadata["mask_parts"])


@dataclass(frozen=True)
class Order:
    """A task for a member, with the contents of its files. record: but for what the result says of itself."""

    task: Task
    image: Hashed
    mask: Hashed | None
    record: dict[str, Any]


def order_of(planned: Planned, model: Mapping[str, Any], source: Path, hashes: Hashes) -> Order:
    """The order of a job of the job file `source`, whose files are read and hashed now.

    model: what `identify` says of it. Raises UserError for a file that is not as it was planned.
    """
    job = planned.job
    image, mask = Hashed.of(job.image), job.mask and Hashed.of(job.mask, "mask")
    planned.check_stamps()
    known = {file.path: file.sha256 for file in (image, mask) if file}
    for path, sha256 in known.items():
        hashes.keep(path, sha256)
    task = make_task(job, planned.path, planned.method, model, known.__getitem__)
    return Order(task, image, mask or None, _begun(task, source))


@dataclass(frozen=True)
class Painted:
    """content: a PNG with its record inside. size: (width, height). seconds: that it took."""

    content: bytes
    size: tuple[int, int]
    record: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Failure:
    """What is kept of an error: not the error itself, which holds on to the memory of the failed try."""

    message: str
    trace: str = ""
    no_memory: bool = False


@dataclass(frozen=True)
class Answer:
    """What became of an order. together: why it was tried alone, where it was ordered with others."""

    result: Painted | Failure
    together: Failure | None = None


@dataclass(frozen=True)
class Painters:
    """Recruits members who paint. load: makes a painter on a device. progress: gets the steps of a member of this
    process."""

    load: Callable[[str | None], Painter]
    progress: OnStep | None = None

    def __call__(self, device: str | None, members: int) -> "PaintingMember":
        painter = self.load(device)
        if members > 1 and device is not None:
            import torch

            from hdpainter.models.devices import threads_for

            torch.set_num_threads(threads_for(torch.device(device), members))
        return PaintingMember(painter, self.progress or (lambda *_: None))


@dataclass(frozen=True)
class PaintingMember:
    """A member: paints orders that can share a batch at once, and one by one where that fails."""

    painter: Painter
    progress: OnStep

    def __call__(self, orders: Sequence[Order]) -> list[Answer]:
        results = self._try(orders)
        if not isinstance(results, Failure):
            return [Answer(result) for result in results]
        release_memory()
        if len(orders) == 1:
            return [Answer(results)]
        return [
            Answer(one if isinstance(one := self._try([order]), Failure) else one[0], results)
            for order in orders
        ]

    def _try(self, orders: Sequence[Order]) -> list[Painted] | Failure:
        started = time.monotonic()
        try:
            results = _paint(
                self.painter,
                [order.task for order in orders],
                [order.image for order in orders],
                [order.mask for order in orders],
                self.progress,
            )
            records = [
                _completed(o.record, result.metadata) for o, result in zip(orders, results, strict=True)
            ]
            seconds = (time.monotonic() - started) / len(orders)
            return [
                Painted(encode(result.image, ".png", record), result.image.size, record, seconds)
                for result, record in zip(results, records, strict=True)
            ]
        except Exception as error:
            trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            return Failure(one_line(error), trace, out_of_memory(error))
