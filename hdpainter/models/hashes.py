"""Hashes of checkpoints, and whether they still hold: to compute one takes a second for each gigabyte or two.

Beside a checkpoint X lie two files. ``X.sha256``, in the format of sha256sum, says what its hash should be; it
may come with the checkpoint. ``X.sha256.stat`` says what its hash was found to be here, and of which size, mtime
and ctime the file was then. Only that is believed instead of computing the hash: copies, and files put in the
place of others, have another ctime, however old they say to be.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hdpainter.files import CannotWrite, digest, file_sha256, write_text
from ldm.util import UserError


def sha256_file(path: Path) -> Path:
    """Where it is kept what the hash of the checkpoint `path` should be."""
    return path.with_name(path.name + ".sha256")


def claimed_sha256(path: Path) -> str | None:
    """What is kept beside a checkpoint as the hash that it should have."""
    try:
        words = sha256_file(path).read_text().split() if sha256_file(path).is_file() else []
    except (OSError, ValueError):
        return None
    return words[0] if words and re.fullmatch("[0-9a-f]{64}", words[0]) else None


def stat_file(path: Path) -> Path:
    """Where it is kept what the hash of the checkpoint `path` was found to be."""
    return path.with_name(path.name + ".sha256.stat")


def stamp(path: Path) -> tuple[int, int, int]:
    """(size, mtime, ctime) of a file, the times in ns: while they stay, so do its contents."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def record_sha256(path: Path, digest: str) -> None:
    """Keep the hash of a checkpoint, as it should be and as it is. Raises CannotWrite."""
    write_text(sha256_file(path), f"{digest}  {path.name}\n")
    _record_found(path, digest, stamp(path))


def _record_found(path: Path, digest: str, at: tuple[int, int, int]) -> None:
    write_text(stat_file(path), f"{digest} {' '.join(map(str, at))}\n")


def recorded_sha256(path: Path) -> str | None:
    """The hash that was found before, if the file has neither been written, replaced nor copied since."""
    try:
        digest, *at = stat_file(path).read_text().split()
        return digest if tuple(map(int, at)) == stamp(path) else None
    except (OSError, ValueError):
        return None


def joint_sha256(hashes: Iterable[str | None]) -> str | None:
    """The hash of a checkpoint of several files, from theirs; that of a single one, as it is. None: one is not
    known."""
    known = list(hashes)
    if None in known:
        return None
    return known[0] if len(known) == 1 else digest(known)


def checkpoint_sha256(path: Path) -> str:
    """The hash of a checkpoint: as found before, or computed, and then kept if the folder can be written to.

    A file that says that it should be another stays, for ``hdpainter models verify`` to tell of. Raises UserError
    for a file that is being written to.
    """
    if known := recorded_sha256(path):
        return known
    before = stamp(path)
    found = file_sha256(path)
    if stamp(path) != before:
        raise UserError(f"{path} changed while it was read: wait until it is complete, and start again")
    with suppress(OSError, CannotWrite):
        if not sha256_file(path).exists():
            write_text(sha256_file(path), f"{found}  {path.name}\n")
        _record_found(path, found, before)
    return found
