"""Two who write to one place: one of them has it, the other is told."""

import json
import threading

import pytest
from PIL import Image

from hdpainter.cli import main
from hdpainter.files import replacing, write_text
from hdpainter.jobs.results import SCRATCH, locked, save_result
from ldm.util import UserError
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_of_two_commands_to_one_new_file_the_second_fails(tmp_path, capsys):
    image, mask, out = make_picture(tmp_path / "a.png"), make_mask(tmp_path / "m.png"), tmp_path / "out"
    command = ["inpaint", "--image", str(image), "--mask", str(mask), "--out", str(out / "r.png")]

    def run(prompt, painter):
        return main([*command, "--prompt", prompt], lambda *_: painter, lambda *_: MODEL)

    def meanwhile(prompts):  # the other one begins and ends while the first paints
        assert run("faster", FakePainter()) == 0

    assert run("slower", FakePainter(fail=meanwhile)) == 2
    assert f"{out / 'r.json'} exists by now: another process has written it" in capsys.readouterr().err
    assert json.loads((out / "r.json").read_text())["inputs"]["prompt"] == "faster"
    assert set(files(out)) == {"r.png", "r.json"}


def test_a_picture_that_appears_meanwhile_stays_without_a_record_of_ours(tmp_path, monkeypatch):
    path = tmp_path / "r.png"
    write = write_text

    def meanwhile(*arguments):
        path.write_bytes(b"somebody's")
        return write(*arguments)

    monkeypatch.setattr("hdpainter.files.write_text", meanwhile)
    with pytest.raises(UserError, match=r"r\.png exists by now"):
        save_result(path, Image.new("RGB", (2, 2)), {}, new=True)
    assert files(tmp_path) == {"r.png": b"somebody's"}


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_create_a_file_one_does(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    path, ready, outcomes = tmp_path / "x", threading.Barrier(8), []

    def create(number):
        try:
            with replacing(path, new=True) as part:
                part.write_text(str(number))
                ready.wait()
            outcomes.append(number)
        except UserError:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (number for number in outcomes if number is not None)
    assert len(outcomes) == 8 and files(tmp_path) == {"x": str(winner).encode()}


@pytest.mark.parametrize("place", [SCRATCH, f"{SCRATCH}/unfinished"])
def test_a_linked_scratch_folder_is_refused(tmp_path, place):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    link = tmp_path / "out" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    with pytest.raises(UserError, match="is a link to another folder"), locked(tmp_path / "out"):
        pass
    assert files(precious) == {"thesis.txt": b"years of work"}
