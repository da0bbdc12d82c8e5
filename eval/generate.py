"""Making the results of a config: ``python -m eval generate --config mini-table2``.

Methods times samples, in batches, one folder for each method. It can be stopped at any moment, also by kill -9,
and started again: what the manifests list is there and is not made again.
"""

import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from eval.config import Config
from eval.models import computing_dtype, model_identity
from eval.plan import Batch, Plan
from eval.prepare import dataset, draw, open_run, write_inputs
from eval.runs import MANIFEST, Run
from eval.worker import Makers, Outcome, make
from hdpainter.files import CannotWrite, write_text, writing
from hdpainter.jobs.progress import Progress
from hdpainter.jobs.results import locked
from hdpainter.masks import stage_size
from hdpainter.team import Team, is_alone, is_cluster, open_team
from ldm.util import UserError


@dataclass
class Tally:
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
) -> Tally:
    """Make all results of `config` that are not there yet.

    devices: a team's, see `hdpainter.team.open_team`; a single one is this process. None: the first of cuda, mps
        and cpu there is.
    limit: only the first samples. methods: only these runs, or all runs of these entries.
    stream: where progress goes; standard error by default.

    Raises UserError for bad input, for a folder of another config, when another process writes to it, and when
    the disk is full.
    """
    out = Path(config.out)
    with locked(out) as scratch:
        return _generate(config, out, scratch, devices, limit, methods, stream)


def _generate(
    config: Config,
    out: Path,
    scratch: Path,
    devices: Sequence[str | None],
    limit: int | None,
    methods: Sequence[str] | None,
    stream: TextIO | None,
) -> Tally:
    say = Progress(stream=stream).say
    model_identity.cache_clear()  # the files may have been replaced since an earlier call
    chosen = config.runs(methods)
    dtypes = _dtypes(devices, config.dtype)
    for entry in chosen:
        entry.how.check(config.benchmark.size)
    coco = dataset(config.benchmark, out, say)
    triplets = draw(coco, config.benchmark)
    names = [entry.name for entry in chosen]
    listed = [entry for entry in config.entries() if entry.name in names or entry.why_not]
    run = open_run(config, coco, triplets, listed, out, scratch, say)
    samples = triplets[:limit]
    plan = Plan.of(chosen, len(samples), run)
    write_inputs(run, coco, [samples[index] for index in plan.inputs], scratch, say)
    shapes = (coco.size(sample.image_id) for sample in samples)
    sizes = [stage_size(height, width, run.size) for width, height in shapes]

    todo = {}
    for name in plan.entries:
        _tidy(run, name, plan.done[name], scratch)
        if batches := plan.batches(name, sizes, config.batch_size):
            todo[name] = batches
    if networks := [name for name in todo if plan.entries[name].how.has_network]:
        _refuse_other_dtypes(run, networks, dtypes)
    tally = Tally(run, skipped=plan.made)
    display = _Display(todo, {name: plan.entries[name].how.cost() for name in todo}, stream)

    def report(outcome: Outcome) -> None:
        _append(run, outcome)
        tally.made += len(outcome.rows)
        tally.failures += [(outcome.method, index, message) for index, message in outcome.failures]
        display.finish(outcome)

    with ExitStack() as stack:
        stack.enter_context(display)
        step = display.step if is_alone(devices) else None
        described = {name: run.method(name) for name in todo}
        makers = Makers(plan.entries, described, config.dtype, step, config.trusted)
        teams: dict[bool, Team] = {}
        try:
            for name, batches in todo.items():
                files = plan.entries[name].how.needs_files and is_cluster(devices)
                if files not in teams:
                    teams[files] = stack.enter_context(open_team((None,) if files else devices, makers))
                display.start(name)
                make(teams[files], run, batches, scratch, report)
        except CannotWrite as error:
            raise CannotWrite(f"{error}; mend that, and start again to go on") from None
    say(str(tally))
    return tally


def _dtypes(devices: Sequence[str | None], dtype: str | None) -> set[str]:
    """In what the members of a team will compute. Raises UserError for one whose machines are not known."""
    if not is_cluster(devices):
        return {computing_dtype(device, dtype) for device in devices}
    if dtype is None:
        raise UserError(
            "the machines of a cluster may compute in different dtypes by default, which results of one method "
            "must not mix: give a --dtype"
        )
    return {computing_dtype(None, dtype)}


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


def _tidy(run: Run, name: str, done: Collection[int], scratch: Path) -> None:
    """Make the method's folder, and leave in its manifest only what is done."""
    path, rows = run.folder(name) / MANIFEST, run.manifest(name)
    text = "".join(f"{json.dumps(rows[index])}\n" for index in sorted(done))
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text, scratch)


def _append(run: Run, outcome: Outcome) -> None:
    path = run.folder(outcome.method) / MANIFEST
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{json.dumps(row)}\n" for row in outcome.rows))


class _Display:
    """Progress of all that is to do: of each method, and how long all of it will take. For several threads."""

    def __init__(
        self, todo: Mapping[str, Sequence[Batch]], costs: Mapping[str, float], stream: TextIO | None
    ):
        self.stream, self._lock = stream, threading.Lock()
        self._progress: Progress | None = None
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
            assert self._progress is not None, "no method has begun"
            self._progress.step(stage, step, steps)

    def finish(self, outcome: Outcome) -> None:
        """A batch is done."""
        cost = self._costs[outcome.method] * (len(outcome.rows) + len(outcome.failures))
        with self._lock:
            assert self._progress is not None, "no method has begun"
            self._left, self._spent = self._left - cost, self._spent + cost
            if outcome.rows:
                text = f"{outcome.method}: {outcome.rows[0]['seconds']:.2f} s each{self._forecast()}"
                self._progress.finish(text, len(outcome.rows))
            for index, message in outcome.failures:
                self._progress.finish(f"{outcome.method}: sample {index} failed: {message}")

    def _forecast(self) -> str:
        """How long all methods will take, by their rough costs and the time taken so far."""
        if not self._spent:
            return ""
        seconds = (time.monotonic() - self._started) / self._spent * self._left
        return f", all methods in {tqdm.format_interval(max(seconds, 0))}"
