"""What is let through to gradio: requests to this server by its own name, to the routes that the page and the API
use, with files that were uploaded."""

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from hdpainter.web.access import is_loopback

GRADIO = "/gradio_api/"
USED = {
    "api",
    "app_id",
    "call",
    "cancel",
    "file",
    "heartbeat",
    "info",
    "login_check",
    "openapi.json",
    "queue",
    "reset",
    "run",
    "startup-events",
    "theme.css",
    "token",
    "upload",
    "upload_progress",
    "user",
}
UNUSED = ("/monitoring", "/svelte")  # outside of GRADIO


class Guard:
    """ASGI middleware.

    local: answer only to names of this machine. Where nobody is asked for a password, a page of another site
    could else read everything, once its name server says that its name is 127.0.0.1.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], local: bool):
        self.app, self.local = app, local

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        host = next(
            (value.decode("latin-1").lower() for key, value in scope["headers"] if key == b"host"), ""
        )
        if self.local and not is_loopback(host_name(host)):
            return await refuse(send, 403, "this server answers to localhost and 127.0.0.1 only")
        if not used(scope["path"]):
            return await refuse(send, 404, "not found")
        return await self.app(scope, receive, send)


def host_name(host: str) -> str:
    """The header Host without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0]


def used(path: str) -> bool:
    """Whether the page or the API needs the route; gradio has more, which record, forward and rewrite."""
    if not path.startswith(GRADIO):
        return not path.startswith(UNUSED)
    route = path.removeprefix(GRADIO).partition("/")[0]
    name, equals, start = route.partition("=")
    if equals:  # a file by its path, never by a URL
        return name == "file" and start not in ("http:", "https:")
    return name in USED


async def refuse(send: Any, status: int, message: str) -> None:
    """Answer in place of gradio."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": message.encode()})


def uploads_only(page: gr.Blocks) -> None:
    """Keep gradio from fetching a URL that a client gives for a file, and from handing it what it finds there."""
    for block in page.blocks.values():
        move = block.async_move_resource_to_block_cache

        async def checked(path: Any, move: Any = move) -> Any:
            if isinstance(path, str) and path.lower().startswith(("http:", "https:")):
                raise gr.Error(
                    "a file must be uploaded; this server fetches none from a URL", print_exception=False
                )
            return await move(path)

        block.async_move_resource_to_block_cache = checked
