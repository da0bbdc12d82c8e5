"""Running a list of jobs so that it can be interrupted at any moment and started again.

Settings, and that files are there and look like pictures, are checked before the model loads. What is done
already (see `hdpainter.jobs.results`) is skipped, the rest is grouped into batches of equal settings and stage 1
size; a batch gives the same pictures as its jobs one by one. A batch that fails is tried again job by job, a
job that fails is reported, and the others go on.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hdpainter.console import one_line
from hdpainter.files import parse_json, write_json
from hdpainter.jobs.hashes import Hashes
from hdpainter.jobs.job_files import JobFile, Problem
from hdpainter.jobs.painting import Answer, Failure, Order, Painter, Painters, filled, order_of, remark
from hdpainter.jobs.plan import Planned, Task, plan
from hdpainter.jobs.progress import Progress
from hdpainter.jobs.results import locked, relative_to, save_content
from hdpainter.mask_check import LARGE
from hdpainter.team import Lost, Team, is_alone, open_team
from ldm.util import UserError


@dataclass
class BatchOutcome:
    """How a run ended: names of the results made now and of those made before, and what failed. large: those made
    now whose mask fills nearly the whole picture."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0: every job is done. 1: some failed. 130: interrupted by Ctrl-C."""
        return 130 if self.interrupted else int(bool(self.failed))

    def __str__(self) -> str:
        counts = f"{len(self.done)} done, {len(self.skipped)} done before, {len(self.failed)} failed"
        return f"interrupted: {counts}; start again to go on" if self.interrupted else counts


def run(
    file: JobFile,
    out: Path,
    model: Mapping[str, Any],
    method: str,
    load: Callable[[str | None], Painter],
    *,
    devices: Sequence[str | None] = (None,),
    batch_size: int = 1,
    overwrite: bool = False,
    stream: TextIO | None = None,
) -> BatchOutcome:
    """Make the pictures of `file` that are not yet in `out`, with a record beside each and a summary.json.

    Args:
        out: folder for the results, made if need be. One process at a time may write to it.
        model: what `models.identity.identify` says of the model; a result of another model is made again.
        method: of jobs that name none: the model's own.
        load: makes a painter on a device; called only when there is something to do. For a team of several it
            must be picklable.
        devices: the team's, see `hdpainter.team.open_team`.
        batch_size: how many jobs of equal settings and stage 1 size to run at once at most.
        overwrite: replace files that this job file did not make.
        stream: where progress goes; standard error by default.

    Raises UserError when another process writes to `out` and, unless `overwrite`, when a result would replace
    a file that this job file did not make. Errors of single jobs are in the summary.
    """
    with locked(out) as scratch, Hashes(scratch.parent) as hashes:
        tasks, problems = plan(file, out, model, method, hashes)
        todo = [task for task in tasks if task.state.kind != "done"]
        taken = [task.state.message for task in todo if task.state.kind == "taken"]
        report = out / "summary.json"
        if _foreign(report):
            taken.append(f"{report} exists and was not made by a batch")
        if taken and not overwrite:
            more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
            raise UserError(f"{taken[0]}{more}; move it, give another --out, or allow --overwrite")
        outcome = BatchOutcome([], [task.job.name for task in tasks if task.state.kind == "done"], problems)
        started = time.monotonic()
        with Progress(len(todo), stream) as progress:
            progress.say(f"{file.source}: {len(todo)} of {len(tasks) + len(problems)} jobs to do -> {out}")
            for problem in problems:
                progress.say(f"cannot run {problem}")
            for task in tasks:
                if task.state.message:
                    progress.say(f"{task.job.name}: {task.state.message}")
            try:
                if todo:
                    painters = Painters(load, progress.step if is_alone(devices) else None)
                    with open_team(devices, painters) as team:
                        _paint_all(
                            team, todo, model, file.source, scratch, hashes, outcome, batch_size, progress
                        )
            except KeyboardInterrupt:
                outcome.interrupted = True
        facts = {"source": relative_to(out, file.source), "seconds": round(time.monotonic() - started, 1)}
        write_json(report, {**facts, **dataclasses.asdict(outcome)}, scratch)
        if outcome.large:
            names = ", ".join(outcome.large[:3])
            more = f" and {len(outcome.large) - 3} more" if len(outcome.large) > 3 else ""
            progress.say(f"the mask fills over {LARGE:.0%} of the picture (white is filled): {names}{more}")
        progress.say(f"{outcome} -> {report}")
    return outcome


def _foreign(report: Path) -> bool:
    """Whether there is a summary.json that no batch wrote."""
    try:
        found = parse_json(report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return not (isinstance(found, dict) and {"source", "done", "skipped", "failed"} <= found.keys())


def _paint_all(
    team: Team,
    todo: Sequence[Planned],
    model: Mapping[str, Any],
    source: Path,
    scratch: Path,
    hashes: Hashes,
    outcome: BatchOutcome,
    batch_size: int,
    progress: Progress,
) -> None:
    def fail(task: Planned | Task, message: str, trace: str = "") -> None:
        outcome.failed.append(Problem(task.job.where, message, trace))
        progress.finish(f"{task.job.name}: failed: {message}")

    def orders() -> Iterator[list[Order]]:
        for group in groups:
            ready = []
            for task in group:
                try:
                    ready.append(order_of(task, model, source, hashes))
                except (UserError, OSError) as error:  # its picture is not the planned one any more
                    fail(task, one_line(error))
            if ready:
                progress.start(", ".join(order.task.job.name for order in ready))
                yield ready

    groups = _Groups(todo, batch_size)
    for group, answers in team.work(orders()):
        if together := next((a.together for a in answers if isinstance(a, Answer)), None):
            groups.one_by_one |= together.no_memory
            others = " and all others" if together.no_memory else ""
            progress.say(
                f"{len(group)} jobs at once failed ({together.message}); these{others} ran one by one"
            )
        for order, answer in zip(group, answers, strict=True):
            task = order.task
            if isinstance(answer, Lost):
                fail(task, answer.message)
            elif isinstance(answer.result, Failure):
                fail(task, answer.result.message, answer.result.trace)
            else:
                made = answer.result
                sha256 = save_content(task.path, made.content, made.size, made.record, scratch)
                hashes.keep(task.path, sha256, ours=True)
                outcome.done.append(task.job.name)
                facts = made.record["metadata"]
                if facts["mask_share"] > LARGE:
                    outcome.large.append(task.job.name)
                said = f"{task.job.name}: done in {made.seconds:.1f} s, {filled(facts)}{remark(facts)}"
                progress.finish(said)


class _Groups:
    """Batches of tasks that can run together, in the order of their first ones. one_by_one: from now on."""

    def __init__(self, todo: Iterable[Planned], batch_size: int):
        self._alike: dict[str, list[Planned]] = {}
        for task in todo:
            self._alike.setdefault(task.batch_key, []).append(task)
        self._batch_size, self.one_by_one = batch_size, False

    def __iter__(self) -> Iterator[list[Planned]]:
        for tasks in self._alike.values():
            start = 0
            while start < len(tasks):
                size = 1 if self.one_by_one else self._batch_size
                yield tasks[start : start + size]
                start += size
