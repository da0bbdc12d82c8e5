"""The running server: temporary files, the engine, the page, and gradio's web server around them."""

import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hdpainter.web.engine import Load
from hdpainter.web.menu import Menu
from hdpainter.web.workspace import Workspace
from ldm.util import UserError

MEBI = 2**20


class Server:
    """Context manager around a server in the background; `url` is where it can be reached.

    load: makes the painter of a model's name. identify: as `hdpainter.plan.identify`. port: 0 takes any free one.
    auth: user and password to ask for, or None.
    """

    def __init__(
        self,
        menu: Menu,
        load: Load,
        identify: Callable[[str, bool], dict[str, Any]],
        host: str = "127.0.0.1",
        port: int = 0,
        auth: tuple[str, str] | None = None,
    ):
        self._menu, self._load, self._identify = menu, load, identify
        self._host, self._port, self._auth = host, port, auth
        self.url = ""

    def __enter__(self) -> "Server":
        limits = self._menu.limits
        self.workspace = Workspace(limits.disk_mb * MEBI, limits.hours * 3600)
        # gradio takes these from the environment when it is imported and when components are made.
        os.environ["GRADIO_TEMP_DIR"] = str(self.workspace.root)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        with without_stubs():
            from hdpainter.web.page import asset, build, theme
            from hdpainter.web.studio import Studio

        self.studio = Studio(self._menu, self._load, self._identify, self.workspace)
        self._page = build(self.studio)
        try:
            _, self.url, _ = self._page.launch(
                server_name=self._host,
                server_port=self._port or free_port(self._host),
                auth=self._auth,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                enable_monitoring=False,
                run_history=False,
                footer_links=["api", "settings"],
                max_file_size=limits.upload_mb * MEBI,
                blocked_paths=[],
                allowed_paths=[],
                strict_cors=True,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
                theme=theme(),
                css=asset("style.css"),
            )
        except OSError:
            self.studio.close()
            raise UserError(f"port {self._port} is taken: give another --port") from None
        return self

    def __exit__(self, *error: object) -> None:
        self._page.close(verbose=False)
        self.studio.close()


def free_port(host: str) -> int:
    """A port that nobody uses."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host.strip("[]"), 0))
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
