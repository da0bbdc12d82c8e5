"""The running server: temporary files, the engine, the page, and gradio's web server around them."""

import errno
import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from hdpainter.web.access import Proxies, is_loopback
from hdpainter.web.engine import Loader
from hdpainter.web.menu import Menu
from hdpainter.web.workspace import Workspace
from ldm.util import UserError

MEBI = 2**20


class Server:
    """Context manager around a server in the background; `url` is where it can be reached.

    load: makes the painter of a model's name. identify: as `hdpainter.models.identity.identify`.
    port: 0 takes any free one.
    auth: user and password to ask for, or None.
    proxies: whose word about clients is believed.
    """

    def __init__(
        self,
        menu: Menu,
        load: Loader,
        identify: Callable[[str, bool], dict[str, Any]],
        host: str = "127.0.0.1",
        port: int = 0,
        auth: tuple[str, str] | None = None,
        proxies: Proxies | None = None,
    ):
        self._menu, self._load, self._identify = menu, load, identify
        self._host, self._port, self._auth = host, port, auth
        self._proxies = proxies or Proxies()
        self.url = ""

    def __enter__(self) -> "Server":
        limits = self._menu.limits
        port = free_port(self._host, self._port)  # gradio would not tell why one cannot be had
        self.workspace = Workspace(limits.disk_mb * MEBI, limits.hours * 3600)
        # gradio takes these from the environment when it is imported, when components are made and later.
        environment = {
            "GRADIO_TEMP_DIR": str(self.workspace.root),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "FORWARDED_ALLOW_IPS": "",  # uvicorn's own belief in proxies; ours is in the guard
        }
        self._patches = ExitStack()
        self._patches.enter_context(mock.patch.dict(os.environ, environment))
        with without_stubs():
            from starlette.middleware import Middleware

            from hdpainter.web.guard import Guard, Rules, random_names, uploads_only
            from hdpainter.web.layout import asset, theme
            from hdpainter.web.page import build
            from hdpainter.web.studio import Studio

        self.studio = Studio(self._menu, self._load, self._identify, self.workspace)
        self._page = build(self.studio)
        uploads_only(self._page)
        rules = Rules(
            local=is_loopback(self._host) and self._auth is None,
            login=False,
            upload_bytes=limits.upload_mb * MEBI,
            make_room=self.workspace.make_room,
            proxies=self._proxies,
        )
        self._patches.enter_context(random_names())
        try:
            _, self.url, _ = self._page.launch(
                server_name=self._host,
                server_port=port,
                auth=self._auth,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                enable_monitoring=False,
                run_history=False,
                footer_links=["api"],
                max_file_size=limits.upload_mb * MEBI,
                blocked_paths=[],
                allowed_paths=[],
                strict_cors=True,
                mcp_server=False,
                app_kwargs={"middleware": [Middleware(Guard, rules)]},
                ssr_mode=False,
                pwa=False,
                theme=theme(),
                css=asset("style.css"),
            )
            rules.login = self._auth is not None  # not before: gradio asks its own server whether it is there
        except BaseException:
            self._patches.close()
            self.studio.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._page.close(verbose=False)
        self._patches.close()
        self.studio.close()


def free_port(host: str, port: int = 0) -> int:
    """`port`, or for 0 one that nobody uses. Raises UserError where the server cannot listen there."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}: give a number from 0 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if os.name == "posix":  # else the last server's would count as taken for a minute
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} is taken: give another --port") from None
            raise UserError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
        return probe.getsockname()[1]


@contextmanager
def without_stubs() -> Iterator[None]:
    """Keep gradio from writing .pyi files, for editors, beside its components: half of the time of its import.

    It leaves that out for a class that has no file.
    """
    getfile = inspect.getfile

    def file_of(thing: Any) -> str:
        if inspect.isclass(thing) and thing.__module__.startswith("gradio."):
            raise OSError
        return getfile(thing)

    with mock.patch("inspect.getfile", file_of):
        yield
