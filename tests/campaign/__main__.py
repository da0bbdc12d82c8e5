"""``python -m tests.campaign [--only PART ...] [--scale 1] [--seed 0] [--out docs/reliability.md]``.

At scale 1: 14,000 damaged files, 1,000 hostile checkpoints, 500 downloads from lying servers, 200 kills, 60 full
disks, 20 sessions and 200 jobs in one process. Each part runs in a process of its own and leaves its counts in
``outputs/campaign.json``, so that the table is that of the last run of every part. What must not be is printed
with the seed and the number of its input. Exit status 1 where there is any.
"""

import argparse
import gc
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from hdpainter.jobs.batch import run as run_batch
from hdpainter.jobs.job_files import read_jobs
from tests.campaign import checkpoints, fuzz, kills, servers, web
from tests.campaign.count import Count, peak_memory
from tests.documentation import ROOT, replace_part
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture

Part = Callable[[Path, float, int], Iterator[Count]]
COLUMNS = {
    "part": "part",
    "tried": "tried",
    "held": "held",
    "refused": "of these refused in one line",
    "tracebacks": "tracebacks",
    "hangs": "hangs",
    "lost": "lost",
    "repeated": "repeated",
    "half_written": "half written",
}


def memory(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """Jobs one after the other in one process, of pictures of 4 megapixels: memory does not grow with them."""
    count, number = Count("memory over jobs"), max(int(200 * scale), 10)
    make_picture(folder / "a.png", (2048, 2048))
    make_mask(folder / "m.png", (2048, 2048))
    jobs = ({"image": "a.png", "mask": "m.png", "prompt": f"p{n}", "superres": False} for n in range(number))
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    sizes: list[float] = []

    class Watched(FakePainter):
        def __call__(self, *arguments, **settings):
            gc.collect()
            sizes.append(
                int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e9
            )
            return super().__call__(*arguments, **settings)

    outcome = run_batch(
        read_jobs(folder / "jobs.jsonl"),
        folder / "out",
        MODEL,
        "painta",
        lambda *_: Watched(),
        batch_size=1,
        stream=io.StringIO(),
    )
    count.tried, count.held = number, len(outcome.done)
    if outcome.failed:
        count.note("lost", str(outcome.failed[0]))
    grown = sizes[-1] - max(sizes[: max(number // 4, 5)])
    if grown > 0.2:
        count.note("lost", f"memory grew by {grown:.2f} GB")
    yield count


PARTS: dict[str, Part] = {
    "fuzz": fuzz.run,
    "checkpoints": checkpoints.run,
    "servers": servers.run,
    "kills": kills.run,
    "disk": kills.full_disk,
    "web": web.run,
    "memory": memory,
}


def alone(name: str, scale: float, seed: int) -> list[Count]:
    """The counts of a part, run in a process of its own; one that dies there is one that is lost."""
    receive, send = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with tempfile.TemporaryDirectory() as folder, os.fdopen(send, "w") as pipe:
                for count in PARTS[name](Path(folder), scale, seed):
                    count.memory = peak_memory()
                    pipe.write(json.dumps(asdict(count)) + "\n")
                    pipe.flush()
                    _tell(count)
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(send)
    with os.fdopen(receive) as pipe:
        counts = [Count(**json.loads(line)) for line in pipe]
    _, status = os.waitpid(pid, 0)
    if status:
        counts.append(Count(name, tried=1))
        counts[-1].note("lost", f"the part itself ended with status {status}")
    for count in counts:
        count.scale, count.seed, count.seconds = scale, seed, (time.monotonic() - started) / len(counts)
    return counts


def _tell(count: Count) -> None:
    print(f"{count.part}: {count.held} of {count.tried} held, {count.refused} refused", flush=True)
    for example in count.examples:
        print(f"  {example}", flush=True)


def table(counts: list[Count]) -> str:
    """The counts as Markdown."""
    rows = [
        [f"{getattr(count, name):,}" if name != "part" else count.part for name in COLUMNS]
        for count in counts
    ]
    total = ["all"] + [f"{sum(getattr(count, name) for count in counts):,}" for name in [*COLUMNS][1:]]
    lines = [f"| {' | '.join(row)} |" for row in ([*COLUMNS.values()], ["---"] * len(COLUMNS), *rows, total)]
    scales = ", ".join(sorted({f"{count.scale:g}" for count in counts}))
    seeds = ", ".join(sorted({str(count.seed) for count in counts}))
    lines.append(
        f"\nScale {scales}, seed {seeds}, {sum(count.seconds for count in counts) / 60:.0f} minutes on a busy "
        f"machine; the slowest input took {max(count.slowest for count in counts):.1f} s; at most "
        f"{max(count.memory for count in counts):.1f} GB of memory in one process."
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)}; none: only the table",
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=ROOT / "outputs" / "campaign.json", help="counts so far")
    parser.add_argument("--out", type=Path, help="Markdown file whose table is replaced")
    args = parser.parse_args()
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"there is no part {min(unknown)}")
    kept = json.loads(args.log.read_text(encoding="utf-8")) if args.log.is_file() else {}
    args.log.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        kept[name] = [asdict(count) for count in alone(name, args.scale, args.seed)]
        args.log.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    counts = [Count(**values) for name in PARTS for values in kept.get(name, ())]
    text = table(counts)
    print(text)
    if args.out:
        replace_part(args.out, "campaign", text)
    return int(any(count.bad for count in counts))


if __name__ == "__main__":
    sys.exit(main())
