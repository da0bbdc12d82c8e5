"""Hashes of checkpoints are those of the files that are there, whatever their age and the notes beside them."""

import hashlib
import os
import shutil
import time

import pytest

from hdpainter.models.hashes import (
    checkpoint_sha256,
    claimed_sha256,
    record_sha256,
    recorded_sha256,
    sha256_file,
    stat_file,
)

A, B = b"a" * 1000, b"b" * 1000


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "models" / "x.safetensors"
    path.parent.mkdir()
    path.write_bytes(A)
    return path


def tick():
    time.sleep(0.02)  # clocks of file systems are coarse


def test_a_hash_is_computed_once(file, monkeypatch):
    assert checkpoint_sha256(file) == sha(A) == recorded_sha256(file) == claimed_sha256(file)
    monkeypatch.setattr("hdpainter.models.hashes.file_sha256", lambda path: pytest.fail("computed again"))
    assert checkpoint_sha256(file) == sha(A)


def test_a_stale_note_that_is_newer_than_the_file_is_not_believed(file):
    """As in a copied folder: all files have the age of the copy, and the note is of an earlier file."""
    sha256_file(file).write_text(f"{sha(B)}  x.safetensors\n")
    os.utime(file, (1, 1))
    assert recorded_sha256(file) is None and checkpoint_sha256(file) == sha(A)
    assert claimed_sha256(file) == sha(B)  # for `verify` to tell of


@pytest.mark.parametrize("how", ["copied", "copied with its times", "overwritten", "replaced"])
def test_no_note_outlives_its_file(file, tmp_path, how):
    record_sha256(file, sha(A))
    about = file.stat()
    tick()
    if how.startswith("copied"):
        copy = shutil.copytree(file.parent, tmp_path / "copy", copy_function=shutil.copy2)
        file = copy / file.name
        file.write_bytes(B)
    elif how == "overwritten":
        file.write_bytes(B)
    else:
        other = tmp_path / "other"
        other.write_bytes(B)
        other.replace(file)
    if how != "copied":
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert file.stat().st_mtime_ns == about.st_mtime_ns and file.stat().st_size == about.st_size
    assert recorded_sha256(file) is None and checkpoint_sha256(file) == sha(B)
    assert recorded_sha256(file) == sha(B)


@pytest.mark.parametrize("note", [b"", b"\xff\xfe", b"hash", b"hash 1 2", b"hash 1 2 x", b"a 1 2 3 4"])
def test_damaged_notes_count_as_none(file, note):
    stat_file(file).write_bytes(note)
    sha256_file(file).write_bytes(note)
    assert recorded_sha256(file) is None and claimed_sha256(file) is None
    assert checkpoint_sha256(file) == sha(A)
