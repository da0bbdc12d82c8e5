"""Checked downloads: of the Hugging Face hub by its own client, of all other servers by a resumable one here."""

import glob
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from hdpainter.files import file_sha256, make_folder, parse_json, write_json, writing
from hdpainter.models.hashes import record_sha256
from hdpainter.models.hub import HubFile, Refused
from ldm.util import UserError, cut

_BLOCK = 1 << 20
_ATTEMPTS = 1000  # of one source at most, however little each of them brings
_TOLERANCE = 0.05  # share by which a size may be off where it is known about
_LEAST = 64 * 2**10  # bytes that a source must deliver while it is waited for; less is as good as nothing
_LARGEST = 64 * 10**9  # bytes of a file of which nobody says how large it is


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    approximate_bytes: int | None = None,
    progress: bool = True,
    attempts: int = 3,
    pause: float = 1.0,
    patience: float = 30.0,
) -> Path:
    """Fetch the checkpoint `target` from the first of `urls` that has it.

    The data go to ``target.part``, which an interrupted download leaves behind and the next one continues, as
    long as the server says that the file is still the same. The file gets its name only when its size agrees
    with what the server announced, its hash with `sha256` (or else with one that the server announces), and
    its content is a checkpoint's. The hash is recorded in ``target.sha256``.

    What lies on the Hugging Face hub comes through its cache, which its own client fills and other programs
    share; `target` is a hard link to the file there, or a copy where file systems know none or are two. A link
    takes no room, and outlives the cache. Nothing here writes to a file through its name: it gets a new one.

    approximate_bytes: a file whose size is off by more than 5%, announced or not, is refused.
    attempts: how often in a row a source may fail without bringing more than there was before; pause: seconds
    before the second attempt, doubled every time. patience: seconds without an answer, or with hardly any data,
    after which an attempt has failed.

    Raises UserError that lists what went wrong with each source, and CannotWrite for a full disk.
    """
    make_folder(target.parent)
    part = _Part(target)
    reasons = []
    ordered = sorted(urls, key=lambda url: url != part.state.get("url"))  # the one begun with comes first
    for number, url in enumerate(ordered, 1):
        failures, most = 0, part.resumable(url)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if at_hub := HubFile.at(url):
                    announced = _take(at_hub, part, approximate_bytes, patience)
                else:
                    announced = _fetch(url, part, approximate_bytes, progress, patience)
                digest = _check(part, sha256 or announced, at_hub)
            except Refused as error:
                reasons.append(f"{url}: {_plain(error)}")
                break
            except (OSError, HTTPException) as error:
                failures = 0 if part.size > most else failures + 1
                most = max(most, part.size)
                if failures == attempts or attempt == _ATTEMPTS:
                    reasons.append(
                        f"{url}: {_plain(getattr(error, 'reason', error)) or type(error).__name__}"
                    )
                    break
                time.sleep(pause * 2 ** max(failures - 1, 0))
            else:
                part.finish()
                record_sha256(target, digest)
                return target
        if number < len(ordered):
            warnings.warn(f"{reasons[-1]}; the next source is {ordered[number]}", stacklevel=2)
    raise UserError(
        f"{target.name} could not be downloaded ({'; '.join(reasons) or 'no source is known'}); "
        f"name another source in $HDPAINTER_MIRRORS or put the file at {target}"
    )


def _plain(error: object) -> str:
    """An error's text without what the server may have put there: no lines, no commands to a terminal."""
    return cut(" ".join("".join(c if c.isprintable() else " " for c in str(error)).split()), 500)


class _Part:
    """The unfinished file, and beside it where it comes from.

    A folder of checkpoints may be shared: what lies there under the name of the part is written to only if it is
    a file of ours, never through a link to another one.
    """

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._state_path = target.with_name(target.name + ".part.json")
        self.state = self._read_state()

    def _read_state(self) -> dict[str, Any]:
        try:
            state: Any = parse_json(self._state_path.read_text()) if self._state_path.is_file() else None
        except (OSError, ValueError):
            return {}
        match state:
            case {"url": str(), "version": str(), "bytes": int(), "sha256": str() | None}:
                return dict(state)
        return {}

    @property
    def size(self) -> int:
        try:
            about = self.path.lstat()
        except FileNotFoundError:
            return 0
        return about.st_size if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 else 0

    def resumable(self, url: str) -> int:
        """How many bytes of the file at `url` are there already."""
        known = self.state.get("url") == url and self.state["version"] and self.state["bytes"]
        return self.size if known and self.size <= self.state["bytes"] else 0

    def begin(self, **state: Any) -> None:
        """Start a new file; where it comes from is kept if it can be continued, by its version and size."""
        self.discard()
        with writing(self.path):
            self.path.open("xb").close()
        self.state = state
        if state["version"] and state["bytes"]:
            write_json(self._state_path, state)

    @contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """A function that writes at the end. Raises CannotWrite."""
        with writing(self.path):
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        with open(handle, "ab", buffering=0) as file:  # noqa: PTH123  # a handle, not a path

            def write(block: bytes) -> None:
                with writing(self.path):
                    file.write(block)

            yield write

    def adopt(self, file: Path) -> None:
        """Be a hard link to `file`, or a copy of it: a link is not written to, see `size`. Raises CannotWrite."""
        self.discard()
        try:
            os.link(file, self.path)
        except OSError:  # of another file system, or of somebody else
            with writing(self.path):
                shutil.copyfile(file, self.path)

    def discard(self) -> None:
        self.state = {}
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)
            for left in self.path.parent.glob(f".{glob.escape(self.target.name)}.*.part.*"):
                left.unlink(missing_ok=True)  # of a download that was killed while it noted something

    def finish(self) -> None:
        with writing(self.target):
            self.path.replace(self.target)
        self.discard()


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to http and https, though not from https to http, and keeps a hash announced on the way.

    Model hubs redirect to a storage server and announce the file's SHA-256 with the redirect.
    """

    sha256: str | None = None

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https"):
            raise Refused(f"redirects to {cut(newurl, 100)}, not an http or https address")
        if urlsplit(req.full_url).scheme == "https" and scheme != "https":
            raise Refused(f"redirects to the insecure address {cut(newurl, 100)}")
        tag = headers.get("X-Linked-Etag", "").strip('"')
        self.sha256 = tag if re.fullmatch("[0-9a-f]{64}", tag) else self.sha256
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _take(at_hub: HubFile, part: _Part, approximate_bytes: int | None, patience: float) -> str | None:
    """Make `part` the file of the hub; the SHA-256 that the hub announces, if any."""
    file, announced = at_hub.fetch(lambda size: _check_size(size, approximate_bytes), patience)
    part.adopt(file)
    return announced


def _check_size(size: int, approximate_bytes: int | None) -> None:
    if approximate_bytes and size and abs(size / approximate_bytes - 1) > _TOLERANCE:
        raise Refused(f"has {size:,} bytes where about {approximate_bytes:,} are expected")


def _fetch(
    url: str, part: _Part, approximate_bytes: int | None, progress: bool, patience: float
) -> str | None:
    """Bring `part` to its full size; the SHA-256 that the server announces, if any."""
    have = part.resumable(url)
    if have and have == part.state["bytes"]:
        return part.state["sha256"]
    response, announced = _open(url, part, have, patience)
    with response:
        if response.status == 206:
            _check_continued(response.headers, part, have)
        elif response.status == 200:
            have = 0
            total = _content_length(response.headers)
            _check_size(total or 0, approximate_bytes)
            part.begin(url=url, version=_version(response.headers), bytes=total, sha256=announced)
        else:
            raise Refused(f"unexpected answer, HTTP {response.status}")
        total = part.state["bytes"]
        free = shutil.disk_usage(part.path.parent).free
        if total and total - have > free:
            raise UserError(
                f"{part.target.name} needs {total - have:,} more bytes, its disk has {free:,} free"
            )
        most = total or int((approximate_bytes or _LARGEST) * (1 + _TOLERANCE))
        bar = tqdm(
            total=total, initial=have, unit="B", unit_scale=True, desc=part.target.name, disable=not progress
        )
        with part.appending() as write, bar:
            for block in _blocks(response, patience):
                have += len(block)
                if have > most or part.size + len(block) > most:
                    part.discard()
                    raise Refused(f"sends more than the {most:,} bytes that the file should have")
                write(block)
                bar.update(len(block))
    if total and part.size != total:
        raise ConnectionError(f"the connection ended after {part.size:,} of {total:,} bytes")
    return part.state["sha256"]


def _open(url: str, part: _Part, have: int, patience: float) -> tuple[HTTPResponse, str | None]:
    """(the answer to a request for all after the first `have` bytes, the SHA-256 announced on the way to it)."""
    headers = {"User-Agent": "hdpainter", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": part.state["version"]}
    redirects = _Redirects()
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise Refused("is not an http or https address")
        response = build_opener(redirects).open(Request(url, headers=headers), timeout=patience)
    except HTTPError as error:
        if error.code == 416:  # the server's file is shorter than ours
            part.discard()
        if error.code >= 500 or error.code in (408, 416, 429):
            raise
        raise Refused(f"HTTP {error.code} {cut(' '.join(str(error.reason).split()), 100)}") from None
    except (ValueError, InvalidURL) as error:  # of an address or a redirect that no client can take apart
        raise Refused(f"is or leads to no proper address ({error})") from None
    return response, redirects.sha256


def _content_length(headers: HTTPMessage) -> int | None:
    lengths = headers.get_all("Content-Length", [])
    if not all(re.fullmatch("[0-9]{1,15}", length) for length in lengths) or len(set(lengths)) > 1:
        raise Refused(f"announces a size that is none: {cut(', '.join(lengths), 100)}")
    return int(lengths[0]) if lengths else None


def _version(headers: HTTPMessage) -> str | None:
    """What tells one version of a file from another: a strong ETag, or else the time of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _check_continued(headers: HTTPMessage, part: _Part, have: int) -> None:
    """Raise ConnectionError, and throw the part away, unless an answer 206 goes on with the file that was begun.

    Servers and proxies that know no If-Range answer with the rest of whatever they have now. A time need not be
    repeated with the answer, a tag must be.
    """
    total, version = part.state.get("bytes"), part.state.get("version", "")
    same_range = headers.get("Content-Range", "") == f"bytes {have}-{(total or 0) - 1}/{total}"
    same_version = _version(headers) in ((version,) if version.startswith('"') else (version, None))
    if not (have and same_range and same_version):
        part.discard()
        raise ConnectionError("the server went on with another file than the one that was begun")


def _blocks(response: HTTPResponse, patience: float) -> Iterator[bytes]:
    """What arrives, as it arrives. Raises ConnectionError when hardly anything does."""
    since, arrived = time.monotonic(), 0
    while block := response.read1(_BLOCK):
        yield block
        arrived += len(block)
        if time.monotonic() - since > patience:
            if arrived < _LEAST:
                raise ConnectionError(f"only {arrived:,} bytes came in {patience:g} seconds")
            since, arrived = time.monotonic(), 0


def _check(part: _Part, sha256: str | None, at_hub: HubFile | None) -> str:
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
        advice = f"; if it is the cache that is damaged: hf cache rm {at_hub.cached_as}" if at_hub else ""
        raise Refused(f"{error}{advice}") from None
    return digest
