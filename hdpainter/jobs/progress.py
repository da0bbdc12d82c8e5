"""Showing how far a run is: two bars on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

OnStep = Callable[[str, int, int], None]  # (stage, step, steps), after each step


class Progress:
    """Context manager around a run of `total` pictures.

    On a terminal a bar over the pictures, with the time left, stands above one over the steps of the current
    picture (or batch). Elsewhere (a log file, a pipe) there is a line for each picture and, for one that takes
    longer than `quiet` seconds, a line about its steps that often.
    """

    def __init__(self, total: int = 1, stream: TextIO | None = None, quiet: float = 10.0):
        self.total, self.done, self.quiet = total, 0, quiet
        self.stream = stream or sys.stderr
        self.on_terminal = self.stream.isatty()
        self._stage = self._label = ""
        self._started: float | None = None
        self._said = time.monotonic()
        self._steps: tqdm | None = None
        self._pictures: tqdm | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_steps()
        if self._pictures is not None:
            self._pictures.close()

    def start(self, label: str) -> None:
        """The next picture or batch, `label`, begins. The clock starts with the first."""
        self._close_steps()
        self._label, self._said = label, time.monotonic()
        if self._started is None:
            self._started = time.monotonic()
            if self.on_terminal and self.total > 1:
                self._pictures = tqdm(
                    total=self.total, unit="picture", file=self.stream, position=0, dynamic_ncols=True
                )

    def step(self, stage: str, step: int, total: int) -> None:
        """`step` of `total` steps of a stage are done: the `progress` callback of HDPainter."""
        if not self.on_terminal:
            if time.monotonic() - self._said >= self.quiet:
                self.say(f"{self._label}: {stage} {step}/{total}")
            return
        if self._steps is None or stage != self._stage or step < self._steps.n:
            self._close_steps()
            self._stage = stage
            self._steps = tqdm(
                total=total,
                desc=f"{self._label}: {stage}"[:60],
                unit="step",
                file=self.stream,
                position=int(self._pictures is not None),
                leave=False,
                dynamic_ncols=True,
            )
        self._steps.update(step - self._steps.n)

    def finish(self, message: str, pictures: int = 1) -> None:
        """`pictures` more are finished, well or badly."""
        self.done += pictures
        self._close_steps()
        if self._pictures is not None:
            self._pictures.update(pictures)
        started = self._started or time.monotonic()
        left = (time.monotonic() - started) / self.done * (self.total - self.done)
        ending = (
            f" ({tqdm.format_interval(left)} left)" if self.done < self.total and not self.on_terminal else ""
        )
        self.say(f"[{self.done}/{self.total}] {message}{ending}")

    def say(self, message: str) -> None:
        """Print a line without breaking the bars."""
        if self.on_terminal:
            tqdm.write(message, file=self.stream)
        else:
            print(message, file=self.stream, flush=True)
            self._said = time.monotonic()

    def _close_steps(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps = None
