"""Files are written whole or not at all, also by processes that are killed while they write."""

import os
import signal
import time

from hdpainter.files import replacing, write_text


def writer(path, pause):
    """A process that begins to write to `path`, and then waits; returns its id once it has begun."""
    child = os.fork()
    if child == 0:
        try:
            with replacing(path) as part:
                part.write_text("half")
                time.sleep(pause)
        finally:
            os._exit(0)
    while not any(found.name.startswith(f".{path.name}") for found in path.parent.iterdir()):
        time.sleep(0.01)
    return child


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path):
    path = tmp_path / "scores [a].csv"
    write_text(path, "old")
    other = tmp_path / ".another.csv.part.csv"
    other.write_text("somebody's")
    child = writer(path, 60)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 3
    write_text(path, "new")
    assert path.read_text() == "new" and sorted(tmp_path.iterdir()) == sorted([path, other])


def test_what_another_process_is_writing_stays(tmp_path):
    path = tmp_path / "a.json"
    child = writer(path, 0.5)
    write_text(path, "first")
    assert path.read_text() == "first" and len(list(tmp_path.iterdir())) == 2
    os.waitpid(child, 0)
    assert path.read_text() == "half" and list(tmp_path.iterdir()) == [path]
