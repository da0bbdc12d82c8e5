"""The command ``hdpainter explain``."""

import argparse
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hdpainter import flags
from hdpainter.console import say
from hdpainter.files import make_folder
from hdpainter.inputs import described
from hdpainter.jobs import plan
from hdpainter.jobs.job import make_job
from hdpainter.jobs.progress import Progress
from hdpainter.models.registry import PipelineSpec
from hdpainter.settings import COMPARED, OBJECTIVES
from ldm.util import UserError

# What concerns stage 1; the methods have a flag of their own.
KEYS = [
    key
    for key, about in flags.SETTINGS.items()
    if about["group"] not in ("output", "stage 2") and key != "method"
]


def add_parser(subparsers: Any) -> None:
    """Add ``explain`` to the commands; the parsed arguments have a `run(args)` that returns the exit status.

    It needs `load` and `identify` as the commands of `hdpainter.jobs.commands` do.
    """
    parser = subparsers.add_parser(
        "explain",
        help="figures of what the methods do to one picture: attention, PAIntA, RASG, steps",
        usage="hdpainter explain --image FILE --mask FILE --prompt TEXT --out FOLDER [settings]",
        description="Settings given here are for all methods.",
    )
    parser.set_defaults(run=run)
    groups = flags.headings(parser)
    flags.methods_told(parser)
    flags.add_picture(groups)
    groups["output"].add_argument(
        "--out", required=True, type=Path, help="folder for the figures and index.html"
    )
    groups["output"].add_argument(
        "--frames", type=int, default=6, metavar="N", help="steps that the figures show (default: 6)"
    )
    groups["output"].add_argument(
        "--overwrite", action="store_true", help="replace figures that are there already"
    )
    flags.add_model(groups["model and method"])
    groups["output"].add_argument(
        "--pixel",
        type=_pixel,
        metavar="X,Y",
        help="pixel to fill whose self-attention is shown (default: the mean of the mask)",
    )
    flags.add_trust(groups["model and method"])
    groups["model and method"].add_argument(
        "--methods",
        nargs="+",
        default=COMPARED,
        metavar="METHOD",
        help=f"names of methods, or paths of their YAML files (default: {' '.join(COMPARED)})",
    )
    groups["model and method"].add_argument(
        "--objectives",
        nargs="+",
        default=[],
        choices=OBJECTIVES,
        metavar="OBJECTIVE",
        help=f"show methods with RASG once for each of these: {', '.join(OBJECTIVES)} (default: the method's)",
    )
    flags.add_settings(groups, KEYS)
    flags.add_machine(groups["machine"])
    flags.add_aliases(parser)


def run(args: argparse.Namespace) -> int:
    """Make the figures and their page."""
    if find_spec("matplotlib") is None:
        raise UserError("the figures need matplotlib: pip install -e '.[explain]'")
    # Brings the networks with it:
    from hdpainter.explain.explanation import by_name, check_pixel, explain, with_objectives

    if args.frames < 1:
        raise UserError(f"--frames must be at least 1, not {args.frames}")
    if args.out.is_dir() and any(args.out.iterdir()) and not args.overwrite:
        raise UserError(f"{args.out} is not empty; give another --out, or allow --overwrite")
    job = make_job(flags.given(args), Path(), "", {})
    methods = [replace(job.settings, method=name).resolve() for name in args.methods]
    methods = with_objectives(methods, args.objectives)
    by_name(methods)
    _, mask = plan.check_pixels(job, methods[0])
    if args.pixel is not None:
        check_pixel(args.pixel, mask)
    model = flags.model_choice(args).resolve()
    spec = PipelineSpec.load(model)
    # An unknown model, a missing checkpoint or one for other methods is told before a folder is made.
    identity = args.identify(model, False)
    for method in methods:
        method.check_model(spec.name, identity.get("text_to_image", False))
    make_folder(args.out)
    say(f"the mask {described(mask)}")
    plan.warn_of_prompts([job], spec)
    say(f"loading {spec.name}")
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
            pixel=args.pixel,
            progress=progress.step,
        )
    print(f"{explanation.save(args.out)} written: {len(explanation.figures)} figures")
    return 0


def _pixel(text: str) -> tuple[int, int]:
    x, _, y = text.partition(",")
    if not (x.isdecimal() and y.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y in pixels from the upper left, such as 120,80")
    return int(x), int(y)
