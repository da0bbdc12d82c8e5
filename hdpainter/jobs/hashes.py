"""Hashes of photos and results, kept so that a file is read once and not each time that a batch is started.

A hash is believed while the file's size, times (mtime and ctime) and inode stay. It is kept in a database in the
results' hidden folder, which is only a saving: it may be deleted, and where it cannot be used, files are read.
"""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from hdpainter.files import file_sha256

DATABASE = "hashes.sqlite"
SETTLED = 2 * 10**9  # ns; what is younger may be written to again within a tick of the file system's clock

Stamp = tuple[int, int, int, int, int]
"""(device, inode, size, mtime, ctime) of a file; while they stay, so do its contents."""


def stamp(path: Path) -> Stamp:
    """The stamp of a file. Raises OSError."""
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


class Hashes:
    """SHA-256 of files, in hexadecimal, by their stamps.

    folder: where the database is, or will be; None: each file is read.
    """

    def __init__(self, folder: Path | None = None):
        self._database: sqlite3.Connection | None = None
        if folder is not None:
            with suppress(sqlite3.Error):
                self._database = _opened(folder / DATABASE)

    def __enter__(self) -> "Hashes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def of(self, path: Path) -> str:
        """The hash of a file, which is read only where it is not known. Raises OSError."""
        if (known := self._known(at := stamp(path))) is not None:
            return known
        sha256 = file_sha256(path)
        if stamp(path) == at:
            self._keep(at, sha256)
        return sha256

    def keep(self, path: Path, sha256: str, ours: bool = False) -> None:
        """Keep the hash of a file that was read just now or, if it is ours, written."""
        with suppress(OSError):
            self._keep(stamp(path), sha256, ours)

    def _known(self, at: Stamp) -> str | None:
        if self._database is None:
            return None
        with suppress(sqlite3.Error):
            found = self._database.execute(
                "SELECT sha256 FROM hashes WHERE stamp = ?", (_key(at),)
            ).fetchone()
            return found and found[0].hex()
        return None

    def _keep(self, at: Stamp, sha256: str, ours: bool = False) -> None:
        settled = time.time_ns() - max(at[3:]) > SETTLED
        if self._database is not None and (settled or ours):
            with suppress(sqlite3.Error):
                row = _key(at), bytes.fromhex(sha256)
                self._database.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?)", row)


def _key(at: Stamp) -> bytes:
    return repr(at).encode()


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connected(path)
    except sqlite3.DatabaseError:  # damaged
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")  # what is lost in a power cut is computed again
        database.execute(
            "CREATE TABLE IF NOT EXISTS hashes (stamp BLOB PRIMARY KEY, sha256 BLOB) WITHOUT ROWID"
        )
        return database
    except BaseException:
        database.close()
        raise
