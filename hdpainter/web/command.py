"""The command ``hdpainter web``."""

import argparse
import dataclasses
import os
import signal
import sys
import threading
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from hdpainter import flags
from hdpainter.models.registry import PipelineSpec
from hdpainter.web.access import Proxies, login
from hdpainter.web.limits import Limits
from ldm.util import UserError

DEFAULT_PORT = 7860
LIMITS = {
    "upload_mb": "largest file, in MiB",
    "megapixels": "largest picture, in million pixels",
    "minutes": "longest job",
    "drafts": "most drafts of a job",
    "steps": "most steps of a draft",
    "queue": "most jobs that wait, of all users",
    "per_user": "most jobs that wait, of one tab or caller of the API",
    "disk_mb": "all temporary files together, in MiB",
    "hours": "how long temporary files are kept",
}


def add_parser(subparsers: Any) -> None:
    """Add ``web`` to the commands; the parsed arguments have a `run(args)` that returns the exit status."""
    parser = subparsers.add_parser(
        "web",
        help="serve a page for the browser, and an HTTP API",
        description="Serves a page on this machine only, unless --host says otherwise. Ctrl-C ends it.",
    )
    parser.set_defaults(run=run)
    flags.add_model(parser)
    flags.add_trust(parser)
    flags.add_machine(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="port to listen on (default: %(default)s); 0: any free one",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help="ask for them; also $HDPAINTER_AUTH, which no process list shows",
    )
    access.add_argument(
        "--no-auth",
        action="store_true",
        help="let everybody in who reaches a --host that is not this machine",
    )
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="reverse proxy whose X-Forwarded-* headers are believed; may be given again",
    )
    limits = parser.add_argument_group("limits")
    for field in dataclasses.fields(Limits):
        limits.add_argument(
            f"--max-{field.name.replace('_', '-')}" if field.name != "hours" else "--keep-hours",
            dest=field.name,
            type=field.type,
            default=field.default,
            metavar="N",
            help=f"{LIMITS[field.name]} (default: {field.default})",
        )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install -e '.[web]'")
    limits = Limits(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)})
    auth = login(args.host, args.auth or os.environ.get("HDPAINTER_AUTH"), args.no_auth)
    proxies = Proxies(args.proxy)

    def load(model: str) -> Any:
        return args.load(menu.resolve(model), args.device, args.dtype, menu.models[model])

    def identify(model: str, superres: bool) -> Any:
        return args.identify(menu.resolve(model), superres)

    from hdpainter.web.menu import Menu, installed  # these and gradio take seconds to import
    from hdpainter.web.server import Server

    chosen = flags.model_choice(args)
    first = chosen.resolve()
    own = first if isinstance(first, PipelineSpec) else None
    menu = Menu(installed(first), limits, own=own, chosen=chosen.given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the files are removed
    with Server(menu, load, identify, args.host, args.port, auth, proxies) as server:
        print(f"HD-Painter is at {server.url} (Ctrl-C ends it)", flush=True)
        if args.open:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0
