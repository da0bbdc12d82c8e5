"""The command line: ``hdpainter inpaint | batch | explain | models | web``.

Exit codes: 0 all done; 1 some jobs failed, or an error of the program; 2 a mistake that the user can mend;
130 interrupted by Ctrl-C. An error is one line on standard error; --debug shows the traceback.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hdpainter.console import DEBUG, Parser, finish
from hdpainter.files import make_folder
from hdpainter.jobs import batch, job_files, plan
from hdpainter.jobs.job import (
    MAX_NAME,
    SETTING_KEYS,
    JobSettings,
    check_values,
    make_job,
    parse_values,
    with_method,
)
from hdpainter.jobs.progress import Progress
from hdpainter.jobs.results import save_result
from hdpainter.models import commands
from hdpainter.models.identity import identify
from hdpainter.models.registry import PipelineSpec
from hdpainter.settings import COMPARED
from hdpainter.web import command as web
from ldm.util import UserError

DEFAULT_MODEL = "mini"
EXPLAIN_KEYS = ("seed", "steps", "guidance_scale", "eta", "negative_prompt", "size")
JOB_FILES = ".yaml, .csv or .jsonl file, or a folder of images with masks"

Load = Callable[[str, str | None, str | None, bool], batch.Painter]
Identify = Callable[[str, bool], dict[str, Any]]


def main(argv: Sequence[str] | None = None, load: Load | None = None, identify: Identify = identify) -> int:
    """Run a command and return its exit code.

    argv: the words after the program's name. load, identify: make a painter, and the identity of its model, from
    a model's name (for tests).
    """

    def command(words: list[str]) -> int | None:
        args = _parser().parse_args(words)
        args.load, args.identify = load or _load, identify
        return args.run(args)

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return finish("hdpainter", argv, command)


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"hdpainter: warning: {message}", file=sys.stderr)


def _load(model: str, device: str | None, dtype: str | None, superres: bool) -> batch.Painter:
    from hdpainter.pipeline import HDPainter  # takes seconds, so only once it is needed

    return HDPainter.from_config(model, device=device, dtype=dtype, superres=superres)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="hdpainter",
        description="High-resolution, prompt-faithful text-guided inpainting.",
        epilog=f"{DEBUG}, anywhere, shows where in the program an error occurred.",
    )
    parser.add_argument("--version", action="version", version=f"hdpainter {_version()}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_inpaint(subparsers)
    _add_batch(subparsers)
    _add_explain(subparsers)
    commands.add_parser(subparsers)
    web.add_parser(subparsers, DEFAULT_MODEL)
    return parser


def _version() -> str:
    try:
        return version("hdpainter-ldm")
    except PackageNotFoundError:
        return "(not installed)"


def _add_inpaint(subparsers: Any) -> None:
    parser = subparsers.add_parser("inpaint", help="fill the masked part of one picture")
    parser.set_defaults(run=_inpaint)
    parser.add_argument("--image", required=True, help="the picture")
    parser.add_argument("--mask", required=True, help="mask of the picture's size; white is filled")
    parser.add_argument("--prompt", required=True, help="what to paint there")
    parser.add_argument(
        "--out", required=True, type=Path, help="PNG to write, with a .json of its settings beside it"
    )
    _add_common(parser, f"model (default: {DEFAULT_MODEL})")


def _add_batch(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "batch",
        help="run a list of jobs; started again, it goes on where it stopped",
        description="Settings given here are for jobs that do not say otherwise.",
    )
    parser.set_defaults(run=_batch)
    parser.add_argument("file", type=Path, metavar="FILE", help=JOB_FILES)
    parser.add_argument(
        "--out", type=Path, help="folder for the results (default: as the file says, or FILE-results)"
    )
    parser.add_argument("--prompt", help="for jobs without one")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="jobs to run at once (default: 1)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only check the jobs and say what would be done"
    )
    _add_common(parser, f"model (default: as the file says, or {DEFAULT_MODEL})")


def _add_explain(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="figures of what the methods do to one picture: attention, PAIntA, RASG, steps",
        description="Settings given here are for all methods.",
    )
    parser.set_defaults(run=_explain)
    parser.add_argument("--image", required=True, help="the picture")
    parser.add_argument("--mask", required=True, help="mask of the picture's size; white is filled")
    parser.add_argument("--prompt", required=True, help="what to paint there")
    parser.add_argument("--out", required=True, type=Path, help="folder for the figures and index.html")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=COMPARED,
        metavar="METHOD",
        help=f"names of methods, or paths of their YAML files (default: {' '.join(COMPARED)})",
    )
    parser.add_argument(
        "--frames", type=int, default=6, metavar="N", help="steps that the figures show (default: 6)"
    )
    _add_common(parser, f"model (default: {DEFAULT_MODEL})", EXPLAIN_KEYS)


def _add_common(parser: argparse.ArgumentParser, model: str, keys: Sequence[str] = SETTING_KEYS) -> None:
    parser.add_argument("--model", help=model)
    for setting in fields(JobSettings):
        if setting.name not in keys:
            continue
        flag, text = f"--{setting.name.replace('_', '-')}", setting.metadata["help"]
        if isinstance(setting.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(flag, metavar=setting.name.split("_")[-1].upper(), help=text)
    parser.add_argument(
        "--device", help="cuda, cuda:1, mps or cpu (default: the first of these that is there)"
    )
    parser.add_argument(
        "--dtype",
        help="float32, bfloat16, float16 (default: by the device)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there already")


def _given_settings(args: argparse.Namespace, keys: Sequence[str]) -> dict[str, Any]:
    """The settings that the command line gives, with paths made independent of the job file's folder.

    Raises UserError for a value of a wrong type or out of range.
    """
    given = {key: value for key in keys if (value := getattr(args, key)) is not None}
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    values = {**given, **parse_values(texts)}
    check_values(values)
    if Path(values.get("method", "")).suffix in (".yaml", ".yml"):
        values["method"] = str(Path(values["method"]).absolute())
    return values


def _inpaint(args: argparse.Namespace) -> int:
    if args.out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out} must end in .png: results are lossless")
    if len(args.out.name.encode(errors="replace")) > MAX_NAME:
        raise UserError(f"--out {args.out.name[:20]}... is longer than {MAX_NAME} bytes; give a shorter name")
    record_path = args.out.with_suffix(".json")
    for path in (args.out, record_path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give another --out")
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} exists; give another --out, or allow --overwrite")
    values = _given_settings(args, ("image", "mask", "prompt", *SETTING_KEYS))
    model = args.model or DEFAULT_MODEL
    job = replace(make_job(values, Path(), "hdpainter inpaint", {}), name=args.out.stem)
    job = with_method(job, PipelineSpec.load(model).method)
    method = job.settings.resolve()
    size = plan.check_pixels(job, method.masks.threshold)
    task = plan.make_task(job, args.out, method, size, args.identify(model, job.settings.superres))
    make_folder(args.out.parent)
    painter = args.load(model, args.device, args.dtype, job.settings.superres)
    started = time.monotonic()
    with Progress() as progress:
        progress.start(args.out.stem)
        (result,) = batch.paint(painter, [task], progress.step)
    save_result(args.out, result.image, batch.make_record(task, result, None))
    seconds = time.monotonic() - started
    print(f"{args.out} and {record_path.name} written after {seconds:.1f} s{batch.remark(result.metadata)}")
    return 0


def _batch(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {args.batch_size}")
    file = job_files.read_jobs(args.file, _given_settings(args, ("prompt", *SETTING_KEYS)))
    source = args.file.resolve()
    beside = source.with_name(f"{source.name if source.is_dir() else source.stem}-results")
    out = args.out or file.out or beside
    model = args.model or file.model or DEFAULT_MODEL
    method = PipelineSpec.load(model).method
    superres = any(job.settings.superres for job in file.jobs)
    identity = args.identify(model, superres)
    if args.dry_run:
        return _dry_run(*plan.plan(file, out, identity, method), out)
    summary = batch.run(
        file,
        out,
        identity,
        method,
        lambda: args.load(model, args.device, args.dtype, superres),
        batch_size=args.batch_size,
        overwrite=args.overwrite,
    )
    return summary.exit_code


def _explain(args: argparse.Namespace) -> int:
    if find_spec("matplotlib") is None:
        raise UserError("the figures need matplotlib: pip install -e '.[explain]'")
    from hdpainter.explain import by_name, explain  # brings the networks with it

    if args.frames < 1:
        raise UserError(f"--frames must be at least 1, not {args.frames}")
    if args.out.is_dir() and any(args.out.iterdir()) and not args.overwrite:
        raise UserError(f"{args.out} is not empty; give another --out, or allow --overwrite")
    values = _given_settings(args, ("image", "mask", "prompt", *EXPLAIN_KEYS))
    job = make_job(values, Path(), "hdpainter explain", {})
    methods = [replace(job.settings, method=name).resolve() for name in args.methods]
    by_name(methods)
    plan.check_pixels(job, methods[0].masks.threshold)
    model = args.model or DEFAULT_MODEL
    args.identify(model, False)  # an unknown model or a missing checkpoint is told before a folder is made
    make_folder(args.out)
    painter = args.load(model, args.device, args.dtype, False)
    with Progress() as progress:
        progress.start("explain")
        explanation = explain(
            painter,
            job.image,
            job.mask,
            job.prompt,
            methods,
            job.settings.seed,
            size=job.settings.size,
            frames=args.frames,
            progress=progress.step,
        )
    print(f"{explanation.save(args.out)} written: {len(explanation.figures)} figures")
    return 0


def _dry_run(tasks: Sequence[plan.Task], problems: Sequence[job_files.Problem], out: Path) -> int:
    for task in tasks:
        note = f": {task.state.message}" if task.state.message else ""
        print(f"{task.state.kind:8} {task.path.name}  {task.job.prompt!r} in {task.job.image.name}{note}")
    for problem in problems:
        print(f"{'bad':8} {problem}")
    counts = {
        kind: sum(task.state.kind == kind for task in tasks) for kind in ("todo", "changed", "done", "taken")
    }
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    print(f"{told or 'nothing to do'}{f', {len(problems)} bad' if problems else ''} -> {out}")
    return int(bool(problems) or counts["taken"] > 0)


if __name__ == "__main__":
    sys.exit(main())
