"""The server's temporary files: one folder, bounded in age and size, removed at the end."""

import secrets
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ldm.util import UserError

PREFIX = "hdpainter-web-"
SWEEP_SECONDS = 30
LOCK = "lock"
RESERVE = 64 * 2**20  # bytes of the disk that are left to others


class Workspace:
    """A folder in the system's temporary one, held by a lock for as long as the server runs.

    root: the folder. Files older than `max_age` seconds are removed and, where all together exceed `max_bytes`,
    the oldest ones first. Folders of servers that were killed are removed when the next one starts.
    """

    def __init__(self, max_bytes: int, max_age: float, parent: Path | None = None):
        parent = parent or Path(tempfile.gettempdir())
        remove_orphans(parent)
        # Resolved: gradio compares paths, and the temporary folder may be behind a link.
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        self._lock = FileLock(self.root / LOCK)
        self._lock.acquire()
        self.max_bytes, self.max_age = max_bytes, max_age
        self._closing = threading.Event()
        self._janitor = threading.Thread(target=self._keep_sweeping, daemon=True, name="janitor")
        self._janitor.start()

    def folder(self) -> Path:
        """A new folder whose name nobody can guess: the server hands files out to whoever names them."""
        path = self.root / secrets.token_hex(16)
        path.mkdir()
        return path

    def make_room(self, size: int) -> None:
        """Have the oldest files give way to `size` bytes. Raises UserError where the disk has no room."""
        if size > self.max_bytes or shutil.disk_usage(self.root).free < size + RESERVE:
            raise UserError("the server has no room for the file: try again later, or with a smaller one")
        self.sweep(size)

    def sweep(self, room: int = 0, now: float | None = None) -> None:
        """Remove what is too old or too much, leave `room` bytes; `now`: seconds since the epoch, for tests."""
        files = []
        for path in self.root.rglob("*"):
            try:
                if path.is_file() and path.name != LOCK:
                    # Not the time of modification: a copy has its original's.
                    files.append((path.stat().st_ctime_ns / 1e9, path.stat().st_size, path))
            except FileNotFoundError:  # removed by someone else meanwhile
                continue
        excess = sum(size for _, size, _ in files) + room - self.max_bytes
        oldest = (now or time.time()) - self.max_age
        for changed, size, path in sorted(files):
            if changed >= oldest and excess <= 0:
                break
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty yet
                path.parent.rmdir()
            excess -= size

    def close(self) -> None:
        """Remove everything."""
        self._closing.set()
        self._janitor.join()
        self._lock.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def _keep_sweeping(self) -> None:
        while not self._closing.wait(SWEEP_SECONDS):
            self.sweep()


def remove_orphans(parent: Path) -> None:
    """Remove the folders of servers that ended without doing so: the system has dropped their locks."""
    for path in parent.glob(f"{PREFIX}*"):
        lock = path / LOCK
        if not lock.is_file():
            continue
        try:
            with FileLock(lock).acquire(blocking=False):
                pass
        except (Timeout, OSError):  # it runs, or is another user's
            continue
        shutil.rmtree(path, ignore_errors=True)
