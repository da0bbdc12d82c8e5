"""The benchmark's command line: ``python -m eval triplets | check | generate | score | table | report``.

Exit codes: 0 all done; 1 some results failed, or an error of the program; 2 a mistake that the user can mend;
130 interrupted by Ctrl-C. An error is one line on standard error; --debug shows the traceback.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from hdpainter.batch import one_line
from ldm.util import UserError

DEBUG = "--debug"
COMMANDS = {  # each module has add_parser(subparsers) and run(args) -> exit code
    "triplets": "eval.coco",
    "check": "eval.requirements",
    "generate": "eval.generate",
    "score": "eval.score",
    "table": "eval.tables",
    "report": "eval.report",
}


class _Parser(argparse.ArgumentParser):
    """Reports mistakes like any other UserError; takes no abbreviated flags."""

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. argv: the words after the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in words
    words = [word for word in words if word != DEBUG]
    try:
        args = _parser(words).parse_args(words)
        return args.run(args) or 0
    except KeyboardInterrupt:
        return _fail("interrupted; start again to go on", 130)
    except UserError as error:
        if debug:
            raise
        return _fail(f"error: {error}", 2)
    except Exception as error:
        if debug:
            raise
        return _fail(f"error: {one_line(error)} (--debug shows where)", 1)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m eval",
        description="The benchmark: draw samples, make results, score them, print tables and a report.",
        epilog=f"{DEBUG}, anywhere, shows where in the program an error occurred.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = next((word for word in words if word in COMMANDS), None)
    for module in [COMMANDS[asked]] if asked else COMMANDS.values():  # importing them takes seconds
        importlib.import_module(module).add_parser(subparsers)
    return parser


def _fail(message: str, code: int) -> int:
    print(f"eval: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
