"""Making results: batches in, pictures on disk and rows for the manifest out.

While the models work, a thread reads the next inputs and another writes the last results. Several processes, one
for each device, are fed by the one that started them and end with it, however it ends.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from eval.config import Entry, seed_of
from eval.kinds.base import Input, Made, Paint
from eval.models import ModelCache, dtype_name, weights_in
from eval.plan import Batch
from eval.prefetch import AHEAD, prefetch
from eval.runs import Run
from eval.version import code_version
from hdpainter.console import one_line
from hdpainter.images import save_png
from hdpainter.memory import release_memory
from ldm.util import UserError

GRACE = 10  # seconds that a process may take to end


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: rows for the manifest, and (index, message) of what failed."""

    method: str
    rows: list[dict[str, Any]]
    failures: list[tuple[int, str]]


class Worker:
    """Makes results in this process.

    entries: the methods by name. scratch: folder for unfinished files, of the run's file system.
    progress: gets (method, stage, step, steps) while a batch is made.
    """

    def __init__(
        self,
        run: Run,
        entries: Mapping[str, Entry],
        models: ModelCache,
        scratch: Path,
        progress: Callable[[str, str, int, int], None] = lambda *_: None,
    ):
        self.run, self.entries, self.models, self.scratch = run, entries, models, scratch
        self.progress = progress
        self._code = code_version()  # now: the files may change while they run
        self._ready: tuple[str, Paint] | None = None

    def work(self, batches: Iterable[Batch], report: Callable[[Outcome], None]) -> None:
        """Make all `batches`; `report` is called in another thread when one is on disk.

        A batch that fails is tried again one by one; what still fails is in the report. Raises UserError where
        a model cannot be loaded or an input not read, CannotWrite where results cannot be written.
        """
        saving: deque[Future] = deque()
        with ThreadPoolExecutor(1) as writer:
            for batch, inputs in prefetch((batch, self._read(batch)) for batch in batches):
                paint = self._paint_of(batch.method)
                started = time.monotonic()
                made, failures, together = _one_by_one_if_need_be(paint, inputs)
                seconds = (time.monotonic() - started) / len(inputs)
                saving.append(writer.submit(self._save, batch, made, failures, together, seconds, report))
                while saving and (len(saving) > AHEAD or saving[0].done()):
                    saving.popleft().result()
            while saving:
                saving.popleft().result()

    def _read(self, batch: Batch) -> list[Input]:
        settings = self.run.method(batch.method)["settings"]
        return [
            Input(
                self.run.triplets[i],
                self.run.image(i),
                self.run.mask(i),
                seed_of(settings["seed"], settings["per_sample"], i),
            )
            for i in batch.indices
        ]

    def _paint_of(self, method: str) -> Paint:
        if self._ready is None or self._ready[0] != method:
            self._ready = None
            paint = self.entries[method].how.load(self.models, lambda *step: self.progress(method, *step))
            self._check_weights(method)
            self._ready = method, paint
        return self._ready[1]

    def _check_weights(self, method: str) -> None:
        planned, loaded = weights_in(self.run.method(method)["settings"]), self.models.weights
        if planned and loaded and planned != loaded:
            raise UserError(
                f"{self.entries[method].how.model}: the weights have changed since the run began; start again"
            )

    def _save(
        self,
        batch: Batch,
        made: Sequence[tuple[Input, Made]],
        failures: list[tuple[int, str]],
        together: int,
        seconds: float,
        report: Callable[[Outcome], None],
    ) -> None:
        settings = self.run.method(batch.method)["hash"]
        network = self.entries[batch.method].how.has_network
        computed = {"dtype": dtype_name(self.models.dtype), "batch": together} if network else {}
        rows = [
            {
                "index": one.sample.index,
                "seed": one.seed,
                "seconds": round(seconds, 4),
                "sha256": save_png(
                    Image.fromarray(result.image),
                    self.run.result_path(batch.method, one.sample.index),
                    scratch=self.scratch,
                ),
                "settings": settings,
                "device": str(self.models.device),
                "code": self._code,
                **computed,
                **result.note,
            }
            for one, result in made
        ]
        report(Outcome(batch.method, rows, failures))


def _one_by_one_if_need_be(
    paint: Paint, inputs: Sequence[Input]
) -> tuple[list[tuple[Input, Made]], list[tuple[int, str]], int]:
    """What could be made, (index, message) of what could not, and how many were made at once."""
    made, failures = _attempt(paint, inputs)
    if not failures or len(inputs) == 1:
        return made, failures, len(inputs)
    release_memory()
    single = [_attempt(paint, [one]) for one in inputs]
    made = [pair for pairs, _ in single for pair in pairs]
    return made, [failure for _, failed in single for failure in failed], 1


def _attempt(paint: Paint, inputs: Sequence[Input]) -> tuple[list[tuple[Input, Made]], list[tuple[int, str]]]:
    try:
        return list(zip(inputs, paint(inputs), strict=True)), []
    except Exception as error:
        return [], [(one.sample.index, one_line(error)) for one in inputs]


class Workers:
    """Context manager: one process for each device, which must exist as often as it is named.

    Raises UserError or RuntimeError, from `work`, when one of them gives up or ends.
    """

    def __init__(
        self, devices: Sequence[str], run: Run, entries: Mapping[str, Entry], dtype: str | None, scratch: Path
    ):
        self.devices = list(devices)
        self._arguments = run.path, dict(entries), dtype, scratch, len(self.devices)
        self._processes: dict[connection.Connection, Any] = {}

    def __enter__(self) -> "Workers":
        context = get_context("spawn")
        for device in self.devices:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, device, *self._arguments), name=device)
            process.start()
            theirs.close()  # so that the end of the process ends the connection
            self._processes[ours] = process
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for ours, process in self._processes.items():
            if error is None:
                with suppress(OSError):
                    ours.send(None)  # the end of its work: it gives back what it holds of the system
                process.join(GRACE)
            process.terminate()  # between batches they have nothing to lose
            process.join()
            ours.close()

    def work(self, batches: Iterable[Batch], report: Callable[[Outcome], None]) -> None:
        """Make all `batches`, wherever there is time; `report` is called for each."""
        waiting, under_way = deque(batches), 0
        idle = deque(ours for _ in range(AHEAD) for ours in self._processes)
        while waiting or under_way:
            while waiting and idle:
                with suppress(OSError):  # its process has ended; what it said last, if anything, waits below
                    idle.popleft().send(waiting.popleft())
                under_way += 1
            for ready in connection.wait(list(self._processes)):
                ours = cast(connection.Connection, ready)
                message = self._receive(ours)
                if isinstance(message, Exception):  # its process had to give up
                    raise message
                report(message)
                under_way -= 1
                idle.append(ours)

    def _receive(self, ours: connection.Connection) -> Any:
        try:
            return ours.recv()
        except (EOFError, OSError):
            process = self._processes[ours]
            process.join()
            raise RuntimeError(
                f"the process on {process.name} ended with exit code {process.exitcode}"
            ) from None


def threads_for(device: torch.device, processes: int) -> int:
    """With how many threads one of several processes computes: those on the CPU share what there is."""
    threads = torch.get_num_threads()
    return max(threads // processes, 1) if device.type == "cpu" else threads


def _serve(
    pipe: connection.Connection,
    device: str,
    path: Path,
    entries: Mapping[str, Entry],
    dtype: str | None,
    scratch: Path,
    processes: int,
) -> None:
    """A process of `Workers`: makes the batches that come through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        models = ModelCache(device, dtype)
        torch.set_num_threads(threads_for(models.device, processes))
        Worker(Run.open(path), entries, models, scratch).work(iter(pipe.recv, None), pipe.send)
    except (EOFError, BrokenPipeError):  # the parent is gone
        return
    except UserError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(RuntimeError(f"{device}: {one_line(error)}"))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
