"""Temporary files: bounded, removed, and never left by a server that was killed."""

import os
import subprocess
import sys
import time

from hdpainter.web.workspace import PREFIX, Workspace


def write(path, size):
    path.write_bytes(b"x" * size)
    os.utime(path, (0, 0))  # as a copy of an old file has it; it came now all the same
    time.sleep(0.02)
    return path


def test_the_oldest_of_too_many_files_go_and_then_all_old_ones(tmp_path):
    space = Workspace(max_bytes=100, max_age=3600, parent=tmp_path)
    other, folder = space.folder(), space.folder()
    oldest = write(other / "oldest", 40)
    young = [write(folder / "young", 40), write(folder / "younger", 60)]
    space.sweep()
    assert not other.exists() and not oldest.exists() and all(path.exists() for path in young)
    space.sweep(now=time.time() + 3590)
    assert all(path.exists() for path in young)
    space.sweep(now=time.time() + 3610)
    assert not folder.exists() and space.root.exists()
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
