"""What all command lines of the project have in common: a parser, and how a command ends.

Exit codes: 0 all done; 1 some results failed, or an error of the program; 2 a mistake that the user can mend;
130 interrupted by Ctrl-C. An error is one line on standard error; --debug shows the traceback.
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hdpainter.values import nearest
from ldm.util import UserError, shown

DEBUG = "--debug"


class Parser(argparse.ArgumentParser):
    """Reports mistakes like any other UserError, in one line; takes no abbreviated flags, and as the value of a
    flag also what begins with a dash, unless it is a flag itself: ``--prompt -clock``."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        found, rest = super().parse_known_args(self._joined(words), namespace)
        actions = self._option_string_actions.items()
        told = [flag for flag, action in actions if action.help != argparse.SUPPRESS]
        for word in rest:
            flag = word.partition("=")[0]
            if flag.startswith("--") and (guess := nearest(flag, told)):
                self.error(f"unknown flag {flag}; {guess}")
        return found, rest

    def _joined(self, words: Sequence[str]) -> list[str]:
        """The words, with ``--flag=-value`` where argparse would take a flag's value for another flag."""
        joined: list[str] = []
        flags = self._option_string_actions
        for word in words:
            action = flags.get(joined[-1]) if joined else None
            takes_one = action is not None and action.nargs is None
            dashed = word.startswith("-") and (" " in word or not word.startswith("--"))
            if takes_one and dashed and word not in flags:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def finish(
    program: str,
    argv: Sequence[str] | None,
    command: Callable[[list[str]], int | None],
    interrupted: str = "interrupted",
) -> int:
    """The exit code of `command`, which gets the words of the command line (sys.argv's if None) without --debug.

    What the console cannot show is printed as an escape, ``\\u732b``, and is no error. program: who speaks in
    messages. interrupted: what it says after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")

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
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return fail(f"error: {shown(error.filename)} cannot be the path of a file: it is too long", 2)
        return fail(f"error: {one_line(error)} (--debug shows where)", 1)


def say(message: str) -> None:
    """Tell what is about to happen; standard output is for what was made."""
    print(message, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An error as one line for people, with its type's name unless it is a UserError."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")
