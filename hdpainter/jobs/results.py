"""Results on disk: a PNG and, beside it, a JSON record of everything that made it.

The record holds a hash of what determines the picture: the contents of image and mask, the prompt, all settings
and the model. A result is done when the record's hash is that of the job; that a file of its name exists says
nothing.

The record is written first and the picture renamed into place last, as the one step that completes a result.
That order leaves no doubtful state. A picture without its record is never ours and is not touched; a record
without its picture is a job that was interrupted; and as the record holds the picture's SHA-256, and an older
picture is removed before its record is replaced, a picture that differs was edited by someone. (With the picture
first, one left behind by a kill could not be told from the user's own file of that name.)
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from PIL import Image

from hdpainter.files import (
    CannotWrite,
    digest,
    file_sha256,
    make_folder,
    parse_json,
    replacing,
    write_json,
    write_text,
)
from hdpainter.images import encode
from ldm.util import UserError

FORMAT = 1
SCRATCH = ".hdpainter"  # folder for the lock and for pictures that are being written


@dataclass(frozen=True)
class State:
    """What is on disk for a job. `todo`: nothing yet. `done`: it is there. `changed`: this job file made it with
    other inputs. `taken`: a file that this job file did not make, or that was edited since."""

    kind: Literal["todo", "done", "changed", "taken"]
    message: str = ""


def save_result(
    path: Path,
    image: Image.Image,
    record: Mapping[str, Any],
    scratch: Path | None = None,
    new: bool = False,
) -> None:
    """Write `image` to `path` (.png; .jpg and .webp are lossy) and `record` to the .json beside it.

    The picture is prepared in `scratch` (default: the folder of `path`), which must be on the
    same file system. The record also goes into a PNG. Raises CannotWrite where they cannot be written and, if
    they are to be `new`, UserError where another process has written either meanwhile: that one's stays.
    """
    save_content(path, encode(image, path.suffix, record), image.size, record, scratch, new)


def save_content(
    path: Path,
    content: bytes,
    size: tuple[int, int],
    record: Mapping[str, Any],
    scratch: Path | None = None,
    new: bool = False,
) -> str:
    """Like `save_result`, of a picture of this (width, height) that is encoded already; returns its SHA-256."""
    beside = path.with_suffix(".json")
    output: dict[str, Any] = {
        "file": path.name,
        "width": size[0],
        "height": size[1],
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    with ExitStack() as undo:
        with replacing(path, scratch, new) as picture:
            picture.write_bytes(content)
            if not new:
                path.unlink(missing_ok=True)
            write_json(beside, {**record, "output": output}, scratch, new)
            if new:
                undo.callback(beside.unlink)
        undo.pop_all()
    return output["sha256"]


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of the picture at `path`; None when there is none that this program wrote."""
    try:
        record = parse_json(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    match record:
        case {"format": _, "source": str() | None, "hash": str(), "inputs": {}, "output": {"sha256": str()}}:
            return record if record["format"] == FORMAT else None
    return None


def is_occupied(path: Path) -> bool:
    """Whether there is anything where a picture (.png) and its record are to be."""
    return path.exists() or path.with_suffix(".json").exists()


def state_of(
    path: Path,
    inputs: Mapping[str, Any],
    source: Path,
    hash_file: Callable[[Path], str] = file_sha256,
) -> State:
    """What is at `path` (.png) for a job of the job file `source` with these inputs.

    Raises UserError where a folder is in the way.
    """
    beside = path.with_suffix(".json")
    for place in (path, beside):
        if place.is_dir():
            raise UserError(f"{place} is a folder; move it, or give the job another name")
    record = read_record(path)
    if not path.exists():
        foreign = record is None and beside.exists()
        return State("taken", f"{beside} exists and was not made by a batch") if foreign else State("todo")
    if record is None:
        return State("taken", f"{path} exists and was not made by a batch")
    edited = hash_file(path) != record["output"]["sha256"]
    if record["hash"] == digest(inputs):
        return State("done", f"{path.name} was edited since it was made; kept" if edited else "")
    if edited:
        return State("taken", f"{path} was edited since it was made")
    maker = record["source"]
    if maker is None or (path.parent / maker).resolve() != source.resolve():
        return State("taken", f"{path} was made by {maker or 'hdpainter inpaint'}")
    return State("changed", f"making it again: {differences(record['inputs'], inputs)}")


def differences(old: Any, new: Any, name: str = "") -> str:
    """What differs between two trees of plain values: "steps 20 -> 50, prompt 'a' -> 'b'"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*new, *(key for key in old if key not in new)]
        parts = (differences(old.get(key), new.get(key), str(key)) for key in keys)
        return ", ".join(part for part in parts if part)
    if old == new:
        return ""
    if name in ("image", "mask"):
        return f"{name} has other contents"
    return f"{name} {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def relative_to(folder: Path, path: Path) -> str:
    """`path` as seen from `folder`, so that both can move together; absolute where there is no such path."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Make `folder` if need be and hold it for one process; yields an empty scratch folder inside it.

    The system drops the lock when the process ends, however it ends, so a stale one cannot stay behind.

    Raises UserError when another process holds it.
    """
    hidden = folder / SCRATCH
    scratch, owner = hidden / "unfinished", hidden / "owner"
    if link := next((place for place in (hidden, scratch) if place.is_symlink()), None):
        raise UserError(f"{link} is a link to another folder, whose files would be removed: remove the link")
    make_folder(hidden)
    try:
        lock = FileLock(hidden / "lock").acquire(blocking=False)
    except Timeout:
        who = owner.read_text() if owner.is_file() else "another process"
        raise UserError(f"{who} is writing to {folder}; let it finish or give another --out") from None
    except OSError as error:
        raise CannotWrite(f"{hidden / 'lock'} cannot be written: {error.strerror or error}") from error
    with lock:
        write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
        shutil.rmtree(scratch, ignore_errors=True)
        make_folder(scratch)
        yield scratch
