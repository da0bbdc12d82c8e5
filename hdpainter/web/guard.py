"""What is let through to gradio: requests to this server by its own name and from its own pages, of those who are
logged in, no larger than agreed, to the routes that the page and the API use, with files that were uploaded."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any
from unittest import mock

import gradio as gr
from gradio import route_utils
from starlette.requests import ClientDisconnect, HTTPConnection

from hdpainter.web.access import Attempts, Proxies, is_loopback
from hdpainter.web.messages import told
from ldm.util import UserError

GRADIO = "/gradio_api/"
UPLOAD = f"{GRADIO}upload"
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
# All that the login is drawn with; gradio's `main` gives nothing else to those who are not in.
BEFORE_LOGIN = re.compile(r"/(login/?|(assets|static)/.*|theme\.css|favicon\.ico|robots\.txt)?")
READING = ("GET", "HEAD", "OPTIONS")
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?")
FORM_BYTES = 64 * 2**10  # around an uploaded file; a whole login
MESSAGE_BYTES = 16 * 2**20  # a painted mask among a form's values
PATIENCE = 1.0  # seconds
PROTECTION = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


class Refused(Exception):
    """A request that gradio does not get: an HTTP status, and a line about it."""

    def __init__(self, status: int, message: str, **headers: str):
        self.status, self.message, self.headers = status, message, headers


@dataclass
class Rules:
    """local: answer only to names of this machine. Where nobody is asked for a password, a page of another site
        could else read everything, once its name server says that its name is 127.0.0.1.
    login: a password is asked for, and nothing but its form is there for those who did not give it.
    upload_bytes: of a file. make_room: called with an upload's bytes; raises UserError where they do not fit.
    proxies: whose word about the client is believed.
    """

    local: bool
    login: bool
    upload_bytes: int
    make_room: Callable[[int], None]
    proxies: Proxies = field(default_factory=Proxies)
    attempts: Attempts = field(default_factory=Attempts)


class Guard:
    """ASGI middleware that applies the rules."""

    def __init__(self, app: Callable[..., Awaitable[None]], rules: Rules):
        self.app, self.rules = app, rules

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # none is used
                return None
            return await self.app(scope, receive, send)
        scope = self.rules.proxies.resolve(scope)
        answer = _Answer(send)
        try:
            self._check(scope)
            limit = await self._size(scope)
            if self.rules.login and scope["path"].rstrip("/") == "/login" and scope["method"] == "POST":
                await self._log_in(scope, _bounded(receive, limit, answer), answer)
            else:
                await self.app(scope, _bounded(receive, limit, answer), answer)
        except Refused as refused:
            await self._let_finish(receive)
            await answer.refuse(refused)
        except ClientDisconnect:
            pass
        except (
            Exception
        ) as error:  # the client went away, or gradio failed: a line of the log, not a traceback
            log(scope, told(error))
            await answer.refuse(Refused(500, "the server failed"))

    def _check(self, scope: dict[str, Any]) -> None:
        """Raises Refused for what is not let through."""
        connection = HTTPConnection(scope)
        hosts = connection.headers.getlist("host")
        host = host_name(hosts[0]) if len(hosts) == 1 else ""
        if not host or (self.rules.local and not is_loopback(host)):
            raise Refused(
                403,
                "this server answers to localhost and 127.0.0.1 only; for other names, and behind a proxy, start "
                "it with --auth USER:PASSWORD",
            )
        path = scope["path"]
        if not used(path):
            raise Refused(404, "not found")
        if (scope["method"] not in READING or path.startswith((GRADIO, "/logout"))) and foreign(connection):
            raise Refused(
                403,
                "this request comes from another site; a proxy must pass on the header Host, see docs/web.md",
            )
        if self.rules.login and not (BEFORE_LOGIN.fullmatch(path) or user(connection)):
            raise Refused(401, "log in first")

    async def _size(self, scope: dict[str, Any]) -> int:
        """How many bytes the body may have. Raises Refused where it says that it has more."""
        upload, login = scope["path"].rstrip("/") == UPLOAD, scope["path"].rstrip("/") == "/login"
        limit = self.rules.upload_bytes + FORM_BYTES if upload else FORM_BYTES if login else MESSAGE_BYTES
        told_size = HTTPConnection(scope).headers.get("content-length", "")
        size = (
            int(told_size) if re.fullmatch(r"\d{1,18}", told_size) else limit if not told_size else limit + 1
        )
        if size > limit:
            raise Refused(413, _too_large(limit))
        if upload:
            try:
                await asyncio.to_thread(self.rules.make_room, size)
            except UserError as error:
                raise Refused(507, told(error)) from None
        return limit

    async def _let_finish(self, receive: Any) -> None:
        """Throw away what a refused client is sending, for a moment: else it would not hear why it is refused."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while size <= 2 * self.rules.upload_bytes and (message := await receive()).get("more_body"):
                    size += len(message["body"])

    async def _log_in(self, scope: dict[str, Any], receive: Any, answer: "_Answer") -> None:
        """Let a few attempts through, and tell the log of each."""
        address = scope["client"][0] if scope.get("client") else ""
        if wait := self.rules.attempts.begin(address):
            log(scope, f"too many logins, refused for {wait} s")
            raise Refused(429, f"too many attempts: try again in {wait} s", **{"retry-after": str(wait)})

        async def judged(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                right = message["status"] == 200
                if right:
                    self.rules.attempts.succeeded(address)
                log(scope, "logged in" if right else "login refused")
            await answer(message)

        await self.app(scope, receive, judged)


class _Answer:
    """`send` with the protecting headers; knows what was sent. After a refusal nothing more goes out."""

    def __init__(self, send: Any):
        self._send, self.status, self._over = send, 0, False

    async def __call__(self, message: dict[str, Any]) -> None:
        if self._over:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name for name, _ in PROTECTION}
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in names]
            message = {**message, "headers": [*kept, *PROTECTION]}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer in place of gradio, or end what it has begun."""
        if self._over:
            return
        if self.status:
            await self({"type": "http.response.body"})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
            await self({"type": "http.response.start", "status": refused.status, "headers": headers})
            await self({"type": "http.response.body", "body": refused.message.encode()})
        self._over = True


def _bounded(receive: Any, limit: int, answer: _Answer) -> Any:
    """`receive` that refuses more than `limit` bytes, whatever the headers said, as if the client had gone."""
    size = 0

    async def counted() -> dict[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            await answer.refuse(Refused(413, _too_large(limit)))
            raise ClientDisconnect
        return message

    return counted


def _too_large(limit: int) -> str:
    return f"the request is too large: this server takes up to {limit / 2**20:.0f} MiB"


def log(scope: dict[str, Any], text: str) -> None:
    """A line about a request on standard error."""
    address = scope["client"][0] if scope.get("client") else "?"
    print(f"hdpainter web: {address} {scope['method']} {scope['path'][:80]!r}: {text}", file=sys.stderr)


def host_name(host: str) -> str:
    """The name in a header Host, without port and brackets; empty for what is no such header."""
    match = HOST.fullmatch(host.lower())
    return (match[1] or match[2]) if match else ""


def foreign(connection: HTTPConnection) -> bool:
    """Whether a page of another site sends this. Those who are no browser send neither header."""
    headers = connection.headers
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    own = {
        headers.get("host", "").lower(),
        headers.get("x-forwarded-host", "").partition(",")[0].strip().lower(),
    }
    return origin is not None and origin.lower().partition("://")[2] not in own - {""}


def user(connection: HTTPConnection) -> str | None:
    """Who is logged in, by gradio's cookies."""
    app = connection.scope["app"]
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next(filter(None, (app.tokens.get(connection.cookies.get(name)) for name in names)), None)


def used(path: str) -> bool:
    """Whether the page or the API needs the route; gradio has more, which record, forward and rewrite."""
    if not path.startswith(GRADIO):
        return not path.startswith(UNUSED)
    route = path.removeprefix(GRADIO).partition("/")[0]
    name, equals, start = route.partition("=")
    if equals:  # a file by its path, never by a URL
        return name == "file" and start not in ("http:", "https:")
    return name in USED


def uploads_only(page: gr.Blocks) -> None:
    """Keep gradio from fetching a URL that a client gives for a file, and from handing it what it finds there.

    What else is wrong with a client's values is told to it, without a traceback.
    """
    for block in page.blocks.values():
        move = block.async_move_resource_to_block_cache

        async def checked(path: Any, move: Any = move) -> Any:
            if isinstance(path, str) and path.lower().startswith(("http:", "https:")):
                raise gr.Error(
                    "a file must be uploaded; this server fetches none from a URL", print_exception=False
                )
            return await move(path)

        block.async_move_resource_to_block_cache = checked
    preprocess = page.preprocess_data

    async def preprocessed(*args: Any, **options: Any) -> list[Any]:
        try:
            return await preprocess(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(told(error), print_exception=False) from None

    page.preprocess_data = preprocessed


@contextmanager
def random_names() -> Iterator[None]:
    """Keep gradio from naming an upload's folder by its content, which others may know."""

    class Upload(route_utils.GradioUploadFile):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.sha.update(token_bytes(32))

    with mock.patch.object(route_utils, "GradioUploadFile", Upload):
        yield
