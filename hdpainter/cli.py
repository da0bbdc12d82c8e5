"""The command line: ``hdpainter inpaint | batch | explain | models | web``.

Exit codes: 0 all done; 1 some jobs failed, or an error of the program; 2 a mistake that the user can mend;
130 interrupted by Ctrl-C. An error is one line on standard error; --debug shows the traceback.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hdpainter.console import DEBUG, Parser, finish
from hdpainter.explain import command as explain
from hdpainter.jobs import commands as jobs
from hdpainter.jobs.painting import Painter
from hdpainter.models import commands as models
from hdpainter.models.registry import PipelineSpec
from hdpainter.models.stages import check_stages
from hdpainter.version import __version__
from hdpainter.web import command as web

Load = Callable[[str | PipelineSpec, str | None, str | None, bool], Painter]
Identify = Callable[..., dict[str, Any]]  # (model, superres, trusted=False)


def main(
    argv: Sequence[str] | None = None, load: Load | None = None, identify: Identify | None = None
) -> int:
    """Run a command and return its exit code.

    argv: the words after the program's name. load, identify: make a painter, and the identity of its model, from
    a model's name (for tests).
    """

    def command(words: list[str]) -> int | None:
        args = parser().parse_args(words)
        trusted = getattr(args, "trust_config", False)
        args.load = load or partial(_load, trusted=trusted, offload=getattr(args, "offload", False))
        found = identify or _identify
        args.identify = partial(found, trusted=True) if trusted else found
        return args.run(args)

    told: set[str] = set()

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        if (text := str(message)) not in told:  # a picture is looked at before it is painted, and warns again
            told.add(text)
            print(f"hdpainter: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        return finish("hdpainter", argv, command)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has a `run(args)` that returns the exit code."""
    program = Parser(
        prog="hdpainter",
        description="High-resolution, prompt-faithful text-guided inpainting.",
        epilog=f"{DEBUG}, anywhere, shows where in the program an error occurred.",
    )
    program.add_argument("--version", action="version", version=f"hdpainter {__version__}")
    subparsers = program.add_subparsers(required=True, metavar="COMMAND")
    jobs.add_parsers(subparsers)
    explain.add_parser(subparsers)
    models.add_parser(subparsers)
    web.add_parser(subparsers)
    return program


def _load(
    model: str | PipelineSpec,
    device: str | None,
    dtype: str | None,
    superres: bool,
    trusted: bool = False,
    offload: bool = False,
) -> Painter:
    from hdpainter.pipeline import HDPainter  # takes seconds, so only once it is needed

    return HDPainter.from_config(
        model, device=device, dtype=dtype, superres=superres, trusted=trusted, offload=offload
    )


def _identify(model: str | PipelineSpec, superres: bool, trusted: bool = False) -> dict[str, Any]:
    spec = PipelineSpec.load(model)
    check_stages(spec, superres, trusted)
    from hdpainter.models.identity import identify  # reads what is in checkpoints, so torch comes with it

    return identify(spec, superres, trusted)


if __name__ == "__main__":
    sys.exit(main())
