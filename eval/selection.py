"""Which part of a config is run, and how: what `check` and `generate` take from the command line."""

import argparse
from collections.abc import Sequence

from eval.config import Config, Entry
from ldm.util import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that `check` and `generate` share."""
    parser.add_argument("--config", required=True, help="YAML file, or the name of one in configs/eval")
    parser.add_argument("--coco", help="folder of the dataset (default: the config's)")
    parser.add_argument("--prompt", choices=("true", "other"), help="label to paint (default: the config's)")
    parser.add_argument("--out", help="folder for the results (default: the config's)")
    parser.add_argument(
        "--devices",
        type=_devices,
        default=[None],
        help="one process for each: cuda:0,cuda:1 or cpu,cpu (default: the first of cuda, mps and cpu there is)",
    )
    parser.add_argument("--limit", type=int, help="only so many samples, the first of the list")
    parser.add_argument("--methods", nargs="+", help="only these, with or without the values of a grid")
    parser.add_argument("--batch-size", type=int, help="results made at once at most (default: the config's)")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 (default: what the device computes fast)")


def _devices(text: str) -> list[str | None]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} has an empty name: give one or more, such as cuda:0,cuda:1"
        )
    return list(names)


def config_of(args: argparse.Namespace) -> Config:
    """The config that the command line asks for."""
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, not {args.limit}")
    replaced = {key: getattr(args, key) for key in ("out", "coco", "prompt", "batch_size", "dtype")}
    return Config.load(args.config, **replaced)


def chosen(entries: Sequence[Entry], names: Sequence[str] | None) -> list[Entry]:
    """Those of the runs that `names` has by their own names or their entries'; all by default.

    Raises UserError for a name that is neither.
    """
    if names is None:
        return list(entries)
    known = {name for entry in entries for name in (entry.name, entry.base)}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"the config has no method {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return [entry for entry in entries if entry.name in names or entry.base in names]
