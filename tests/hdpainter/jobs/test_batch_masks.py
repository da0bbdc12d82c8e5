"""What a batch says of its masks: how much each fills, in how many parts, and which fill nearly everything."""

import json

import numpy as np
import pytest
from PIL import Image

from hdpainter.cli import main
from hdpainter.jobs import commands
from tests.hdpainter.fakes import MODEL, FakePainter, make_picture

SHARES = {"all": (100, 1), "most": (98, 1), "two": (33, 2), "one": (25, 1)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of pictures, the current one; each mask is called after what it fills."""
    monkeypatch.chdir(tmp_path)
    masks = {name: np.zeros((16, 24), np.uint8) for name in SHARES}
    masks["all"][:] = 255
    masks["most"][:, :] = 255
    masks["most"][0, :8] = 0
    masks["two"][:, :4] = masks["two"][:, -4:] = 255
    masks["one"][8:, 12:] = 255
    for name, mask in masks.items():
        make_picture(tmp_path / "photos" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "photos" / f"{name}_mask.png")
    return tmp_path


def run(*words):
    return main(
        ["batch", "photos", "--prompt", "a kite", "--out", "out", *words], lambda *_: FakePainter(), identity
    )


def identity(*_):
    return MODEL


def described(name):
    share, parts = SHARES[name]
    return f"fills {share}% of the picture" + (f", {parts} parts" if parts > 1 else "")


def test_every_picture_tells_what_its_mask_filled_and_the_end_which_are_large(folder, capsys):
    assert run() == 0
    told = capsys.readouterr().err.splitlines()
    for name in SHARES:
        (line,) = (line for line in told if f"] {name}: done in" in line)
        assert f" s, {described(name)} (" in f"{line} ("
        warned = [
            line for line in told if line.startswith("hdpainter: warning: mask") and f"{name}_mask" in line
        ]
        assert len(warned) == (SHARES[name][0] > 90)
    assert told[-2] == "the mask fills over 90% of the picture (white is filled): all, most"
    assert json.loads((folder / "out" / "summary.json").read_text())["large"] == ["all", "most"]
    assert run() == 0 and "over 90%" not in capsys.readouterr().err  # done before


def test_a_dry_run_looks_at_the_masks(folder, capsys, monkeypatch):
    Image.new("L", (24, 16)).save("photos/one_mask.png")
    make_picture(folder / "photos" / "two_mask.png")
    assert run("--dry-run") == 1
    told = capsys.readouterr().out
    for name in ("all", "most"):
        assert f"todo     {name}.png  'a kite' in {name}.png, {described(name)}\n" in told
    assert "bad      one.png: mask photos/one_mask.png marks nothing to fill" in told
    assert "bad      two.png: mask photos/two_mask.png is a colour picture, not a mask" in told
    assert told.endswith("2 todo, 2 bad -> out\n") and not (folder / "out").exists()

    monkeypatch.setattr(commands, "LOOKED_AT", 1)
    run("--dry-run")
    told = capsys.readouterr().out
    assert f"all.png, {described('all')}\n" in told and "in most.png\n" in told
    assert "only the first 1 masks were looked at: all 4 would take minutes" in told
