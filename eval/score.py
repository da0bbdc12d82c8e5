"""Scoring finished results: ``python -m eval score RUN [--metric clip ...]``, or of plain folders of pictures.

    python -m eval score RUN [--metric clip accuracy] [--methods hd-painter bld] [--config FILE]
    python -m eval score --images DIR --originals DIR --masks DIR --prompts FILE.csv --metric clip [--out DIR]
    python -m eval score --metric clip --download        fetches the metric's weights

Scores lie in METRIC.csv, and what made them in METRIC.json beside it: the metric's label and settings, what was
left out. Started again, it scores results that are new or were made again, or all if the settings are others; in
plain folders also those whose prompt, mask or original is another.
Rows are saved every few seconds, files are replaced as a whole, and one process at a time writes a metric's file.
"""

import argparse
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from filelock import FileLock, Timeout

from eval.columns import COLUMN, number
from eval.judging import Item, Judges, Pictures, judged
from eval.metrics import METRICS, Metric, make_metric, read_metrics
from eval.rows import read_rows, write_rows
from eval.runs import DIGEST, Run, digest_of, still_holds
from hdpainter.files import CannotWrite, digest, file_sha256, make_folder, parse_json, write_json
from hdpainter.images import load_image, load_mask, suffixes
from hdpainter.jobs.progress import Progress
from hdpainter.team import DEVICES_HELP, Lost, Team, device_names, is_alone, open_team
from ldm.util import UserError

SAVE_SECONDS = 5.0
DEFAULT_CONFIG = "metrics"  # configs/eval/metrics.yaml


def of_run(run: Run, method: str) -> list[Item]:
    """The finished results of a method."""

    def load(index: int) -> Pictures:
        picture = run.result(method, index)
        assert picture is not None, f"result {index} of {method} went away"
        return _checked(run.result_path(method, index), picture, run.mask(index), run.image(index))

    made = run.manifest(method)
    return [
        Item(
            ("index", i),
            run.result_path(method, i),
            run.triplets[i].prompt,
            partial(load, i),
            digest_of(made[i]),
        )
        for i in run.done(method)
    ]


def of_folders(images: Path, originals: Path, masks: Path, prompts: Path) -> list[Item]:
    """Pictures of plain folders. Raises UserError for what is missing.

    prompts: a CSV file with the columns image (a file's name in `images`) and prompt. Originals and masks have
    the same names but for the suffix.
    """
    items, seen = [], set()
    for line, row in enumerate(read_rows(prompts, ["image", "prompt"]), start=2):
        path = images / row["image"]
        if row["image"] in seen:
            raise UserError(
                f"{prompts} line {line} names {row['image']} again: a picture has one prompt; score others "
                "with a list and an --out of their own"
            )
        seen.add(row["image"])
        if not path.is_file():
            raise UserError(f"{prompts} names {row['image']}, which is not in {images}")
        original, mask = _beside(originals, path.stem), _beside(masks, path.stem)

        def load(path: Path = path, original: Path = original, mask: Path = mask) -> Pictures:
            before = load_image(original)
            filled = load_mask(mask, before.size) > 127
            return _checked(path, np.array(load_image(path)), filled, np.array(before))

        content = digest([row["prompt"], *map(file_sha256, (path, original, mask))])
        items.append(Item(("image", row["image"]), path, row["prompt"], load, content))
    if not items:
        raise UserError(f"{prompts} has no rows")
    return items


def _beside(folder: Path, stem: str) -> Path:
    endings = sorted(suffixes())
    found = [folder / (stem + suffix) for suffix in endings if (folder / (stem + suffix)).is_file()]
    if len(found) != 1:
        raise UserError(f"{folder} has {len(found)} pictures named {stem} ({', '.join(endings)}), not one")
    return found[0]


def _checked(path: Path, image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> Pictures:
    if image.shape != original.shape:
        (h, w), (height, width) = image.shape[:2], original.shape[:2]
        raise UserError(
            f"{path} is {w} x {h} pixels but its original is {width} x {height}: save it at that size"
        )
    if not mask.any():
        raise UserError(f"the mask of {path} is empty: there is nothing to score")
    return image, mask, original


def score(
    items: Sequence[Item],
    metric: Metric,
    path: Path,
    *,
    batch_size: int = 16,
    name: str = "",
    progress: Progress | None = None,
    stream: TextIO | None = None,
    team: Team | None = None,
) -> list[dict[str, Any]]:
    """Score `items`, keep the rows in the CSV file `path`, and return them in the order of `items`.

    Rows that are there already and still hold are not made again; their values are text. The next pictures are
    read while the metric works. name: of the items, for the progress: `progress`, or one of its own on `stream`.
    team: of `Judges`, who do the work in place of `metric`.

    Raises UserError for a prompt that the metric cannot judge, and when another process writes at `path`;
    RuntimeError, once the others are scored, for pictures of which members of the team died.
    """
    metric.check([item.prompt for item in items])
    record = _record(metric)
    with _locked(path):
        rows, others = _kept(items, path, record)
        todo = [item for item in items if item.key[1] not in rows]

        def save() -> None:
            done = [rows[item.key[1]] for item in items if item.key[1] in rows]
            write_rows(path, [items[0].key[0], *metric.columns, DIGEST], [*done, *others])

        def begin() -> None:
            save()  # first without what no longer holds, then the record: at no time does it vouch for other rows
            write_json(path.with_suffix(".json"), record)

        if not todo:
            begin()
            return [rows[item.key[1]] for item in items]
        unsaved, saved, begun, left = 0, time.monotonic(), False, len(todo)
        lost: list[tuple[Item, Lost]] = []
        with nullcontext(progress) if progress else Progress(len(todo), stream) as progress:
            progress.start(name)
            try:
                for batch, values in judged(todo, metric, batch_size, team):
                    if not begun:
                        begin()  # not before: a judge that cannot be loaded must not cost the scores of another
                        begun = True
                    for item, row in zip(batch, values, strict=True):
                        if isinstance(row, Lost):
                            lost.append((item, row))
                        else:
                            rows[item.key[1]] = dict([item.key]) | row | {DIGEST: item.digest}
                    unsaved, left = unsaved + len(batch), left - len(batch)
                    if time.monotonic() - saved > SAVE_SECONDS or not left:
                        save()
                        progress.finish(f"{name}: {metric.name}", unsaved)
                        unsaved, saved = 0, time.monotonic()
            finally:
                if unsaved:  # stopped by Ctrl-C or by a picture that cannot be read
                    save()
        if lost:
            item, reason = lost[0]
            raise RuntimeError(
                f"{len(lost)} pictures are not scored, the first is {item.path}: {reason.message}"
            )
        return [rows[item.key[1]] for item in items]


def _record(metric: Metric) -> dict[str, Any]:
    """What made a metric's scores."""
    return {
        "metric": metric.name,
        "label": metric.label,
        "columns": list(metric.columns),
        "settings": metric.settings,
        "notes": metric.notes,
    }


def _kept(
    items: Sequence[Item], path: Path, record: Mapping[str, Any]
) -> tuple[dict[int | str, dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `path` that still hold: made with these settings, of what the items are now. And those of
    pictures, in plain folders, that are on another list."""
    try:
        known = parse_json(path.with_suffix(".json").read_text(encoding="utf-8"))
        same = all(known[key] == json.loads(json.dumps(record[key])) for key in ("settings", "columns"))
        written = path.stat().st_mtime_ns
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        return {}, []
    if not same:
        return {}, []
    column, names = items[0].key[0], {str(item.key[1]) for item in items}
    stored = {row[column]: row for row in read_rows(path, [column])}
    others = [row for name, row in stored.items() if column == "image" and name not in names]
    rows = {
        item.key[1]: {**stored[name], DIGEST: item.digest}
        for item in items
        if (name := str(item.key[1])) in stored and _holds(item, stored[name], written)
    }
    return rows, others


def _holds(item: Item, row: Mapping[str, Any], written: int) -> bool:
    if item.key[0] == "image":  # its digest was computed from the files as they are, and says all
        return row.get(DIGEST) == item.digest
    return still_holds(row, item.digest, item.path, written)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the scores at `path` for this process. The system drops the lock when the process ends."""
    make_folder(path.parent)
    try:
        lock = FileLock(path.with_name(f".{path.stem}.lock")).acquire(blocking=False)
    except Timeout:
        raise UserError(f"another process is writing {path}; let it finish first") from None
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror}") from error
    with lock:
        yield


def means(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The mean of each column of numbers as text, the same as in the tables where these have the column; with n
    where a column has fewer values than there are rows."""
    told = []
    for name in columns:
        try:
            values = np.array([float(row[name]) for row in rows if row[name] not in (None, "")])
        except ValueError:  # words
            continue
        if not len(values):
            continue
        if column := COLUMN.get(name):
            mean = column.outward(column.inward(values).mean())
            text = " ".join(filter(None, (name, number(mean, column.digits), column.unit)))
        else:
            text = f"{name} {values.mean():.4g}"
        told.append(text + (f" (n = {len(values)})" if len(values) < len(rows) else ""))
    return ", ".join(told)


def add_parser(subparsers: Any) -> None:
    """The command ``score``."""
    parser = subparsers.add_parser(
        "score",
        help="score finished results with one metric or all",
        description="Score a results folder, or plain folders of pictures. Started again, it scores what is new.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", nargs="?", type=Path, metavar="RUN", help="results folder of `generate`")
    parser.add_argument(
        "--metric",
        nargs="+",
        choices=METRICS,
        metavar="NAME",
        help=f"{', '.join(METRICS)} (default: the config's)",
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: all that have results")
    parser.add_argument(
        "--config",
        help="the metrics' parameters: a YAML file with `metrics`, or its name in configs/eval, as metrics-mini "
        f"(default: as the run's own config says, or {DEFAULT_CONFIG})",
    )
    plain = parser.add_argument_group("plain folders of pictures")
    plain.add_argument("--images", type=Path, metavar="DIR", help="the results")
    plain.add_argument(
        "--originals", type=Path, metavar="DIR", help="what they were made from, by the same names"
    )
    plain.add_argument(
        "--masks", type=Path, metavar="DIR", help="white where they were filled, by the same names"
    )
    plain.add_argument("--prompts", type=Path, metavar="CSV", help="columns: image (file name), prompt")
    plain.add_argument(
        "--out", type=Path, metavar="DIR", help="for the scores (default: scores within --images)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="pictures at once (default: 16)"
    )
    parser.add_argument(
        "--device", help="cuda, cuda:1, mps or cpu (default: the first of these that is there)"
    )
    parser.add_argument("--devices", type=device_names, help=f"in place of --device: {DEVICES_HELP}")
    parser.add_argument("--download", action="store_true", help="fetch weights that are missing")


def run(args: argparse.Namespace) -> int:
    """Score what the command line names, and print the means."""
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {args.batch_size}")
    given = [args.images, args.originals, args.masks, args.prompts]
    if args.folder and any(given):
        raise UserError(
            "give either a results folder or --images, --originals, --masks and --prompts, not both"
        )
    if not args.folder and not all(given) and (any(given) or not (args.metric and args.download)):
        raise UserError("give a results folder, or all of --images, --originals, --masks and --prompts")
    if args.device and args.devices:
        raise UserError("give --device or --devices, not both")
    results = Run.open(args.folder) if args.folder else None
    configured, source = _configured(args, results)
    metrics = _metrics(args, configured, source)
    for metric in metrics:
        for note in metric.notes:
            print(f"note: {note}")
    if results:
        methods = args.methods or [name for name in results.methods if results.done(name)]
        for name in methods:
            results.method(name)  # refuses names that the run does not have
        sources = {name: (of_run(results, name), results.folder(name) / "scores") for name in methods}
        empty = [name for name, (items, _) in sources.items() if not items]
        if empty or not sources:
            raise UserError(f"{results.path} has no results of {empty[0] if empty else 'any method'} yet")
    elif args.images:
        items = of_folders(args.images, args.originals, args.masks, args.prompts)
        sources = {args.images.name: (items, args.out or args.images / "scores")}
    else:
        print(f"the weights of {', '.join(args.metric)} are there")
        return 0
    for metric in metrics:
        for items, _ in sources.values():
            metric.check([item.prompt for item in items])  # all of them before hours of scoring
    jobs = [
        (name, metric, items, folder / f"{metric.name}.csv")
        for metric in metrics
        for name, (items, folder) in sources.items()
    ]
    total = sum(len(items) - len(_kept(items, path, _record(metric))[0]) for _, metric, items, path in jobs)
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(total)
        )  # over all of them, so that the time left is that of all
        team = None
        if total and args.devices and not is_alone(args.devices):
            settings = {metric.name: metric.settings for metric in metrics}
            judges = Judges(configured, args.download, source, settings)
            team = stack.enter_context(open_team(args.devices, judges))
        for name, metric, items, path in jobs:
            rows = score(
                items, metric, path, batch_size=args.batch_size, name=name, progress=progress, team=team
            )
            print(f"{name}: {metric.label}: {means(rows, metric.columns)}; n = {len(rows)}")
    return 0


def _configured(args: argparse.Namespace, results: Run | None) -> tuple[dict[str, dict[str, Any]], str]:
    """The metrics' parameters, and the arguments of this command that give these."""
    configured = read_metrics(args.config or (results and results.info.get("metrics")) or DEFAULT_CONFIG)
    place = [shlex.quote(str(results.path))] if results else []
    return configured, " ".join([*place, *(["--config", shlex.quote(args.config)] if args.config else [])])


def _metrics(
    args: argparse.Namespace, configured: Mapping[str, Mapping[str, Any]], source: str
) -> list[Metric]:
    """The metrics that the command line names, or all of the config, with the config's parameters."""
    from hdpainter.models.devices import usable_device  # takes seconds, so only once it is needed

    alone = args.devices[0] if args.devices and is_alone(args.devices) else args.device
    device = usable_device(alone)
    names = args.metric or list(configured)
    return [make_metric(name, configured.get(name), device, args.download, source) for name in names]
