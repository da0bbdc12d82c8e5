"""Hashes that are kept between runs, and plans that read no more than they must."""

import os
import time

import pytest

from hdpainter.files import file_sha256
from hdpainter.jobs import hashes, plan
from hdpainter.jobs.hashes import DATABASE, Hashes
from hdpainter.jobs.job_files import read_jobs
from tests.hdpainter.fakes import MODEL
from tests.hdpainter.jobs.test_batch import Folder


@pytest.fixture
def old(tmp_path, monkeypatch):
    """old(name, text) -> a file that has not been written to for a while, by the clock of the program."""
    monkeypatch.setattr(hashes, "SETTLED", -1)

    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read for their hashes."""
    names = []

    def counted(path):
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(hashes, "file_sha256", counted)
    return names


def test_a_file_is_read_once(tmp_path, old, read):
    path = old("a", "text")
    for _ in range(2):
        with Hashes(tmp_path) as kept:
            assert kept.of(path) == kept.of(path) == file_sha256(path)
    assert read == ["a"]


def test_a_file_that_was_written_replaced_or_copied_over_is_read_again(tmp_path, old, read):
    path = old("a", "text")
    with Hashes(tmp_path) as kept:
        kept.of(path)
        before = path.stat()
        path.write_text("tent")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time
        assert kept.of(path) == file_sha256(path)
        old("b", "cent").replace(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert kept.of(path) == file_sha256(path)
    assert read == ["a", "a", "a"]


def test_what_was_written_just_now_is_not_believed_later(tmp_path, read):
    path = tmp_path / "a"
    path.write_text("text")
    with Hashes(tmp_path) as kept:
        kept.of(path), kept.of(path)
        assert read == ["a", "a"]
        kept.keep(path, file_sha256(path), ours=True)
        assert kept.of(path) == file_sha256(path)
    assert read == ["a", "a"]


def test_without_a_usable_database_files_are_read(tmp_path, old, read):
    path = old("a", "text")
    (tmp_path / DATABASE).write_bytes(b"not a database" * 100)
    with Hashes(tmp_path) as kept:  # it is made anew
        assert kept.of(path) == kept.of(path) == file_sha256(path)
    assert read == ["a"]
    for folder in (None, tmp_path / "nowhere"):
        with Hashes(folder) as kept:
            assert kept.of(path) == kept.of(path) == file_sha256(path)
    assert len(read) == 5


def test_a_plan_hashes_only_what_was_made_before_and_that_once(tmp_path, old, read):
    folder = Folder(tmp_path)
    folder.run()
    assert read == []
    assert len(folder.run()[0].skipped) == 5
    assert set(read) <= {"a.png", "m.png"}  # once, as they were hashed for the first job already
    read.clear()
    folder.run()
    assert read == []


def test_a_job_keeps_little(tmp_path):
    folder = Folder(tmp_path, [{"name": f"j{n}", "prompt": str(n)} for n in range(50)])
    planned, _ = plan.plan(read_jobs(folder.source), folder.out, MODEL, "hd-painter")
    assert len({id(one.method) for one in planned}) == len({id(one.batch_key) for one in planned}) == 1
    assert len({id(one.job.settings) for one in planned}) == 1


def test_a_file_that_was_touched_since_the_plan_fails_its_job(tmp_path):
    folder = Folder(tmp_path, [{"name": "j", "prompt": "x"}])
    (planned,), _ = plan.plan(read_jobs(folder.source), folder.out, MODEL, "hd-painter")
    planned.check_stamps()
    time.sleep(0.02)
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"a\.png has changed since it was looked at"):
        planned.check_stamps()
