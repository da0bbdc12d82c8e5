"""Running a list of jobs so that it can be interrupted at any moment and started again.

Settings, and that files are there and look like pictures, are checked before the model loads. What is done
already (see `hdpainter.jobs.results`) is skipped, the rest is grouped into batches of equal settings and stage 1
size; a batch gives the same pictures as its jobs one by one. A batch that fails is tried again job by job, a
job that fails is reported, and the others go on.
"""

import dataclasses
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from hdpainter.console import one_line
from hdpainter.files import digest, parse_json, write_json
from hdpainter.images import Hashed
from hdpainter.jobs.job_files import JobFile, Problem
from hdpainter.jobs.plan import Task, plan
from hdpainter.jobs.progress import Progress
from hdpainter.jobs.results import FORMAT, locked, relative_to, save_result
from hdpainter.memory import out_of_memory, release_memory
from ldm.util import UserError


class Painter(Protocol):
    """What a batch needs of `hdpainter.HDPainter`: lists in, a list of `Result`s out."""

    def __call__(self, image: list, mask: list, prompt: list[str], **settings: Any) -> Sequence[Any]: ...


@dataclass
class BatchOutcome:
    """How a run ended: names of the results made now and of those made before, and what failed."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
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
    load: Callable[[], Painter],
    *,
    batch_size: int = 1,
    overwrite: bool = False,
    stream: TextIO | None = None,
) -> BatchOutcome:
    """Make the pictures of `file` that are not yet in `out`, with a record beside each and a summary.json.

    Args:
        out: folder for the results, made if need be. One process at a time may write to it.
        model: what `models.identity.identify` says of the model; a result of another model is made again.
        method: of jobs that name none: the model's own.
        load: makes the painter; called only when there is something to do.
        batch_size: how many jobs of equal settings and stage 1 size to run at once at most.
        overwrite: replace files that this job file did not make.
        stream: where progress goes; standard error by default.

    Raises UserError when another process writes to `out` and, unless `overwrite`, when a result would replace
    a file that this job file did not make. Errors of single jobs are in the summary.
    """
    with locked(out) as scratch:
        tasks, problems = plan(file, out, model, method)
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
                    _paint_all(todo, load(), file.source, scratch, outcome, batch_size, progress)
            except KeyboardInterrupt:
                outcome.interrupted = True
        facts = {"source": relative_to(out, file.source), "seconds": round(time.monotonic() - started, 1)}
        write_json(report, {**facts, **dataclasses.asdict(outcome)}, scratch)
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


def make_record(task: Task, result: Any, source: Path | None) -> dict[str, Any]:
    """The record of a task's result: all that is needed to make it again.

    source: the job file; None for a single picture. Raises UserError where the weights or the config of a model
    are no longer those of the plan.
    """
    job, folder = task.job, task.path.parent
    _check_models(task.inputs["model"], result.metadata.get("models", {}))
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
        "metadata": result.metadata,
    }


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


def paint(
    painter: Painter, tasks: Sequence[Task], progress: Callable[[str, int, int], None]
) -> Sequence[Any]:
    """The Results of tasks of one `batch_key`. Raises UserError for a picture that is not the planned one."""
    return painter(
        [Hashed(task.job.image, task.inputs["image"]) for task in tasks],
        [task.job.mask and Hashed(task.job.mask, task.inputs["mask"]) for task in tasks],
        [task.job.prompt for task in tasks],
        method=tasks[0].method,
        seed=[task.job.settings.seed for task in tasks],
        size=tasks[0].job.settings.size,
        superres=tasks[0].job.settings.superres,
        progress=progress,
    )


def _paint_all(
    todo: Sequence[Task],
    painter: Painter,
    source: Path,
    scratch: Path,
    outcome: BatchOutcome,
    batch_size: int,
    progress: Progress,
) -> None:
    groups = deque(_groups(todo, batch_size))
    while groups:
        group = groups.popleft()
        progress.start(", ".join(task.job.name for task in group))
        started = time.monotonic()
        results = _try(painter, group, source, progress)
        if not isinstance(results, _Failure):
            seconds = (time.monotonic() - started) / len(group)
            for task, (result, record) in zip(group, results, strict=True):
                save_result(task.path, result.image, record, scratch)
                outcome.done.append(task.job.name)
                progress.finish(f"{task.job.name}: done in {seconds:.1f} s{remark(result.metadata)}")
            continue
        release_memory()
        if len(group) > 1:
            others = " and all others" if results.no_memory else ""
            progress.say(
                f"{len(group)} jobs at once failed ({results.message}); these{others} run one by one"
            )
            if results.no_memory:
                groups = deque([task] for other in groups for task in other)
            groups.extendleft([task] for task in reversed(group))
        else:
            job = group[0].job
            outcome.failed.append(Problem(job.where, results.message, results.trace))
            progress.finish(f"{job.name}: failed: {results.message}")


@dataclass(frozen=True)
class _Failure:
    """What is kept of an error: not the error itself, which holds on to the memory of the failed try."""

    message: str
    trace: str
    no_memory: bool


def _try(
    painter: Painter, group: Sequence[Task], source: Path, progress: Progress
) -> list[tuple[Any, dict[str, Any]]] | _Failure:
    """The results of a group, each with its record."""
    try:
        results = paint(painter, group, progress.step)
        return [(one, make_record(task, one, source)) for task, one in zip(group, results, strict=True)]
    except Exception as error:
        trace = "" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
        return _Failure(one_line(error), trace, out_of_memory(error))


def _groups(todo: Iterable[Task], batch_size: int) -> list[list[Task]]:
    """Batches of tasks that can run together, in the order of their first ones."""
    alike: dict[str, list[Task]] = {}
    for task in todo:
        alike.setdefault(task.batch_key, []).append(task)
    return [
        tasks[start : start + batch_size]
        for tasks in alike.values()
        for start in range(0, len(tasks), batch_size)
    ]
