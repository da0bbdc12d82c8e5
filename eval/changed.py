"""`python -m eval changed RUN`: whether there is anything to do for a reproduction that was finished once.

Like make, it goes by sizes and times of files: those of the run, of the program with its configs, of the
checkpoints and of the annotations. It reads none and imports no networks, so that it takes a moment where the
steps of a reproduction would take a minute to find nothing to do.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hdpainter.files import digest, parse_json, write_json
from hdpainter.models.registry import checkpoint_folders
from ldm.util import CONFIGS, UserError

STAMP = "finished.json"
UNCHANGED = 3  # exit code
_PROGRAM = tuple(CONFIGS.parent / name for name in ("ldm", "hdpainter", "eval", "configs"))


def add_parser(subparsers: Any) -> None:
    """The command ``changed``."""
    parser = subparsers.add_parser(
        "changed",
        help="whether a finished reproduction is to be made again",
        description="Exit code 0: it was not finished, or something changed since. "
        f"{UNCHANGED}: nothing has changed; its tables are printed.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", type=Path, metavar="RUN", help="results folder")
    parser.add_argument("--finished", action="store_true", help="remember that it is finished, as it is now")
    parser.add_argument(
        "asked", nargs=argparse.REMAINDER, metavar="...", help="the arguments of `check` and `generate`"
    )


def run(args: argparse.Namespace) -> int:
    """Remember, or compare and print what is there."""
    if args.finished:
        if not args.folder.is_dir():
            raise UserError(f"{args.folder} is not a results folder")
        write_json(args.folder / STAMP, stamp(args.folder, args.asked))
        return 0
    try:
        finished = parse_json((args.folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    if finished != stamp(args.folder, args.asked):
        return 0
    print(f"nothing has changed since {args.folder} was finished")
    for path in sorted((args.folder / "tables").glob("*.md")):
        print(path.read_text(encoding="utf-8"))
    return UNCHANGED


def stamp(folder: Path, asked: Sequence[str]) -> dict[str, Any]:
    """What a finished run in `folder` was asked for, and digests of the sizes and times of all that it is of."""
    parts: dict[str, Iterable[Path]] = {
        "run": [folder],
        "program": _PROGRAM,
        "checkpoints": checkpoint_folders(),
        "annotations": [Path(root) / "annotations" for root in _values(asked, "--coco")],
    }
    return {"asked": list(asked), **{name: _digest(folders) for name, folders in parts.items()}}


def _values(words: Sequence[str], flag: str) -> list[str]:
    """The values of a flag among the words of a command line."""
    after = [value for word, value in pairwise(words) if word == flag]
    return after + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]


def _digest(folders: Iterable[Path]) -> str:
    return digest([file for folder in folders for file in _files(folder)])


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(path, size, mtime in ns) of the files in a folder, sorted; not of locks and of what this command or Python
    writes."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not there
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in (STAMP, "__pycache__"):
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            about = entry.stat()
            yield entry.path, about.st_size, about.st_mtime_ns
