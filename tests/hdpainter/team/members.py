"""Members that need no models, so that teams can be tested quickly."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ldm.util import UserError


@dataclass(frozen=True)
class Doublers:
    """Recruits members who double numbers; in `diary` each of them writes a line for each item begun.

    Of an item in `deadly` its member dies: once, if it is the file of the dead's ids that it names, else always.
    """

    diary: Path
    deadly: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    useless: bool = False

    def __call__(self, device, members):
        if self.useless:
            raise UserError(f"device {device!r} is of no use here")
        return self.double

    def double(self, items):
        for item in items:
            with self.diary.open("a") as file:
                file.write(f"{os.getpid()} {item}\n")
        for item in items:
            mark = self.diary.with_name(f"died-of-{item}")
            if item in self.deadly or (item in self.once and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item < 0:
                raise ValueError(f"{item} cannot be doubled")
        time.sleep(0.01)
        return [2 * item for item in items]

    def begun(self):
        """(process, item) in the order in which they were begun."""
        return [tuple(map(int, line.split())) for line in self.diary.read_text().splitlines()]
