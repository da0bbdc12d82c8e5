"""A kind of method whose process may end while it works."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from eval.kinds.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Mortal(Pipeline):
    """Stage 1, by processes that note in `folder` which samples they begin, and die of one: of `once` the first
    time, of `always` each time. `poisoned` only fails."""

    folder: str
    once: int = -1
    always: int = -1
    poisoned: int = -1

    def load(self, models, progress):
        paint, folder = super().load(models, progress), Path(self.folder)

        def guarded(inputs):
            indices = [one.sample.index for one in inputs]
            with (folder / "begun.txt").open("a") as file:
                file.writelines(f"{os.getpid()} {index}\n" for index in indices)
            for index in indices:
                mark = folder / f"died-of-{index}"
                if index == self.always or (index == self.once and not mark.exists()):
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if index == self.poisoned:
                    raise RuntimeError("poison")
            return paint(inputs)

        return guarded
