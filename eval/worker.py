"""Making results: orders go to a team, and what comes back becomes pictures on disk and rows of the manifest.

While the members work, a thread of the driver reads the next inputs and another writes the last results.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eval.config import Entry, seed_of
from eval.kinds.base import Input, Made, Paint
from eval.models import ModelCache, dtype_name, weights_in
from eval.plan import Batch
from eval.prefetch import AHEAD, prefetch
from eval.runs import Run, digest_of
from eval.version import code_version
from hdpainter.console import one_line
from hdpainter.images import save_png
from hdpainter.jobs.results import differences
from hdpainter.memory import release_memory
from hdpainter.models.devices import threads_for
from hdpainter.team import Lost, Team
from ldm.util import UserError

OnMethodStep = Callable[[str, str, int, int], None]
"""(method, stage, step, steps) while a batch is made."""


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: rows for the manifest, and (index, message) of what failed."""

    method: str
    rows: list[dict[str, Any]]
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class Order:
    """A result to make: the method's name, and what it gets."""

    method: str
    input: Input


@dataclass(frozen=True)
class Done:
    """What a member gives back for an order: the result, or None and why it failed. facts: for the manifest."""

    made: Made | None
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def make(
    team: Team,
    run: Run,
    batches: Iterable[Batch],
    scratch: Path,
    report: Callable[[Outcome], None],
) -> None:
    """Make all `batches`; `report` is called in another thread when one, or a part of it, is on disk.

    scratch: folder for unfinished files, of the run's file system. A batch that fails is tried again one by one;
    what still fails is in the report. Raises UserError where a model cannot be loaded or an input not read,
    CannotWrite where results cannot be written.
    """
    saving: deque[Future] = deque()
    with ThreadPoolExecutor(1) as writer:
        for orders, done in team.work(prefetch(_orders(run, batch) for batch in batches)):
            saving.append(writer.submit(_save, run, orders, done, scratch, report))
            while saving and (len(saving) > AHEAD or saving[0].done()):
                saving.popleft().result()
        while saving:
            saving.popleft().result()


def _orders(run: Run, batch: Batch) -> list[Order]:
    settings = run.method(batch.method)["settings"]
    return [
        Order(
            batch.method,
            Input(
                run.triplets[i],
                run.image(i),
                run.mask(i),
                seed_of(settings["seed"], settings["per_sample"], i),
                _made_by(run, settings["of"], i) if "of" in settings else None,
            ),
        )
        for i in batch.indices
    ]


def _made_by(run: Run, method: str, index: int) -> tuple[np.ndarray, str] | None:
    """A finished result of another method, and its digest."""
    row, picture = run.manifest(method).get(index), run.result(method, index)
    return None if row is None or picture is None else (picture, digest_of(row))


def _save(
    run: Run,
    orders: Sequence[Order],
    done: Sequence[Done | Lost],
    scratch: Path,
    report: Callable[[Outcome], None],
) -> None:
    method, rows, failures = orders[0].method, [], []
    for order, result in zip(orders, done, strict=True):
        index = order.input.sample.index
        if isinstance(result, Lost) or result.made is None:
            failures.append((index, result.message))
            continue
        picture = Image.fromarray(result.made.image)
        row = {
            "index": index,
            "seed": order.input.seed,
            "sha256": save_png(picture, run.result_path(method, index), scratch=scratch),
            "settings": run.method(method)["hash"],
            **result.facts,
            **result.made.note,
        }
        rows.append(row)
    report(Outcome(method, rows, failures))


@dataclass(frozen=True)
class Makers:
    """Recruits members who make the results of a run.

    entries: the methods by name. described: what run.json says of them. progress: gets each step of a member of
    this process.
    """

    entries: Mapping[str, Entry]
    described: Mapping[str, Mapping[str, Any]]
    dtype: str | None
    progress: OnMethodStep | None = None
    trusted: bool = False

    def __call__(self, device: str | None, members: int) -> "Maker":
        models = ModelCache(device, self.dtype, self.trusted)
        torch.set_num_threads(threads_for(models.device, members))
        return Maker(self, models)


class Maker:
    """A member: makes results, by one method after the other."""

    def __init__(self, task: Makers, models: ModelCache):
        self.task, self.models = task, models
        self._code = code_version()  # now: the files may change while they run
        self._ready: tuple[str, Paint] | None = None

    def __call__(self, orders: Sequence[Order]) -> list[Done]:
        """The results of orders of one method, in the order of these.

        Raises UserError where its model cannot be loaded, or is not the one of the run.
        """
        method, paint = orders[0].method, self._paint_of(orders[0].method)
        started = time.monotonic()
        results, together = _one_by_one_if_need_be(paint, [order.input for order in orders])
        facts: dict[str, Any] = {
            "seconds": round((time.monotonic() - started) / len(orders), 4),
            "device": str(self.models.device),
            "code": self._code,
        }
        if self.task.entries[method].how.has_network:
            facts |= {"dtype": dtype_name(self.models.dtype), "batch": together}
        return [
            Done(None, result) if isinstance(result, str) else Done(result, facts=facts) for result in results
        ]

    def _paint_of(self, method: str) -> Paint:
        if self._ready is None or self._ready[0] != method:
            self._ready = None
            self._check_settings(method)
            show = self.task.progress
            paint = self.task.entries[method].how.load(
                self.models, lambda *step: None if show is None else show(method, *step)
            )
            self._check_weights(method)
            self._ready = method, paint
        return self._ready[1]

    def _check_settings(self, method: str) -> None:
        """Members elsewhere have files of their own: raise UserError where they are not the driver's."""
        planned = self.task.described[method]
        settings = planned["settings"]
        own = self.task.entries[method].described(settings["seed"], settings["per_sample"])
        if own["hash"] != planned["hash"]:
            raise UserError(
                f"{method} would be another method here ({differences(settings, own['settings'])}): give all "
                "machines the same models and the same version of the program"
            )

    def _check_weights(self, method: str) -> None:
        planned, loaded = weights_in(self.task.described[method]["settings"]), self.models.weights
        if planned and loaded and planned != loaded:
            model = self.task.entries[method].how.model
            raise UserError(f"{model}: the weights have changed since the run began; start again")


def _one_by_one_if_need_be(paint: Paint, inputs: Sequence[Input]) -> tuple[list[Made | str], int]:
    """What was made, or why it could not be, for each input; and how many were made at once."""
    results = _attempt(paint, inputs)
    if len(inputs) == 1 or not isinstance(results[0], str):
        return results, len(inputs)
    release_memory()
    return [result for one in inputs for result in _attempt(paint, [one])], 1


def _attempt(paint: Paint, inputs: Sequence[Input]) -> list[Made | str]:
    try:
        made = paint(inputs)
        assert len(made) == len(inputs), "a result for each input"
        return [*made]
    except Exception as error:
        return [one_line(error)] * len(inputs)
