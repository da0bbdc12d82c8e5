"""Batches of very many photos: how long it takes until the first is painted, and the memory that it takes.

    python -m benchmarks.planning --photos 100000

The photos are small and each is another; nothing is painted. "Planned again" is for each photo whose result is
there, as when a batch is started again.
"""

import argparse
import io
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hdpainter.jobs.batch import run
from hdpainter.jobs.job_files import read_jobs
from hdpainter.models.identity import identify

SIZE = (32, 24)
DONE = 1000  # photos that are painted, to be planned again
PAINTED = 3000  # of all


@dataclass
class Idle:
    """A painter that gives back what it gets, and notes when it was first asked, and at what memory in MB.

    Ctrl-C after `few` photos.
    """

    few: int | None = None
    began: float = 0.0
    memory: float = 0.0
    made: int = 0
    metadata: dict[str, Any] = field(default_factory=lambda: {"mask_share": 0.33, "mask_parts": 1})
    image: Image.Image = field(default_factory=lambda: Image.new("RGB", SIZE))

    def __call__(self, image: list, *_: Any, **__: Any) -> list:
        self.began, self.memory = self.began or time.monotonic(), self.memory or megabytes()
        self.made += len(image)
        if self.few is not None and self.made > self.few:
            raise KeyboardInterrupt
        return [self] * len(image)


def photos(folder: Path, count: int) -> None:
    """Photos that differ in their last bytes, and their mask."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    buffer, mask = io.BytesIO(), np.zeros((SIZE[1], SIZE[0]), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    mask[6:18, 8:24] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for number in range(count):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:06d}.png").write_bytes(buffer.getvalue() + b"%d" % number)


def jobs(folder: Path, count: int) -> Path:
    """A job file of the first photos."""
    path = folder / f"first-{count}.jsonl"
    with path.open("w") as file:
        for n in range(count):
            job = {
                "image": f"{n // 1000:03d}/{n:06d}.png",
                "mask": "mask.png",
                "prompt": "boat",
                "name": f"{n}",
            }
            file.write(f"{json.dumps(job)}\n")
    return path


def planned(source: Path, painter: Idle) -> float:
    """Seconds from the start of a batch to its first photo, or its end."""
    started = time.monotonic()
    out = source.with_name("out")
    run(read_jobs(source), out, identify("mini"), "hd-painter", lambda _: painter, stream=io.StringIO())
    return (painter.began or time.monotonic()) - started


def megabytes() -> float:
    """The most memory that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=100_000, metavar="N")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos(folder, args.photos)
        few = jobs(folder, min(DONE, args.photos))
        planned(few, Idle())  # paints them all, and loads what is loaded once
        done, before, cpu = min(DONE, args.photos), megabytes(), time.process_time()
        seconds = planned(few, Idle())
        each = 1e3 * (time.process_time() - cpu) / done
        print(f"{done} planned again: {each:.2f} ms of CPU each, {seconds:.1f} s")
        (folder / "out").rename(folder / "old")
        many, cpu = jobs(folder, args.photos), time.process_time()
        planned(many, Idle(few=0))
        each = 1e3 * (time.process_time() - cpu) / args.photos
        print(f"{args.photos} planned: {each:.2f} ms of CPU each")
        print(f"memory at most {megabytes():.0f} MB, {before:.0f} MB of it before")
        (folder / "out").rename(folder / "older")
        painter = Idle(few=PAINTED)
        seconds = planned(many, painter)
        print(
            f"{seconds:.1f} s until the first was painted, memory at most {painter.memory:.0f} MB then, "
            f"{megabytes():.0f} MB after {painter.made - 1}"
        )


if __name__ == "__main__":
    main()
