"""The commands that take a config of runs: ``generate`` and ``check``.

What they ask of it is checked before torch is imported, which takes seconds.
"""

import argparse
from typing import Any

from eval.config import Config, add_arguments


def add_parser(subparsers: Any) -> None:
    """The commands ``check`` and ``generate``."""
    parser = subparsers.add_parser(
        "check",
        help="look whether all files that a config needs are there, and estimate time and disk",
        description="Lists all that is missing with how to get it (exit code 2), and about what the run takes.",
    )
    parser.set_defaults(run=check)
    add_arguments(parser)
    parser = subparsers.add_parser(
        "generate",
        help="make the results of a config",
        description="Make the results of all methods of a config; start it again to go on after a stop.",
    )
    parser.set_defaults(run=generate)
    add_arguments(parser)


def check(args: argparse.Namespace) -> int:
    """Print what the run takes and what is missing; 2 if something is."""
    config = Config.asked(args)
    config.entries()
    from eval.requirements import report

    return report(config, args)


def generate(args: argparse.Namespace) -> int:
    """Make what the command line asks for; 1 if some results failed."""
    config = Config.asked(args)
    for entry in config.runs(args.methods):
        entry.how.check(config.benchmark.size)
    from eval.generate import generate

    tally = generate(config, devices=args.devices, limit=args.limit, methods=args.methods)
    return int(bool(tally.failures))
