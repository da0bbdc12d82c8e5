"""How masks and pictures are read by the user's settings, and what is painted on canvases of any kind."""

import json

import numpy as np
import pytest
from PIL import Image

from hdpainter.cli import main
from hdpainter.inputs import InputSettings, described, read
from hdpainter.settings import Method
from ldm.util import UserError

METHOD = Method.load("painta").override({"sampler.steps": 2, "superres.steps": 2})


@pytest.fixture
def pair(photo):
    """A picture of 200 x 120 and a mask of a square in it, as PIL images."""
    mask = np.zeros((120, 200), np.uint8)
    mask[40:60, 150:170] = 255
    return photo(200, 120)[0], Image.fromarray(mask)


def mask_by(picture, mask, threshold=128, **settings):
    return read(picture, mask, InputSettings(**settings), threshold)[1]


def test_the_mask_is_read_as_the_settings_say(pair):
    picture, mask = pair
    grey = np.array(mask)
    assert (mask_by(picture, mask) == grey).all()
    assert (mask_by(picture, mask, invert_mask=True) == 255 - grey).all()
    hole = picture.copy()
    hole.putalpha(Image.fromarray(255 - grey))
    assert (mask_by(picture, hole, mask_channel="alpha") == grey).all()
    assert (mask_by(picture, hole, mask_channel="alpha", invert_mask=True) == 255 - grey).all()
    small = mask.resize((100, 60), Image.Resampling.NEAREST)
    assert (mask_by(picture, small, resize_mask=True) == grey).all()
    with pytest.raises(UserError, match="100 x 60 pixels but the image is 200 x 120: save the mask at"):
        read(picture, small, InputSettings())
    with pytest.raises(UserError, match="these are other proportions, so the mask is not of this image"):
        read(picture, mask.resize((100, 70)), InputSettings(resize_mask=True))


def test_growing_is_by_a_disc(pair):
    picture, mask = pair
    grown = mask_by(picture, mask, grow=10) > 0
    rows, columns = np.nonzero(grown)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 69, 140, 179)
    assert not grown[30, 140] and grown[40 - 7, 150 - 7]  # round corners
    assert not mask_by(picture, Image.new("L", (200, 120)), grow=10).any()


def test_outpainting_grows_the_canvas_and_fills_what_is_new(pair):
    picture, mask = pair
    canvas, grey = read(picture, mask, InputSettings(outpaint="left=30,bottom=8"))
    assert canvas.size == (230, 128) and grey.shape == (128, 230)
    assert (np.array(canvas)[:120, 30:] == np.array(picture)).all()
    assert (
        (grey[:120, 30:] == np.array(mask)).all()
        and (grey[:, :30] == 255).all()
        and (grey[120:] == 255).all()
    )
    assert (read(picture, None, InputSettings(outpaint="top=5"))[1][5:] == 0).all()
    with pytest.raises(UserError, match="there is no mask"):
        read(picture, None, InputSettings())
    with pytest.raises(
        UserError, match="outpaint left=99999,top=99999 makes 100199 x 100119 pixels: add fewer"
    ):
        read(picture, None, InputSettings(outpaint="left=99999,top=99999"))


@pytest.mark.parametrize(
    "text", ["", "left", "left=-3", "left=5,left=6", "up=5", "left=5;top=5", "left=1e9", "left = 5"]
)
def test_other_sides_are_refused(text):
    with pytest.raises(UserError, match=r"outpaint is .*: give sides and pixels, such as left=200,right=200"):
        InputSettings(outpaint=text)


def test_a_mask_is_told_in_words(pair):
    mask = np.array(pair[1]) > 0
    assert described(mask) == "fills 2% of the picture"
    mask[0, 0] = True
    assert described(mask) == "fills 2% of the picture, 2 parts"
    assert described(np.arange(10000).reshape(100, 100) == 5000) == "fills 0.01% of the picture"


@pytest.mark.parametrize("superres", [False, True])
def test_only_the_masks_surroundings_are_seen_and_only_the_mask_changes(painter, pair, superres):
    picture, mask = pair
    result = painter(picture, mask, "boat", method=METHOD, only_masked=30, superres=superres)
    assert result.image.size == picture.size and result.low_res.size == (64, 64)
    (hole,) = result.metadata["holes"]
    assert hole["window"] == [120, 10, 200, 90] and hole["stage1_size"] == [64, 64]
    assert hole["superres"] == superres == result.metadata["superres"]  # the window is larger than stage 1
    known, after = np.array(mask) == 0, np.array(result.image)
    assert (after == np.array(picture))[known].all() and (after != np.array(picture))[~known].any()


def test_the_window_is_painted_like_a_picture_of_its_own(painter, pair):
    picture, mask = pair
    box = (120, 10, 200, 90)
    inside = painter(picture, mask, "boat", method=METHOD, only_masked=30).image.crop(box)
    alone = painter(picture.crop(box), mask.crop(box), "boat", method=METHOD).image
    assert (np.array(inside) == np.array(alone)).all()


def test_a_window_as_large_as_the_picture_changes_nothing(painter, photo):
    picture, mask = photo(96, 80)
    whole, windowed = (
        painter(picture, mask, "boat", method=METHOD, only_masked=padding).image for padding in (None, 500)
    )
    assert (np.array(whole) == np.array(windowed)).all()


def test_holes_are_filled_one_after_the_other_with_prompts_of_their_own(painter, pair):
    picture, mask = pair
    grey = np.array(mask)
    grey[20:40, 10:30] = 255
    result = painter(picture, grey, "boat | kite", method=METHOD, each_hole=True, only_masked=10, seed=5)
    told = [(hole["prompt"], hole["seed"], hole["window"]) for hole in result.metadata["holes"]]
    both = painter(picture, grey, "boat | kite", method=METHOD, each_hole=True, superres=False).metadata
    assert [hole["window"] for hole in both["holes"]] == [[0, 0, 200, 120]] * 2
    assert told == [("boat", 5, [0, 10, 40, 50]), ("kite", 6, [140, 30, 180, 70])]
    first = painter(
        picture,
        np.where(np.arange(200) < 100, grey, 0).astype(np.uint8),
        "boat",
        method=METHOD,
        only_masked=10,
        seed=5,
    )
    then = painter(first.image, mask, "kite", method=METHOD, only_masked=10, seed=6)
    assert (np.array(result.image) == np.array(then.image)).all()
    with pytest.raises(UserError, match=r"3 prompts, separated by \|, for 2 holes"):
        painter(picture, grey, "a|b|c", method=METHOD, each_hole=True)
    with pytest.raises(UserError, match="2 holes to fill one after the other, and a draft is of one"):
        painter.draft(picture, grey, "boat", method=METHOD.override({"input.each_hole": True}))


def test_what_is_told_of_a_window(painter, pair):
    grey = np.zeros((120, 200), np.uint8)
    grey[20:50, 10:130] = 255
    result = painter(pair[0], grey, "boat", method=METHOD, only_masked=8, seed=5)
    (hole,) = result.metadata["holes"]
    left, top, right, bottom = hole["window"]
    assert left <= 2 and top <= 12 and right >= 138 and bottom >= 58
    assert (
        hole["stage1_size"] == list(result.low_res.size) and hole["stage1_size"][0] > hole["stage1_size"][1]
    )
    assert hole["superres"] is (right - left > 64)
    grey[:] = 0
    grey[20:50, 10:110] = grey[80:90, 170:180] = 255
    facts = painter(pair[0], grey, "boat", method=METHOD, only_masked=8, each_hole=True).metadata
    assert [hole["superres"] for hole in facts["holes"]] == [True, False] and facts["superres"]


def test_a_batch_of_pictures_with_different_numbers_of_holes(painter, pair):
    picture, mask = pair
    two = np.array(mask)
    two[20:40, 10:30] = 255
    settings = {"method": METHOD, "each_hole": True, "superres": False}
    together = painter([picture, picture], [mask, two], ["a", "a|b"], **settings)
    for result, one, prompt in zip(together, (mask, two), ("a", "a|b"), strict=True):
        alone = np.array(painter(picture, one, prompt, **settings).image).astype(int)
        assert np.abs(alone - np.array(result.image)).max() <= 1


def test_an_outpainted_picture_is_larger_and_the_old_part_exact(painter, pair):
    picture, _ = pair
    result = painter(picture, None, "boat", method=METHOD, outpaint="right=40,top=20", superres=False)
    assert result.image.size == (240, 140) and result.metadata["size"] == [240, 140]
    assert (np.array(result.image)[20:, :200] == np.array(picture)).all()


def test_a_draft_in_a_window_is_finished_there(painter, pair):
    picture, mask = pair
    method = METHOD.override({"input.only_masked": 30})
    whole = painter(picture, mask, "boat", method=method)
    draft = painter.draft(picture, mask, "boat", method=method)
    assert (np.array(draft) == np.array(whole.low_res)).all()
    assert (
        np.array(painter.finish(picture, mask, "boat", draft, method=method).image) == np.array(whole.image)
    ).all()


def test_blending_wants_room_around_the_mask():
    with pytest.raises(UserError, match="only_masked is 16: where the known region is blended"):
        METHOD.override({"input.only_masked": 16, "known_region": "blended"})


def test_a_batch_file_has_the_same_settings(painter, tiny_pipeline, pair, tmp_path):
    picture, mask = pair
    picture.save(tmp_path / "a.png")
    mask.save(tmp_path / "m.png")
    job = {
        "image": "a.png",
        "mask": "m.png",
        "prompt": "boat",
        "method": "painta",
        "steps": 1,
        "superres": False,
    }
    jobs = [
        job | {"name": "window", "only_masked": 20},
        job | {"name": "wide", "outpaint": "left=10", "mask": None},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    words = ["batch", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*words, "--model", str(tiny_pipeline)], load=lambda *_: painter) == 0
    plain = painter(picture, mask, "boat", method="painta", steps=1, superres=False, only_masked=20)
    with Image.open(tmp_path / "out" / "window.png") as made:
        assert (np.array(made) == np.array(plain.image)).all()
    with Image.open(tmp_path / "out" / "wide.png") as made:
        assert made.size == (210, 120)
