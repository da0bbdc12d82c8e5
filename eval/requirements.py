"""`python -m eval check`: whether all that a config needs is there, and about how much time and disk it
takes."""

import argparse
import importlib.util
import math
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eval import selection
from eval.coco import Coco, Triplet, read_list, sample
from eval.config import Benchmark, Config
from eval.files import read_rows
from eval.metrics import make_metric, read_metrics
from eval.metrics.weights import HOW_TO_INSTALL
from hdpainter.inpaint import FACTOR
from hdpainter.models.registry import PipelineSpec
from hdpainter.pipeline import dtype_policy, usable_device
from ldm.checkpoint import build
from ldm.util import UserError, read_model_config

PACKAGES = {"accuracy": ("mmdet", "mmengine"), "pickscore": ("transformers",)}  # beyond the package's own
MSCOCO = "http://images.cocodataset.org"
BYTES_A_PIXEL = 3.0  # of a lossless picture, at most
LONG = 2.0


@dataclass(frozen=True)
class Need:
    """What may take: pictures to make, evaluations of the network for one of each, bytes on disk."""

    samples: int
    evaluations: Mapping[str, float]
    bytes: float

    @property
    def pictures(self) -> int:
        """How many pictures the models make."""
        return self.samples * len(self.evaluations)


def add_parser(subparsers: Any) -> None:
    """The command ``check``."""
    parser = subparsers.add_parser(
        "check",
        help="look whether all files that a config needs are there, and estimate time and disk",
        description="Lists all that is missing with how to get it (exit code 2), and about what the run takes.",
    )
    parser.set_defaults(run=run)
    selection.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the estimate, and what is missing."""
    config = selection.config_of(args)
    need = needed(config, args.limit, args.methods)
    seconds = seconds_per_evaluation(config, args.devices[0])
    for line in estimate(config, need, seconds, len(args.devices)):
        print(line, flush=True)
    lacking = missing(config, args.methods, f"--config {shlex.quote(args.config)}")
    print("all that it needs is there" if not lacking else f"{len(lacking)} missing:")
    for each in lacking:
        print(f"- {each}")
    return 2 if lacking else 0


def missing(config: Config, methods: Sequence[str] | None = None, source: str | None = None) -> list[str]:
    """Everything that the config needs and that is not there, each with how to get it. Empty if all is
    there. methods: only these runs. source: of the metrics' parameters, see `make_metric`."""
    checks: list[Callable[[], Any]] = [lambda: _samples(config.benchmark)]
    for entry in selection.chosen(config.entries(), methods):
        if not entry.why_not:
            checks.append(entry.how.identity)
    try:
        metrics = read_metrics(config.for_tables.get("metrics", "metrics"))
    except UserError as error:
        return [str(error)]
    for name, params in metrics.items():
        checks.append(lambda name=name: _packages(name))
        checks.append(lambda name=name, params=params: make_metric(name, params, source=source))
    found = [message for check in checks if (message := _complaint(check))]
    return list(dict.fromkeys(found))


def _complaint(check: Callable[[], Any]) -> str | None:
    try:
        check()
    except UserError as error:
        return str(error)
    return None


def _packages(metric: str) -> None:
    absent = [name for name in PACKAGES.get(metric, ()) if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"the metric {metric!r} needs {', '.join(absent)}, which is not installed; {HOW_TO_INSTALL}"
        )


def _samples(benchmark: Benchmark) -> list[Triplet]:
    """The benchmark's triplets, all of whose images are there; none for toy COCO, which is drawn when
    needed."""
    if benchmark.coco == "toy":
        return []
    root = Path(benchmark.coco)
    try:
        coco = Coco(root, benchmark.split)
    except UserError as error:
        raise UserError(str(error) if root.is_dir() else f"{error}; {_how_to_get(root)}") from None
    triplets = (
        read_list(coco, benchmark.list) if benchmark.list else sample(coco, benchmark.samples, benchmark.seed)
    )
    absent = {path for t in triplets if not (path := coco.image_path(t)).is_file()}
    if absent:
        raise UserError(
            f"{len(absent)} images of {root} are missing, such as {min(absent)}; {_how_to_get(root)}"
        )
    return triplets


def _how_to_get(root: Path) -> str:
    return (
        f"get MSCOCO 2017 with: mkdir -p {root} && cd {root} && curl -O {MSCOCO}/zips/val2017.zip -O "
        f"{MSCOCO}/annotations/annotations_trainval2017.zip && unzip val2017.zip && "
        "unzip annotations_trainval2017.zip"
    )


def needed(config: Config, limit: int | None = None, methods: Sequence[str] | None = None) -> Need:
    """What the run makes, counting what is there already too. limit: only so many samples. methods: only these
    runs."""
    benchmark = config.benchmark
    entries = [entry for entry in selection.chosen(config.entries(), methods) if not entry.why_not]
    listed = read_rows(Path(benchmark.list), ["image_idx", "segment_idx"]) if benchmark.list else ()
    samples = min(benchmark.samples or len(listed), limit or math.inf)
    pictures = samples * (1 + len(entries)) + (benchmark.images or 0)
    return Need(
        samples,
        {entry.name: entry.how.cost() for entry in entries},
        pictures * benchmark.size**2 * BYTES_A_PIXEL,
    )


def seconds_per_evaluation(config: Config, device: str | None = None) -> float:
    """Seconds that the model's UNet takes for one picture, measured here: in a batch of the config's, or
    alone where that takes more than `LONG` seconds.

    Its weights are zeros: the time does not depend on them, and nothing is read from disk.
    """
    place = usable_device(device)
    dtype = dtype_policy(config.dtype, place)[""]
    model = read_model_config(PipelineSpec.load(config.model).inpainting.config)
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

    alone = measure(1)
    if alone > LONG:
        return alone
    return min(measure(config.batch_size) for _ in range(3))


def estimate(config: Config, need: Need, seconds: float, devices: int) -> list[str]:
    """What the run takes, in words. seconds: of one evaluation of the network for one picture."""
    total = need.samples * sum(need.evaluations.values()) * seconds / devices
    free = shutil.disk_usage(_existing(Path(config.out))).free
    lines = [
        f"{need.samples} samples, {len(need.evaluations)} methods: {need.pictures} pictures",
        f"time: about {duration(total)} to make them on {devices} device{'s' * (devices > 1)} "
        f"({1000 * seconds:.3g} ms for an evaluation of the UNet, measured here); scoring comes on top",
        f"disk: up to {size(need.bytes)} in {config.out}, {size(free)} free there",
    ]
    if need.bytes > free:
        lines.append("warning: that may not be enough; make room, or give another --out")
    return lines


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def duration(seconds: float) -> str:
    """A time for people: "2:05:00", or days where there are several."""
    return f"{seconds / 86400:.1f} days" if seconds > 2 * 86400 else tqdm.format_interval(seconds)


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 1):.0f} MB"
