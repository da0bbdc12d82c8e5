"""Temporary files: bounded, removed, and never left by a server that was killed."""

import os
import subprocess
import sys
import time

from hdpainter.web.workspace import PREFIX, Workspace


def write(path, size=10, age=0.0):
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_old_files_go_and_then_the_oldest_of_too_many(tmp_path):
    space = Workspace(max_bytes=100, max_age=3600, parent=tmp_path)
    folder, other = space.folder(), space.folder()
    old = write(other / "old", age=4000)
    first, second, third = (write(folder / str(age), 40, age) for age in (30, 20, 10))
    space.sweep()
    assert not old.exists() and not other.exists()
    assert (first.exists(), second.exists(), third.exists()) == (False, True, True)
    space.close()
    assert list(tmp_path.iterdir()) == []


def test_folders_cannot_be_guessed(tmp_path):
    space = Workspace(100, 3600, tmp_path)
    names = {space.folder().name for _ in range(5)}
    assert len(names) == 5 and all(len(name) == 32 for name in names)
    space.close()


def test_the_next_server_removes_what_a_killed_one_left(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from hdpainter.web.workspace import Workspace\n"
        "space = Workspace(100, 3600, Path(sys.argv[1])); (space.folder() / 'a').write_text('a'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == 9
    (left,) = tmp_path.iterdir()
    running = Workspace(100, 3600, tmp_path)
    assert not left.exists()
    another = Workspace(100, 3600, tmp_path)
    assert running.root.exists() and running.root.name.startswith(PREFIX)
    another.close()
    running.close()
