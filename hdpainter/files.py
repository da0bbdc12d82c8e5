"""The one way to write a file, and the hashes of files and of plain values.

A file appears whole or not at all: it is written under another name, brought to the disk and then renamed.
"""

import errno
import glob
import hashlib
import json
import os
import socket
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ldm.util import UserError, shown


class CannotWrite(UserError):
    """A file or folder cannot be written: the disk is full, or its permissions do not allow it."""


def refuse_name(path: str | Path) -> None:
    """Raise UserError for what can be the path of no file. Else what asks whether there is one would raise."""
    try:
        Path(path).lstat()
    except ValueError as error:
        raise UserError(f"{shown(str(path))} cannot be the path of a file: {error}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{shown(str(path))} cannot be the path of a file: it is too long") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes to `path`. Raises CannotWrite for an OSError within the block."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path, scratch: Path | None = None, new: bool = False) -> Iterator[Path]:
    """A file to write in the place of `path`, whose name it gets when the block ends without an error.

    It lies beside `path`, or in `scratch`, a folder of the same file system, and has the suffix of `path`.
    Raises CannotWrite for an OSError within the block; whatever is raised, `path` stays as it was. What processes
    of this machine that were killed have left beside `path` is removed.
    new: it takes no file's place. Raises UserError where there is one by then, of whoever was faster.
    """
    stem, machine = f".{path.name[:100]}", f"{zlib.crc32(socket.gethostname().encode()):08x}"
    part = (
        scratch or path.parent
    ) / f"{stem}.{machine}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part{path.suffix}"
    try:
        if scratch is None:
            _remove_abandoned(path.parent, f"{stem}.{machine}-")
        with writing(path):
            yield part
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            if new:
                _claim(part, path)
            else:
                part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_abandoned(folder: Path, begin: str) -> None:
    """Remove the parts of processes that are no more: their names begin so, and then have the process's id."""
    if os.name != "posix":  # elsewhere, to ask for a process may end it
        return
    for part in folder.glob(f"{glob.escape(begin)}*.part*"):
        writer = part.name.removeprefix(begin).partition("-")[0]
        try:
            os.kill(int(writer), 0)
        except (ProcessLookupError, OverflowError):
            part.unlink(missing_ok=True)
        except (PermissionError, ValueError):  # another user's, or no name of ours
            continue


def _claim(part: Path, path: Path) -> None:
    """Give `part` the name `path`, which no file may have: of several processes one only succeeds."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise UserError(f"{path} exists by now: another process has written it") from None
    except OSError:  # a file system without links
        path.open("xb").close()
        part.replace(path)


def write_text(path: Path, text: str, scratch: Path | None = None, new: bool = False) -> Path:
    """Write a text file in UTF-8, whole or not at all; its folder is made. `new` as for `replacing`."""
    make_folder(path.parent)
    with replacing(path, scratch, new) as part:
        # A file's name that is not Unicode holds lone surrogates: in JSON, backslashes are its own escapes.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(path: Path, values: Any, scratch: Path | None = None, new: bool = False) -> Path:
    """Write plain values as an indented JSON file, like `write_text`."""
    return write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n", scratch, new)


def make_folder(folder: Path) -> None:
    """Make a folder for results, if need be. Raises CannotWrite where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be made: {error.strerror}; give another folder") from None
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written to: {error.strerror}; give another folder") from None


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The plain values of a JSON text; `options` are `json.loads`'s. Raises ValueError for any other text."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(values: Any) -> str:
    """SHA-256 of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
