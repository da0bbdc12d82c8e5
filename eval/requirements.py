"""`python -m eval check`: whether all that a config needs is there, and about how much time and disk it
takes."""

import argparse
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eval.coco import KEYS, Coco, Triplet
from eval.config import Config
from eval.metrics import make_metric, read_metrics
from eval.models import computing_dtype
from eval.plan import Plan
from eval.prepare import draw, folder_of, prompts_of
from eval.rows import read_rows
from eval.runs import RUN_FILE, Run
from hdpainter.inpaint import FACTOR
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.models.devices import threads_for, usable_device
from hdpainter.models.recognise import stage_model
from hdpainter.models.registry import PipelineSpec, find_checkpoint
from hdpainter.team import is_cluster
from ldm.checkpoint import build
from ldm.util import UserError

MSCOCO = "http://images.cocodataset.org"
BYTES_A_PIXEL = 3.0  # of a lossless picture, at most
LONG = 2.0


def report(config: Config, args: argparse.Namespace) -> int:
    """Print the estimate, and what is missing; 2 if something is. args: those of `add_arguments`."""
    plan = planned(config, args.limit, args.methods)
    device = None if is_cluster(args.devices) else args.devices[0]  # a cluster's are not measured
    seconds = seconds_per_evaluation(config, device, len(args.devices))
    for line in estimate(config, plan, seconds, len(args.devices)):
        print(line, flush=True)
    for line in not_run(config):
        print(line)
    lacking = missing(config, args.methods, f"--config {shlex.quote(args.config)}", args.limit)
    print("all that it needs is there" if not lacking else f"{len(lacking)} missing:")
    for each in lacking:
        print(f"- {each}")
    return 2 if lacking else 0


def not_run(config: Config) -> list[str]:
    """The entries that are not run, with why, and with how to get the checkpoints that they lack."""
    lines = []
    for entry in (entry for entry in config.entries() if entry.why_not):
        lines.append(f"{entry.name} is not run: {entry.why_not}")
        for checkpoint in entry.how.checkpoints():
            try:
                find_checkpoint(checkpoint, entry.how.model)
            except UserError as error:
                lines.append(f"- {error}")
    return lines


def missing(
    config: Config,
    methods: Sequence[str] | None = None,
    source: str | None = None,
    limit: int | None = None,
) -> list[str]:
    """Everything that the config needs and that is not there, each with how to get it. Empty if all is there.

    methods, limit: only these runs, only so many samples. source: of the metrics' parameters, see `make_metric`.
    """
    found: list[str] = []

    def ask(check: Callable[..., Any], *arguments: Any) -> Any:
        """What it returns; where it raises a UserError, None."""
        try:
            return check(*arguments)
        except UserError as error:
            found.append(str(error))

    triplets = ask(_samples, config)
    prompts = ask(_prompts, config, triplets[:limit]) if triplets is not None else None
    for entry in config.runs(methods):
        for checkpoint in ask(entry.how.checkpoints) or ():
            ask(find_checkpoint, checkpoint, entry.how.model)
        ask(entry.how.identity)
        ask(entry.how.check, config.benchmark.size)
    metrics = ask(read_metrics, config.for_tables.get("metrics", "metrics")) or {}
    for name, params in metrics.items():
        metric = ask(partial(make_metric, name, params, source=source))
        if metric and prompts:
            ask(metric.check, prompts)
    return list(dict.fromkeys(found))


def _samples(config: Config) -> list[Triplet]:
    """The benchmark's triplets, all of whose images are there; none of toy COCO that is yet to be drawn."""
    benchmark, root = config.benchmark, folder_of(config.benchmark, Path(config.out))
    if benchmark.coco == "toy" and not root.exists():
        return []
    try:
        coco = Coco(root, benchmark.split)
    except UserError as error:
        raise UserError(str(error) if root.is_dir() else f"{error}; {_how_to_get(root)}") from None
    triplets = draw(coco, benchmark)
    absent = {path for t in triplets if not (path := coco.image_path(t)).is_file()}
    if absent:
        raise UserError(
            f"{len(absent)} images of {root} are missing, such as {min(absent)}; {_how_to_get(root)}"
        )
    return triplets


def _prompts(config: Config, triplets: Sequence[Triplet]) -> list[str]:
    """The labels to paint; of toy COCO that is yet to be drawn, all that there may be."""
    return prompts_of(triplets, config.benchmark) or [category.name for category in CATEGORIES]


def _how_to_get(root: Path) -> str:
    return (
        f"get MSCOCO 2017 with: mkdir -p {root} && cd {root} && curl -O {MSCOCO}/zips/val2017.zip -O "
        f"{MSCOCO}/annotations/annotations_trainval2017.zip && unzip val2017.zip && "
        "unzip annotations_trainval2017.zip"
    )


def planned(config: Config, limit: int | None = None, methods: Sequence[str] | None = None) -> Plan:
    """What of the run is not there yet. limit: only so many samples. methods: only these runs.

    Raises UserError if the results folder is damaged.
    """
    benchmark, out = config.benchmark, Path(config.out)
    listed = read_rows(Path(benchmark.list), KEYS) if benchmark.list else ()
    samples = benchmark.samples or len(listed)
    samples = min(samples, limit or samples)
    run = Run.open(out) if (out / RUN_FILE).is_file() else None
    drawn = folder_of(benchmark, out).exists()
    return Plan.of(config.runs(methods), samples, run, 0 if drawn else benchmark.images or 0)


def seconds_per_evaluation(config: Config, device: str | None = None, processes: int = 1) -> float:
    """Seconds that the model's UNet takes for one picture, measured here: in a batch of the config's, or
    alone where that takes more than `LONG` seconds; with the threads that one of so many processes has.

    Its weights are zeros: the time does not depend on them, and nothing is read from disk.
    """
    place = usable_device(device)
    dtype = getattr(torch, computing_dtype(device, config.dtype))
    model = stage_model(PipelineSpec.load(config.model).inpainting, config.trusted).config
    unet_config = model["params"]["unet_config"]
    unet = build(unet_config).to(dtype).to_empty(device=place).eval().requires_grad_(False)
    for weight in unet.parameters():
        weight.zero_()
    channels, width = (unet_config["params"][key] for key in ("in_channels", "context_dim"))
    side = config.benchmark.size // FACTOR

    @torch.no_grad()
    def measure(batch: int) -> float:
        x = torch.zeros(batch, channels, side, side, device=place, dtype=dtype)
        context = torch.zeros(batch, 77, width, device=place, dtype=dtype)
        start = time.perf_counter()
        unet(x, torch.zeros(batch, device=place), context)[0, 0, 0, 0].item()  # waits for the device
        return (time.perf_counter() - start) / batch

    with _threads(threads_for(place, processes)):
        alone = measure(1)
        return alone if alone > LONG else min(measure(config.batch_size) for _ in range(3))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def estimate(config: Config, plan: Plan, seconds: float, devices: int) -> list[str]:
    """What the run takes, in words. seconds: of one evaluation of the network for one picture."""
    total, disk = plan.evaluations * seconds / devices, bytes_of(config, plan)
    free = shutil.disk_usage(_existing(Path(config.out))).free
    lines = [
        f"{plan.samples} samples, {len(plan.entries)} methods: {plan.results} pictures to make"
        + (f", {plan.made} made before" if plan.made else ""),
        f"time: about {duration(total)} to make them on {devices} device{'s' * (devices > 1)} "
        f"({1000 * seconds:.3g} ms for an evaluation of the UNet, measured here); scoring comes on top",
        f"disk: up to {size(disk)} more in {config.out}, {size(free)} free there",
    ]
    if disk > free:
        lines.append("warning: that may not be enough; make room, or give another --out")
    return lines


def bytes_of(config: Config, plan: Plan) -> float:
    """What the pictures to come take on disk, at most."""
    return plan.pictures * config.benchmark.size**2 * BYTES_A_PIXEL


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def duration(seconds: float) -> str:
    """A time for people: "2:05:00", or days where there are several."""
    return f"{seconds / 86400:.1f} days" if seconds > 2 * 86400 else tqdm.format_interval(seconds)


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 1):.0f} MB"
