"""The command ``hdpainter inpaint``: one picture, or several of the same hole to choose from."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from hdpainter import flags
from hdpainter.console import say
from hdpainter.files import make_folder
from hdpainter.images import save_png
from hdpainter.inputs import described
from hdpainter.jobs import painting, plan
from hdpainter.jobs.again import Again, again
from hdpainter.jobs.job import MAX_NAME, Job, make_jobs, name_key, with_method
from hdpainter.jobs.progress import Progress
from hdpainter.jobs.results import save_result
from hdpainter.jobs.sheet import contact_sheet
from hdpainter.models.registry import PipelineSpec, pipeline_names
from hdpainter.records import SUFFIXES
from ldm.util import UserError


def inpaint(args: argparse.Namespace) -> int:
    """Make the picture, or the pictures of `--num-samples` and their contact sheet."""
    started = time.monotonic()
    made = again(args.made) if args.made else None
    if args.out is None:
        raise UserError("out is missing: give --out FILE.png, or a folder")
    folder = args.out.is_dir() or not args.out.suffix
    jobs = _jobs(args, made, args.out if folder else None)
    own = {}
    if made and not (args.model or args.checkpoint):
        if made.model not in pipeline_names():
            raise UserError(
                f"{made.path} is by the model {made.model}, which has no name here: give --model or --checkpoint"
            )
        own = {"model": made.model}
    model = flags.model_choice(args, own).resolve()
    spec = PipelineSpec.load(model)
    jobs = [with_method(job, spec.method) for job in jobs]
    paths = [args.out / f"{job.name}.png" for job in jobs] if folder else _numbered(args.out, len(jobs))
    sheet = paths[0].with_name(f"{_stem(paths)}-sheet.png") if len(jobs) > 1 else None
    _check_free(
        [*paths, *(path.with_suffix(".json") for path in paths), *filter(None, [sheet])], args.overwrite
    )
    method, superres = jobs[0].settings.resolve(), jobs[0].settings.superres
    _, mask = plan.check_pixels(jobs[0], method)
    identity = args.identify(model, superres)
    tasks = [
        plan.make_task(replace(job, name=path.stem), path, method, identity)
        for job, path in zip(jobs, paths, strict=True)
    ]
    make_folder(paths[0].parent)
    say(f"the mask {described(mask)}")
    plan.warn_of_prompts(jobs, spec)
    if made:
        say(made.compared(tasks[0].inputs))
    say(f"loading {spec.name}")
    painter = args.load(model, args.device, args.dtype, superres)
    pictures, remarks = [], ""
    with Progress(len(tasks)) as progress:
        for task in tasks:
            progress.start(task.path.stem)
            result = painting.paint(painter, task, progress.step)
            record = painting.make_record(task, result, None)
            save_result(task.path, result.image, record, new=not args.overwrite)
            pictures.append(result.image)
            remarks = painting.remark(result.metadata)
            if len(tasks) > 1:
                progress.finish(f"{task.path} written")
    if sheet:
        save_png(contact_sheet(pictures, [f"seed {job.settings.seed}" for job in jobs]), sheet)
    if paths[0].suffix.lower() != ".png":
        remarks += f"; {paths[0].suffix} is lossy: pixels outside the mask are no longer exact, as in a .png"
    written = f"{sheet} and {len(paths)} pictures" if sheet else f"{paths[0]} and {paths[0].stem}.json"
    print(f"{written} written after {time.monotonic() - started:.1f} s{remarks}")
    return 0


def _jobs(args: argparse.Namespace, made: Again | None, folder: Path | None) -> list[Job]:
    """The jobs that the command line asks for, with names that are free in the folder, if there is one."""
    taken = (
        {name_key(path.stem): str(path) for path in folder.iterdir()} if folder and folder.is_dir() else {}
    )
    values = {**(made.values if made else {}), **flags.given(args)}
    return make_jobs(values, Path(), "", taken)


def _numbered(out: Path, count: int) -> list[Path]:
    """The files of so many pictures: `out` itself, or its name with -1, -2, ..."""
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out} must end in .png (lossless), {', '.join(SUFFIXES[1:])}, or be a folder")
    paths = [out] if count == 1 else [out.with_stem(f"{out.stem}-{n}") for n in range(1, count + 1)]
    if len(paths[-1].name.encode(errors="replace")) > MAX_NAME:
        raise UserError(f"--out {out.name[:20]}... is longer than {MAX_NAME} bytes; give a shorter name")
    return paths


def _stem(paths: list[Path]) -> str:
    return paths[0].stem.removesuffix("-1")


def _check_free(paths: list[Path], overwrite: bool) -> None:
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give another --out")
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; give another --out, or allow --overwrite")
