"""Free holes: on empty ground, of the size that a person would paint, the same every time."""

from itertools import islice

import numpy as np
import pytest

from hdpainter.mini.examples import example, examples
from hdpainter.mini.holes import PLACES, SHARES, free_hole, free_holes, ground_captions
from hdpainter.mini.world.backgrounds import LOWER, UPPER
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import describe_scene


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_holes_are_free_and_make_sense(category):
    for hole in islice(free_holes(category, 96), 2):
        assert hole.mask.shape == (96, 96) and hole.mask.dtype == bool
        assert SHARES[0] <= hole.mask.mean() <= SHARES[1]
        assert not (hole.mask & hole.scene.visible_masks(96).any(0)).any()
        assert category.name not in [item.category.name for item in hole.scene.objects]
        assert category.name in hole.prompt and hole.prompt.startswith(("a ", "an "))
        assert set(ground_captions(hole.scene, category)) & set(PLACES[category.name])
        rows = np.flatnonzero(hole.mask.any(1)) / 96
        horizon = hole.scene.background.horizon
        assert rows[-1] > horizon - 0.01 if category.place == "ground" else rows[0] < horizon


def test_the_same_scene_has_the_same_hole_at_every_size():
    category = CATEGORIES[3]
    hole = next(free_holes(category, 128))
    again = free_hole(describe_scene("val", hole.index), hole.index, category, 128)
    assert np.array_equal(again.mask, hole.mask) and again.prompt == hole.prompt
    larger = free_hole(describe_scene("val", hole.index), hole.index, category, 512)
    assert larger.prompt == hole.prompt
    assert abs(larger.mask.mean() - hole.mask.mean()) < 0.01


def test_any_category_may_stand_anywhere_that_the_world_allows():
    found = [next(free_holes(category, 64, first=500, sensible=False)) for category in CATEGORIES]
    assert all(hole.index >= 500 for hole in found)
    assert max(hole.index for hole in found) < 540


def test_places_are_parts_of_the_worlds_backgrounds():
    captions = {part.caption for part in (*UPPER, *LOWER)}
    assert set(PLACES) == {category.name for category in CATEGORIES}
    for category in CATEGORIES:
        places = set(PLACES[category.name])
        assert places <= captions
        assert all(place.startswith("on ") == (category.place == "ground") for place in places)


def test_the_examples_are_the_first_scenes_with_a_place_and_the_same_at_every_size():
    first = list(islice(examples(96), 3))
    assert [hole.index for hole in first] == sorted({hole.index for hole in first})
    assert [hole.prompt for hole in islice(examples(256), 3)] == [hole.prompt for hole in first]
    for number, hole in enumerate(first):
        picture, mask, prompt = example(number, 96)
        assert np.array_equal(picture, hole.scene.render(96)) and np.array_equal(mask > 0, hole.mask)
        assert prompt == hole.prompt and hole.category not in {part.category for part in hole.scene.objects}
        assert {*PLACES[hole.category.name]} & {*ground_captions(hole.scene, hole.category)}
