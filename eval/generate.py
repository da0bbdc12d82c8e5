"""Making the results of a config: ``python -m eval generate --config mini-table2``.

Methods times samples, in batches, one folder for each method. It can be stopped at any moment, also by kill -9,
and started again: what the manifests list is there and is not made again.
"""

import argparse
import json
import threading
import time
from collections import deque
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from eval import selection
from eval.config import Config, Entry
from eval.models import ModelCache, computing_dtype, model_identity
from eval.prepare import dataset, draw, open_run, write_inputs
from eval.runs import MANIFEST, Run
from eval.worker import Batch, Report, Worker, Workers, disk_error
from hdpainter.jobs.progress import Progress
from hdpainter.jobs.results import locked
from hdpainter.masks import stage_size
from ldm.util import UserError


@dataclass
class Summary:
    """How a run ended. made, skipped: results made now and before. failures: (method, index, message)."""

    run: Run
    made: int = 0
    skipped: int = 0
    failures: list[tuple[str, int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.made} made, {self.skipped} made before, {len(self.failures)} failed -> {self.run.path}"
        if self.failures:
            method, index, message = self.failures[0]
            text += f"; the first failure: {method}, sample {index}: {message}"
        return text


def generate(
    config: Config,
    *,
    devices: Sequence[str | None] = (None,),
    limit: int | None = None,
    methods: Sequence[str] | None = None,
    stream: TextIO | None = None,
) -> Summary:
    """Make all results of `config` that are not there yet.

    devices: one process for each; a single one is this process. None: the first of cuda, mps and cpu there is.
    limit: only the first samples. methods: only these runs, or all runs of these entries.
    stream: where progress goes; standard error by default.

    Raises UserError for bad input, for a folder of another config, when another process writes to it, and when
    the disk is full.
    """
    out = Path(config.out)
    try:
        with locked(out) as scratch:
            return _generate(config, out, scratch, devices, limit, methods, stream)
    except OSError as error:
        raise disk_error(error, out) or error from None


def _generate(
    config: Config,
    out: Path,
    scratch: Path,
    devices: Sequence[str | None],
    limit: int | None,
    methods: Sequence[str] | None,
    stream: TextIO | None,
) -> Summary:
    say = Progress(stream=stream).say
    model_identity.cache_clear()  # the files may have been replaced since an earlier call
    entries = config.entries()
    chosen = {entry.name: entry for entry in selection.chosen(entries, methods) if not entry.why_not}
    dtypes = {computing_dtype(device, config.dtype) for device in devices}
    for entry in chosen.values():
        entry.how.check(config.benchmark.size)
    coco = dataset(config.benchmark, out, say)
    triplets = draw(coco, config.benchmark)
    listed = [entry for entry in entries if entry.name in chosen or entry.why_not]
    run = open_run(config, coco, triplets, listed, out, scratch, say)
    samples = triplets[:limit]
    write_inputs(run, coco, samples, scratch, say)
    sizes = {t.index: stage_size(*reversed(coco.size(t.image_id)), run.size) for t in samples}

    summary, todo = Summary(run), {}
    for name, entry in chosen.items():
        done = _tidy(run, entry)
        summary.skipped += len(done & sizes.keys())
        if batches := _batches(entry, sizes, config.batch_size, done):
            todo[name] = batches
    if networks := [name for name in todo if chosen[name].how.has_network]:
        _refuse_other_dtypes(run, networks, dtypes)
    display = _Display(todo, {name: chosen[name].how.cost() for name in todo}, stream)

    def report(report: Report) -> None:
        _append(run, report)
        summary.made += len(report.rows)
        summary.failures += [(report.method, index, message) for index, message in report.failures]
        display.finish(report)

    with ExitStack() as stack:
        stack.enter_context(display)
        if todo and len(devices) == 1:
            team = Worker(run, chosen, ModelCache(devices[0], config.dtype), scratch, display.step)
        elif todo:
            team = stack.enter_context(Workers(devices, run, chosen, config.dtype, scratch))
        for name, batches in todo.items():
            display.start(name)
            team.work(batches, report)
    say(str(summary))
    return summary


def _refuse_other_dtypes(run: Run, methods: Sequence[str], dtypes: set[str]) -> None:
    """Raise UserError unless every method's results are, and will be, computed in one and the same dtype."""
    if len(dtypes) > 1:
        raise UserError(
            f"the devices would compute in {' and '.join(sorted(dtypes))}, which results of one method must not "
            "mix: give a --dtype"
        )
    for name in methods:
        if other := run.dtypes(name) - dtypes:
            raise UserError(
                f"{run.path} has results of {name} in {min(other)}, and now it would be {min(dtypes)}: give "
                f"--dtype {min(other)}, give another --out, or delete {run.folder(name)}"
            )


def _batches(
    entry: Entry, sizes: dict[int, tuple[int, int]], batch_size: int, done: Container[int]
) -> deque[Batch]:
    """Batches of samples that can be made at once, in the order of their first ones, without those that are done.

    Which samples share a batch does not depend on what is done: in half precision a picture's rounding depends on
    its batch, and a run that was stopped should give the pictures of one that was not.
    """
    groups: dict[Any, list[int]] = {}
    group_of = {size: entry.how.group(size) for size in set(sizes.values())}
    for index, size in sizes.items():
        groups.setdefault(group_of[size], []).append(index)
    whole = (
        indices[start : start + batch_size]
        for indices in groups.values()
        for start in range(0, len(indices), batch_size)
    )
    left = [tuple(index for index in batch if index not in done) for batch in whole]
    return deque(Batch(entry.name, indices) for indices in sorted(filter(None, left)))


def _tidy(run: Run, entry: Entry) -> set[int]:
    """Make the method's folder and leave in its manifest only what is there and of what its source still is;
    returns the indices of that."""
    folder = run.folder(entry.name)
    folder.mkdir(exist_ok=True)
    rows = run.manifest(entry.name)
    done = [
        index
        for index in run.done(entry.name)
        if all(rows[index].get(k, v) == v for k, v in entry.how.source(run.triplets[index]).items())
    ]
    text = "".join(f"{json.dumps(rows[index])}\n" for index in done)
    path = folder / MANIFEST
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return set(done)


def _append(run: Run, report: Report) -> None:
    with (run.folder(report.method) / MANIFEST).open("a", encoding="utf-8") as file:
        file.write("".join(f"{json.dumps(row)}\n" for row in report.rows))


class _Display:
    """Progress of all that is to do: of each method, and how long all of it will take. For several threads."""

    def __init__(
        self, todo: Mapping[str, Sequence[Batch]], costs: Mapping[str, float], stream: TextIO | None
    ):
        self.stream, self._progress, self._lock = stream, None, threading.Lock()
        self._counts = {name: sum(len(b.indices) for b in batches) for name, batches in todo.items()}
        self._costs = costs
        self._left = sum(costs[name] * count for name, count in self._counts.items())
        self._spent, self._started = 0.0, time.monotonic()

    def __enter__(self) -> "_Display":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.__exit__(*exc)

    def start(self, method: str) -> None:
        """The next method begins."""
        with self._lock:
            self.__exit__()
            self._progress = Progress(self._counts[method], self.stream)
            self._progress.say(f"{method}: {self._counts[method]} results{self._forecast()}")
            self._progress.start(method)

    def step(self, method: str, stage: str, step: int, steps: int) -> None:
        """A step of a batch is done."""
        with self._lock:
            self._progress.step(stage, step, steps)

    def finish(self, report: Report) -> None:
        """A batch is done."""
        cost = self._costs[report.method] * (len(report.rows) + len(report.failures))
        with self._lock:
            self._left, self._spent = self._left - cost, self._spent + cost
            if report.rows:
                text = f"{report.method}: {report.rows[0]['seconds']:.2f} s each{self._forecast()}"
                self._progress.finish(text, len(report.rows))
            for index, message in report.failures:
                self._progress.finish(f"{report.method}: sample {index} failed: {message}")

    def _forecast(self) -> str:
        """How long all methods will take, by their rough costs and the time taken so far."""
        if not self._spent:
            return ""
        seconds = (time.monotonic() - self._started) / self._spent * self._left
        return f", all methods in {tqdm.format_interval(max(seconds, 0))}"


def add_parser(subparsers: Any) -> None:
    """The command ``generate``."""
    parser = subparsers.add_parser(
        "generate",
        help="make the results of a config",
        description="Make the results of all methods of a config; start it again to go on after a stop.",
    )
    parser.set_defaults(run=run)
    selection.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Make what the command line asks for; 1 if some results failed."""
    config = selection.config_of(args)
    summary = generate(config, devices=args.devices, limit=args.limit, methods=args.methods)
    return int(bool(summary.failures))
