"""What a team costs: pictures by one and two members, as processes of this machine and as actors of a Ray on it.

    python -m benchmarks.team --pictures 16

First the way there and back alone, of a picture that nobody paints; then the miniature's stage 1. The time is
that from the first answer to the last, so without the start of the members, which is given too.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hdpainter.jobs import batch
from hdpainter.jobs.job_files import read_jobs
from hdpainter.models.identity import identify
from hdpainter.team import open_team
from ldm.util import CONFIGS

TEAMS = (("cpu",), ("ray:1",), ("cpu", "cpu"), ("ray:2",))
PICTURES = CONFIGS / "inference" / "pictures"


@dataclass(frozen=True)
class Echoes:
    """Recruits members who give back what they get."""

    def __call__(self, device: str | None, members: int) -> Any:
        return list


@dataclass(frozen=True)
class Loading:
    """Loads the miniature."""

    def __call__(self, device: str | None) -> Any:
        from hdpainter.pipeline import HDPainter

        return HDPainter.from_config("mini", device=device, dtype="float32", superres=False)


class Answers(io.TextIOBase):
    """A log that notes when there was a line of a finished picture."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def write(self, text: str) -> int:
        if text.startswith("["):
            self.times.append(time.monotonic())
        return len(text)


def echoed(devices: Sequence[str], count: int) -> list[float]:
    """When each picture of 512 x 512 pixels came back."""
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)

    def groups() -> Iterator[list[np.ndarray]]:
        for _ in range(count):
            yield [picture]

    with open_team(devices, Echoes()) as team:
        return [time.monotonic() for _ in team.work(groups())]


def painted(devices: Sequence[str], count: int, steps: int) -> list[float]:
    """When each picture was there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("", "_mask"):
            Image.open(PICTURES / f"garden{kind}.png").save(folder / f"photo{kind}.png")
        job = {"image": "photo.png", "mask": "photo_mask.png", "prompt": "boat", "steps": steps}
        job |= {"superres": False, "method": "stable-inpainting"}
        source, log = folder / "jobs.jsonl", Answers()
        source.write_text("\n".join(json.dumps(job | {"seed": seed}) for seed in range(count)))
        model = identify("mini", superres=False)
        batch.run(read_jobs(source), folder / "out", model, "painta", Loading(), devices=devices, stream=log)
        return log.times


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=16, metavar="N", help="of the miniature")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--echoes", type=int, default=500, metavar="N", help="pictures that nobody paints")
    args = parser.parse_args(argv)
    for devices in TEAMS:
        started = time.monotonic()
        _print(f"{','.join(devices)}: there and back", started, echoed(devices, args.echoes))
        if args.pictures:
            started = time.monotonic()
            times = painted(devices, args.pictures, args.steps)
            _print(f"{','.join(devices)}: the miniature", started, times)


def _print(what: str, started: float, times: Sequence[float]) -> None:
    each = 1e3 * (times[-1] - times[0]) / max(len(times) - 1, 1)
    print(f"{what}: {each:.1f} ms each, the first after {times[0] - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
