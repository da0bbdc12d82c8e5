"""The commands that make pictures: ``hdpainter inpaint | batch``."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdpainter import flags
from hdpainter.inputs import described
from hdpainter.jobs import batch, inpaint, plan
from hdpainter.jobs.job_files import Problem, read_jobs
from hdpainter.jobs.painting import Painter
from hdpainter.models.registry import DEFAULT_MODEL, PipelineSpec
from hdpainter.team import DEVICES_HELP, device_names
from ldm.util import UserError

LOOKED_AT = 1000  # masks, by a dry run
JOB_FILES = ".yaml, .csv or .jsonl file, or a folder of images with masks"


def add_parsers(subparsers: Any) -> None:
    """Add both to the commands; the parsed arguments have a `run(args)` that returns the exit status.

    It needs two more of the arguments: `load(model, device, dtype, superres)` makes a painter, and
    `identify(model, superres)` the identity of its models.
    """
    parser = subparsers.add_parser(
        "inpaint",
        help="fill the masked part of one picture",
        usage="hdpainter inpaint --image FILE --mask FILE --prompt TEXT --out FILE [settings]\n"
        "       hdpainter inpaint --from RESULT --out FILE [settings]",
    )
    parser.set_defaults(run=inpaint.inpaint)
    groups = flags.headings(parser)
    flags.methods_told(parser)
    flags.add_picture(groups)
    groups["output"].add_argument(
        "--out",
        type=Path,
        help="PNG to write, with a .json of its settings beside it; or a folder; or a .jpg or .webp, lossy",
    )
    groups["input"].add_argument(
        "--from",
        dest="made",
        type=Path,
        metavar="RESULT",
        help="make a result again, by its picture or .json, with what else is given in place of its own",
    )
    _add_common(groups, DEFAULT_MODEL)
    flags.add_aliases(parser)

    parser = subparsers.add_parser(
        "batch",
        help="run a list of jobs; started again, it goes on where it stopped",
        usage="hdpainter batch FILE [--out FOLDER] [--dry-run] [settings]",
        description="Settings given here are for jobs that do not say otherwise.",
    )
    parser.set_defaults(run=run_batch)
    groups = flags.headings(parser)
    flags.methods_told(parser)
    groups["input"].add_argument("file", type=Path, metavar="FILE", help=JOB_FILES)
    groups["what to paint"].add_argument("--prompt", help="for jobs without one")
    groups["output"].add_argument(
        "--out", type=Path, help="folder for the results (default: as the file says, or FILE-results)"
    )
    groups["output"].add_argument(
        "--dry-run", action="store_true", help="only check the jobs and say what would be done"
    )
    groups["machine"].add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="jobs to run at once (default: 1)"
    )
    groups["machine"].add_argument("--devices", type=device_names, help=DEVICES_HELP)
    _add_common(groups, f"as the file says, or {DEFAULT_MODEL}")
    flags.add_aliases(parser)


def _add_common(groups: flags.Groups, model: str) -> None:
    groups["output"].add_argument(
        "--overwrite", action="store_true", help="replace pictures that are there already"
    )
    groups["output"].add_argument(
        "--num-samples", metavar="N", help="pictures with this many seeds, from the seed on (default: 1)"
    )
    flags.add_model(groups["model and method"], model)
    flags.add_trust(groups["model and method"])
    flags.add_settings(groups)
    flags.add_machine(groups["machine"])


def run_batch(args: argparse.Namespace) -> int:
    """Make the pictures of a job file, or say what there is to do."""
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {args.batch_size}")
    if args.device and args.devices:
        raise UserError("give --device or --devices, not both")
    file = read_jobs(args.file, flags.given(args))
    source = args.file.resolve()
    beside = source.with_name(f"{source.name if source.is_dir() else source.stem}-results")
    out = args.out or file.out or beside
    model = flags.model_choice(args, file.model).resolve()
    spec = PipelineSpec.load(model)
    method = spec.method
    plan.warn_of_prompts(file.jobs, spec)
    superres = any(job.settings.superres for job in file.jobs)
    identity = args.identify(model, superres)
    if args.dry_run:
        return _dry_run(*plan.plan(file, out, identity, method), out)
    outcome = batch.run(
        file,
        out,
        identity,
        method,
        _Loading(args.load, model, args.dtype, superres),
        devices=args.devices or [args.device],
        batch_size=args.batch_size,
        overwrite=args.overwrite,
    )
    return outcome.exit_code


@dataclass(frozen=True)
class _Loading:
    """Makes a painter on a device; for the members of a team it must be picklable."""

    load: Callable[[str | PipelineSpec, str | None, str | None, bool], Painter]
    model: str | PipelineSpec
    dtype: str | None
    superres: bool

    def __call__(self, device: str | None) -> Painter:
        return self.load(self.model, device, self.dtype, self.superres)


def _dry_run(tasks: Sequence[plan.Planned], problems: Sequence[Problem], out: Path) -> int:
    bad, counts, looked, unseen = list(problems), Counter[str](), 0, 0
    for task in tasks:
        note = f": {task.state.message}" if task.state.message else ""
        mask = ""
        if task.state.kind in ("todo", "changed") and looked == LOOKED_AT:
            unseen += 1
        elif task.state.kind in ("todo", "changed"):
            looked += 1
            try:
                mask = f", {described(plan.look_at_mask(task.job, task.method))}"
            except UserError as error:
                bad.append(Problem(task.job.where, str(error)))
                continue
        counts[task.state.kind] += 1
        image = task.job.image.name
        print(f"{task.state.kind:8} {task.path.name}  {task.job.prompt!r} in {image}{mask}{note}")
    for problem in bad:
        print(f"{'bad':8} {problem}")
    told = ", ".join(
        f"{counts[kind]} {kind}" for kind in ("todo", "changed", "done", "taken") if counts[kind]
    )
    if unseen:
        print(f"only the first {looked} masks were looked at: all {looked + unseen} would take minutes")
    print(f"{told or 'nothing to do'}{f', {len(bad)} bad' if bad else ''} -> {out}")
    return int(bool(bad) or counts["taken"] > 0)
