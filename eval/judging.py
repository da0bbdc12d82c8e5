"""Judging results: batches of pictures to a metric, of this process or of the members of a team."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics import Metric, Value, make_metric
from eval.prefetch import prefetch
from hdpainter.memory import release_memory
from hdpainter.team import Lost, Team
from ldm.util import UserError

Pictures = tuple[np.ndarray, np.ndarray, np.ndarray]

Row = dict[str, Value]
"""The values of a metric's columns for one result."""


@dataclass(frozen=True)
class Item:
    """A result to score. key: (column, value) that names its row. load: (result, mask, original) from disk.
    digest: of all that is scored and may change; empty where that is not known."""

    key: tuple[str, int | str]
    path: Path
    prompt: str
    load: Callable[[], Pictures]
    digest: str = ""


@dataclass(frozen=True)
class Sheet:
    """A result to judge. position: among the items. pictures: result, mask and original, see `Metric`."""

    metric: str
    position: int
    pictures: Pictures
    prompt: str


def judged(
    items: Sequence[Item], metric: Metric, batch_size: int, team: Team | None = None
) -> Iterator[tuple[list[Item], Sequence[Row | Lost]]]:
    """Batches of items, with a row for each. The next ones are read meanwhile.

    team: of `Judges`; the batches then come in the order in which they are done.
    """
    sheets = prefetch(
        [Sheet(metric.name, at, items[at].load(), items[at].prompt) for at in range(start, end)]
        for start, end in _spans(len(items), batch_size)
    )
    answers = ((batch, _rows(metric, batch)) for batch in sheets) if team is None else team.work(sheets)
    for batch, rows in answers:
        yield [items[sheet.position] for sheet in batch], rows


def _spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(start + size, count)


def _rows(metric: Metric, sheets: Sequence[Sheet]) -> list[Row]:
    images, masks, originals = zip(*(sheet.pictures for sheet in sheets), strict=True)
    values = metric(images, masks, [sheet.prompt for sheet in sheets], originals)
    return [{column: values[column][i] for column in metric.columns} for i in range(len(sheets))]


@dataclass(frozen=True)
class Judges:
    """Recruits members who judge.

    params: of the metrics, by name. download, source: see `make_metric`. settings: what the driver's metrics say
    of themselves.
    """

    params: Mapping[str, Mapping[str, Any] | None]
    download: bool
    source: str
    settings: Mapping[str, Mapping[str, Any]]

    def __call__(self, device: str | None, members: int) -> "Judge":
        import torch

        from hdpainter.models.devices import threads_for, usable_device

        place = usable_device(device)
        torch.set_num_threads(threads_for(place, members))
        return Judge(self, str(place))


class Judge:
    """A member: judges by one metric after the other, and keeps the last in memory."""

    def __init__(self, task: Judges, device: str):
        self.task, self.device = task, device
        self._metric: Metric | None = None

    def __call__(self, sheets: Sequence[Sheet]) -> list[Row]:
        """A row for each of the sheets, all of one metric. Raises UserError where it is not the driver's."""
        return _rows(self._metric_of(sheets[0].metric), sheets)

    def _metric_of(self, name: str) -> Metric:
        if self._metric is None or self._metric.name != name:
            self._metric = None  # before the next is loaded
            release_memory()
            task = self.task
            metric = make_metric(name, task.params.get(name), self.device, task.download, task.source)
            if metric.settings != task.settings[name]:
                raise UserError(
                    f"{name} is another judge here: give all machines the same weights and configs"
                )
            self._metric = metric
        return self._metric
