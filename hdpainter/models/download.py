"""Resumable, checked downloads with the standard library only."""

import json
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from hdpainter.files import CannotWrite, file_sha256, write_text
from ldm.util import UserError

_BLOCK = 1 << 20


class _Refused(Exception):
    """This source does not have the file; there is no point in asking it again."""


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    approximate_bytes: int | None = None,
    progress: bool = True,
    attempts: int = 3,
    pause: float = 1.0,
) -> Path:
    """Fetch the checkpoint `target` from the first of `urls` that has it.

    The data go to ``target.part``, which an interrupted download leaves behind and the next one continues, as
    long as the server says that the file is still the same. The file gets its name only when its size agrees
    with what the server announced, its hash with `sha256` (or else with one that the server announces), and
    its content is a checkpoint's. The hash is recorded in ``target.sha256``.

    approximate_bytes: a file whose announced size is off by more than 5% is refused.
    attempts: how often in a row a source may fail without delivering anything; pause: seconds before the
    second attempt, doubled every time.

    Raises UserError that lists what went wrong with each source.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target)
    reasons = []
    for url in sorted(urls, key=lambda url: url != part.state.get("url")):  # the one begun with comes first
        failures = 0
        while failures < attempts:
            had = part.size
            try:
                announced = _fetch(url, part, approximate_bytes, progress)
                digest = _check(part, sha256 or announced)
            except _Refused as error:
                reasons.append(f"{url}: {error}")
                break
            except (OSError, HTTPException) as error:
                failures = 0 if part.size > had else failures + 1
                if failures == attempts:
                    reasons.append(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}")
                else:
                    time.sleep(pause * 2 ** max(failures - 1, 0))
            else:
                part.finish()
                record_sha256(target, digest)
                return target
    raise UserError(
        f"{target.name} could not be downloaded ({'; '.join(reasons) or 'no source is known'}); "
        f"name another source in $HDPAINTER_MIRRORS or put the file at {target}"
    )


class _Part:
    """The unfinished file, and beside it where it comes from."""

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._state_path = target.with_name(target.name + ".part.json")
        try:
            self.state: dict[str, Any] = json.loads(self._state_path.read_text())
        except (OSError, ValueError):
            self.state = {}

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def resumable(self, url: str) -> int:
        """How many bytes of the file at `url` are there already."""
        known = self.state.get("url") == url and self.state.get("version")
        return self.size if known and self.size <= self.state["bytes"] else 0

    def begin(self, **state: Any) -> None:
        self.path.write_bytes(b"")
        self.state = state
        self._state_path.write_text(json.dumps(state))

    def discard(self) -> None:
        self.state = {}
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def finish(self) -> None:
        self.path.replace(self.target)
        self.discard()


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, though not from https to http, and keeps the hash announced on the way.

    Model hubs redirect to a storage server and announce the file's SHA-256 with the redirect.
    """

    sha256: str | None = None

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise _Refused(f"redirects to the insecure address {newurl}")
        tag = headers.get("X-Linked-Etag", "").strip('"')
        self.sha256 = tag if re.fullmatch("[0-9a-f]{64}", tag) else self.sha256
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, part: _Part, approximate_bytes: int | None, progress: bool) -> str | None:
    """Bring `part` to its full size; the SHA-256 that the server announces, if any."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise _Refused("is not an http or https address")
    have = part.resumable(url)
    if have and have == part.state["bytes"]:
        return part.state["sha256"]
    headers = {"User-Agent": "hdpainter", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": part.state["version"]}
    redirects = _Redirects()
    try:
        response = build_opener(redirects).open(Request(url, headers=headers), timeout=30)
    except HTTPError as error:
        if error.code == 416:  # the server's file is shorter than ours
            part.discard()
        if error.code >= 500 or error.code in (408, 416, 429):
            raise
        raise _Refused(f"HTTP {error.code} {error.reason}") from None
    with response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        ):
            if response.status != 200:
                raise _Refused(f"unexpected answer, HTTP {response.status}")
            have = 0
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            if approximate_bytes and total and abs(total / approximate_bytes - 1) > 0.05:
                raise _Refused(f"has {total:,} bytes where about {approximate_bytes:,} are expected")
            tag = response.headers.get("ETag", "")
            version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
            part.begin(url=url, version=version if total else None, bytes=total, sha256=redirects.sha256)
        total = part.state["bytes"]
        free = shutil.disk_usage(part.path.parent).free
        if total and total - have > free:
            raise UserError(
                f"{part.target.name} needs {total - have:,} more bytes, its disk has {free:,} free"
            )
        bar = tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=part.target.name, disable=not progress
        )
        with part.path.open("ab") as file, bar:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if total and part.size != total:
        raise ConnectionError(f"the connection ended after {part.size:,} of {total:,} bytes")
    return part.state["sha256"]


def _check(part: _Part, sha256: str | None) -> str:
    """The file's hash. Throws the file away if it should be another, or if it is no checkpoint."""
    from ldm.checkpoint import file_format, read_safetensors  # torch takes seconds to import

    digest = file_sha256(part.path)
    try:
        if sha256 and digest != sha256:
            raise UserError(f"SHA-256 is {digest} instead of {sha256}")
        if file_format(part.path) == "safetensors":
            read_safetensors(part.path)
    except UserError as error:
        part.discard()
        raise _Refused(str(error)) from None
    return digest


def record_sha256(path: Path, digest: str) -> None:
    """Keep the file's hash beside it, in the format of sha256sum."""
    write_text(sha256_file(path), f"{digest}  {path.name}\n")


def sha256_file(path: Path) -> Path:
    """Where the hash of the checkpoint `path` is kept."""
    return path.with_name(path.name + ".sha256")


def recorded_sha256(path: Path) -> str | None:
    """The hash that `record_sha256` kept, if the file has neither been written nor replaced since.

    A file that takes another's place may be an old one, but its ctime says when it came there.
    """
    record, about = sha256_file(path), path.stat()
    if not record.is_file() or record.stat().st_mtime_ns < max(about.st_mtime_ns, about.st_ctime_ns):
        return None
    return record.read_text().split()[0]


def checkpoint_sha256(path: Path) -> str:
    """The hash of a checkpoint: as recorded, or computed, and then recorded if the folder can be written to.

    A record of another hash stays, for ``hdpainter models verify`` to tell of.
    """
    if known := recorded_sha256(path):
        return known
    digest, record = file_sha256(path), sha256_file(path)
    with suppress(OSError, CannotWrite):
        if not record.is_file() or record.read_text().split() == [digest, path.name]:
            record_sha256(path, digest)
    return digest
