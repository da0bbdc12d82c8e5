"""What is counted of each part of the campaign."""

import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ldm.util import UserError

HANG = 60.0  # seconds
MOST_MEMORY = 4.0  # GB


@dataclass
class Count:
    """Counts of one part. held: what was as it should be. refused: of these, inputs that one line refused.
    tracebacks, hangs, lost, repeated, half_written: what must not be; `examples` names the first of these.
    slowest: seconds of one input. memory: GB at most. scale, seed, seconds: of the run."""

    part: str
    tried: int = 0
    held: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    lost: int = 0
    repeated: int = 0
    half_written: int = 0
    slowest: float = 0.0
    memory: float = 0.0
    scale: float = 1.0
    seed: int = 0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """All that must not be."""
        wrong = self.tracebacks + self.hangs + self.lost + self.repeated + self.half_written
        return wrong + (self.memory > MOST_MEMORY)

    def note(self, kind: str, example: str) -> None:
        """Count something that must not be."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < 5:
            self.examples.append(f"{kind}: {example[:300]}")

    def call(self, function: Callable[..., Any], *arguments: Any, about: str) -> None:
        """Hand an input to the program: it works, or a UserError of one line says why not."""
        self.tried += 1
        started, problem = time.monotonic(), ""
        try:
            function(*arguments)
        except UserError as error:
            self.refused += 1
            text = str(error)
            problem = "" if "\n" not in text and 0 < len(text) < 1200 else f"no single line: {text[:200]!r}"
        except Exception:
            problem = traceback.format_exc(limit=-2).replace("\n", " | ")
        seconds = time.monotonic() - started
        self.slowest = max(self.slowest, seconds)
        if problem:
            self.note("tracebacks", f"{about}: {problem}")
        elif seconds > HANG:
            self.note("hangs", f"{about}: {seconds:.0f} s")
        else:
            self.held += 1


def peak_memory() -> float:
    """The most memory that this process or one of its children has had, in GB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1e6
