"""The benchmark's command line: ``python -m eval triplets | check | generate | score | table | report | study``.

Exit codes: 0 all done; 1 some results failed, or an error of the program; 2 a mistake that the user can mend;
130 interrupted by Ctrl-C. An error is one line on standard error; --debug shows the traceback.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from hdpainter.console import DEBUG, Parser, finish

COMMANDS = {  # each module has add_parser(subparsers); what they parse has a run(args) -> exit code
    "triplets": "eval.coco",
    "check": "eval.commands",
    "changed": "eval.changed",
    "generate": "eval.commands",
    "score": "eval.score",
    "table": "eval.tables",
    "report": "eval.report",
    "study": "eval.study",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. argv: the words after the program's name."""

    def command(words: list[str]) -> int | None:
        args = parser_of(words).parse_args(words)
        return args.run(args)

    return finish("eval", argv, command, interrupted="interrupted; start again to go on")


def parser_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command in `words`, or of all commands."""
    parser = Parser(
        prog="python -m eval",
        description="The benchmark: samples, results, scores, tables and a report; and a user study.",
        epilog=f"{DEBUG}, anywhere, shows where in the program an error occurred.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = next((word for word in words if word in COMMANDS), None)
    for module in [COMMANDS[asked]] if asked else dict.fromkeys(COMMANDS.values()):  # they take seconds
        importlib.import_module(module).add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
