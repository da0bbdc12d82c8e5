"""Processes that are killed at random moments, and full disks: nothing is lost, repeated or half written."""

import io
import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from eval.config import Config
from eval.generate import generate
from eval.metrics import make_metric
from eval.runs import Run
from eval.score import of_run, score
from hdpainter.jobs.batch import run as run_batch
from hdpainter.jobs.job_files import read_jobs
from hdpainter.mini.world import toycoco
from hdpainter.models.download import download
from tests.campaign import training
from tests.campaign.count import HANG, Count
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture

JOBS = 12
Contents = dict[str, Any]


def child(work: Callable[[], Any], seconds: float | None, largest: int | None = None) -> int | None:
    """The exit status of `work` in a process of its own, killed after `seconds`; None if it hangs.

    largest: bytes that a file may have there, as if the disk were full.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            if largest is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            work()
            status = 0
        finally:
            os._exit(status)
    ends = time.monotonic() + (HANG if seconds is None else seconds)
    while time.monotonic() < ends:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None if seconds is None else -signal.SIGKILL


def killed(
    part: str,
    rng: random.Random,
    kills: int,
    prepare: Callable[[Path], tuple[Callable, Callable]],
    folder: Path,
) -> Count:
    """`prepare(folder)` gives (work, contents): the work is killed until enough, and then ends as it should.

    contents: what is there, by name, without what differs by nature (times). Repeated work shows in it too.
    """
    count = Count(part)
    work, contents = prepare(folder / "whole")
    started = time.monotonic()
    status = child(work, None)
    length, whole = time.monotonic() - started, contents()
    if status or not whole:
        count.note("lost", f"the work ends with status {status} where nobody disturbs it")
        return count
    turn = 0
    while count.tried < kills:
        turn += 1
        work, contents = prepare(folder / f"turn-{turn}")
        deaths, most = 0, min(10, kills - count.tried)
        while deaths < most and child(work, rng.uniform(0, length)) == -signal.SIGKILL:
            deaths += 1
        count.tried += deaths
        if child(work, None) is None:
            count.note("hangs", f"turn {turn}")
        found = contents()
        diary = folder / f"turn-{turn}" / "diary"  # what was painted; a death costs the one under way at most
        if diary.is_file() and len(diary.read_text().splitlines()) > JOBS + deaths:
            count.note("repeated", f"turn {turn}")
        if missing := whole.keys() - found.keys():
            count.note("lost", f"turn {turn}: {sorted(missing)[:3]}")
        elif more := found.keys() - whole.keys():
            count.note("half_written", f"turn {turn}: {sorted(more)[:3]}")
        elif other := [name for name in whole if whole[name] != found[name]]:
            count.note("half_written", f"turn {turn}: {other[:3]} differ")
    count.held = max(count.tried - count.bad, 0)
    return count


def run(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """40 kills of each kind at scale 1."""
    kills = max(int(40 * scale), 3)
    root = folder / "toy"
    toycoco.export("val", 6, 64, root, 1)
    server = _server(folder / "site")
    for part, prepare in (
        ("batch", _batch),
        ("generate", _generate(root)),
        ("score", _score(root)),
        ("download", server),
        ("train", training.prepare),
    ):
        yield killed(f"kill -9: {part}", random.Random(f"{seed} {part}"), kills, prepare, folder / part)


def _files(path: Path) -> Contents:
    places = (place for place in path.rglob("*") if place.is_file())
    return {place.relative_to(path).as_posix(): place.read_bytes() for place in places}


def _batch(folder: Path) -> tuple[Callable, Callable]:
    make_picture(folder / "a.png")
    make_mask(folder / "m.png")
    jobs = ({"name": f"j{n}", "image": "a.png", "mask": "m.png", "prompt": f"p{n}"} for n in range(JOBS))
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    diary = folder / "diary"

    def work() -> None:
        painter = FakePainter(delay=0.005, diary=diary)
        file = read_jobs(folder / "jobs.jsonl")
        run_batch(file, folder / "out", MODEL, "hd-painter", lambda *_: painter, stream=io.StringIO())

    def contents() -> Contents:
        found = {
            name: data for name, data in _files(folder / "out").items() if not name.startswith(".hdpainter")
        }
        found.pop("summary.json", None)
        return found

    return work, contents


def _config(folder: Path, root: Path) -> Config:
    values = {
        "out": str(folder / "run"),
        "benchmark": {"coco": str(root), "samples": 6, "size": 64},
        "methods": {"mean": {"kind": "mean"}, "telea": {"kind": "telea"}, "original": {"kind": "original"}},
        "batch_size": 2,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(values))
    return Config.load(folder / "config.yaml")


def _results(folder: Path) -> Contents:
    """Pictures by their bytes, manifests by their rows, each without times."""
    found = _files(folder / "run")
    for name in list(found):
        if name.startswith(".hdpainter") or name.endswith(".lock"):
            del found[name]
        elif name.endswith("manifest.jsonl"):
            rows = sorted(map(json.loads, found[name].decode().splitlines()), key=lambda row: row["index"])
            found[name] = [(row["index"], row["seed"], row["sha256"]) for row in rows]
    return found


def _generate(root: Path) -> Callable[[Path], tuple[Callable, Callable]]:
    def prepare(folder: Path) -> tuple[Callable, Callable]:
        config = _config(folder, root)
        return lambda: generate(config, stream=io.StringIO()), lambda: _results(folder)

    return prepare


def _score(root: Path) -> Callable[[Path], tuple[Callable, Callable]]:
    def prepare(folder: Path) -> tuple[Callable, Callable]:
        child(lambda: generate(_config(folder, root), stream=io.StringIO()), None)

        def work() -> None:
            run = Run.open(folder / "run")
            for name in run.methods:
                for metric in ("seam", "saturation"):
                    items = of_run(run, name)
                    score(
                        items,
                        make_metric(metric),
                        run.score_path(name, metric),
                        batch_size=1,
                        stream=io.StringIO(),
                    )

        return work, lambda: _results(folder)

    return prepare


def _server(site: Path) -> Callable[[Path], tuple[Callable, Callable]]:
    """Downloads from a server in a thread of this process."""
    site.mkdir(parents=True)
    data = save({"weight": torch.arange(300_000, dtype=torch.float32)})
    (site / "w.safetensors").write_bytes(data)

    class Slow(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments, directory=str(site))

        def copyfile(self, source: Any, outputfile: Any) -> None:
            while block := source.read(1 << 16):
                outputfile.write(block)
                time.sleep(0.002)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.handle_error = lambda *_: None  # a client that was killed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/w.safetensors"
    os.environ["no_proxy"] = "127.0.0.1"

    def prepare(folder: Path) -> tuple[Callable, Callable]:
        folder.mkdir(parents=True)

        def contents() -> Contents:
            return {name: data for name, data in _files(folder).items() if not name.endswith(".stat")}

        return lambda: download([url], folder / "w.safetensors", progress=False, pause=0), contents

    return prepare


def full_disk(folder: Path, scale: float, seed: int) -> Iterator[Count]:
    """Batches, benchmarks and scorings whose files may not grow beyond a random size, and then may again."""
    number = max(int(20 * scale), 3)
    toycoco.export("val", 6, 64, folder / "toy", 1)
    for part, prepare in (
        ("batch", _batch),
        ("generate", _generate(folder / "toy")),
        ("score", _score(folder / "toy")),
    ):
        count, rng = Count(f"full disk: {part}"), random.Random(f"{seed} full {part}")
        work, contents = prepare(folder / part / "whole")
        if child(work, None) or not (whole := contents()):
            count.note("lost", "the work fails where nobody disturbs it")
        for turn in range(number):
            work, contents = prepare(folder / part / f"turn-{turn}")
            count.tried += 1
            if child(work, None, largest=rng.randrange(0, 6000)) is None or child(work, None) is None:
                count.note("hangs", f"turn {turn}")
            if contents() != whole:
                count.note("lost", f"turn {turn}")
        count.held = count.tried - count.bad
        yield count
