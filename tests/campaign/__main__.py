"""``python -m tests.campaign [--scale 1] [--seed 0] [--parts fuzz kills memory] [--out docs/reliability.md]``.

At scale 1: 15,000 damaged files, 200 kills, 50 full disks, 200 jobs in one process. Every part prints its counts;
what must not be is printed with the seed and the number of its input. Exit status 1 where there is any.
"""

import argparse
import gc
import importlib
import importlib.util
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hdpainter.jobs.batch import run as run_batch
from hdpainter.jobs.job_files import read_jobs
from tests.campaign import fuzz, kills
from tests.campaign.count import MOST_MEMORY, Count, peak_memory
from tests.documentation import replace_part
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture

Part = Callable[[Path, float, int], Iterator[Count]]


def memory(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """Jobs one after the other in one process, of pictures of 4 megapixels: memory does not grow with them."""
    count, number = Count("memory over jobs"), max(int(200 * scale), 10)
    make_picture(folder / "a.png", (2048, 2048))
    make_mask(folder / "m.png", (2048, 2048))
    jobs = ({"image": "a.png", "mask": "m.png", "prompt": f"p{n}", "superres": False} for n in range(number))
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    file = read_jobs(folder / "jobs.jsonl")
    outcome = run_batch(
        file, folder / "out", MODEL, "painta", lambda *_: FakePainter(), batch_size=1, stream=io.StringIO()
    )
    gc.collect()
    count.tried, count.held = number, len(outcome.done)
    if outcome.failed:
        count.note("lost", str(outcome.failed[0]))
    yield count


def parts() -> dict[str, Part]:
    """The parts by name; `tests/campaign/web.py`, where it is there, has one more: sessions of the page."""
    found: dict[str, Part] = {"fuzz": fuzz.run, "kills": kills.run, "memory": memory}
    if importlib.util.find_spec("tests.campaign.web"):
        found["web"] = importlib.import_module("tests.campaign.web").run
    return found


def table(counts: list[Count], scale: float, seed: int, seconds: float) -> str:
    """The counts as Markdown."""
    head = (
        "part",
        "tried",
        "held",
        "refused in one line",
        "tracebacks",
        "hangs",
        "lost",
        "repeated",
        "half written",
    )
    rows = [
        (c.part, c.tried, c.held, c.refused, c.tracebacks, c.hangs, c.lost, c.repeated, c.half_written)
        for c in counts
    ]
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    slowest = max((count.slowest for count in counts), default=0)
    lines.append(
        f"\nScale {scale:g}, seed {seed}, {seconds / 60:.0f} minutes; the slowest input took {slowest:.1f} s; "
        f"at most {peak_memory():.1f} GB of memory."
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign."""
    known = parts()
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--out", type=Path, help="Markdown file whose table is replaced")
    args = parser.parse_args()
    started, counts = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.parts:
            place = Path(folder) / name
            place.mkdir()
            for count in known[name](place, args.scale, args.seed):
                counts.append(count)
                print(
                    f"{count.part}: {count.held} of {count.tried} held, {count.refused} refused", flush=True
                )
                for example in count.examples:
                    print(f"  {example}", flush=True)
    text = table(counts, args.scale, args.seed, time.monotonic() - started)
    print(text)
    if args.out:
        replace_part(args.out, "campaign", text)
    return int(any(count.bad for count in counts) or peak_memory() > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
