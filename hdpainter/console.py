"""What all command lines of the project have in common: a parser, and how a command ends.

Exit codes: 0 all done; 1 some results failed, or an error of the program; 2 a mistake that the user can mend;
130 interrupted by Ctrl-C. An error is one line on standard error; --debug shows the traceback.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ldm.util import UserError

DEBUG = "--debug"


class Parser(argparse.ArgumentParser):
    """Reports mistakes like any other UserError, in one line; takes no abbreviated flags."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def finish(
    program: str,
    argv: Sequence[str] | None,
    command: Callable[[list[str]], int | None],
    interrupted: str = "interrupted",
) -> int:
    """The exit code of `command`, which gets the words of the command line (sys.argv's if None) without --debug.

    program: who speaks in messages. interrupted: what it says after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in words

    def fail(message: str, code: int) -> int:
        print(f"{program}: {message}", file=sys.stderr)
        return code

    try:
        return command([word for word in words if word != DEBUG]) or 0
    except BrokenPipeError:  # whoever reads what is printed has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is printed at exit
        return 1
    except KeyboardInterrupt:
        return fail(interrupted, 130)
    except UserError as error:
        if debug:
            raise
        return fail(f"error: {error}", 2)
    except Exception as error:
        if debug:
            raise
        return fail(f"error: {one_line(error)} (--debug shows where)", 1)


def one_line(error: BaseException) -> str:
    """An error as one line for people, with its type's name unless it is a UserError."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")
