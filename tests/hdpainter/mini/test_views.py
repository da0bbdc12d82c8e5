"""What the inpainting model trains on: pictures, masks and names belong together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.mini.training.crops import VARIANTS, Texts
from hdpainter.mini.training.inpainting import InpaintingTraining
from hdpainter.mini.training.masks import hull, object_mask
from hdpainter.mini.training.naming import NOTHING, OBJECTS, UNION
from hdpainter.mini.training.views import InpaintingViews, resized, shares
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import describe_scene
from hdpainter.prompts import default_tokenizer
from ldm.util import CONFIGS

NAMES = [category.name for category in CATEGORIES]


def views(**options):
    texts = Texts(lambda rows: default_tokenizer()(rows).numpy(), ("", "4K"), 0.1, ("", "text, ugly"))
    return InpaintingViews(texts, **{"scenes": 50, "side": 128} | options)


def texts_of(tokens):
    decode = default_tokenizer().decode
    return [decode(row[1 : row.argmax()].tolist()).strip() for row in tokens.reshape(-1, 77)]


@pytest.mark.parametrize("options", [{}, {"views": 4}, {"single": 1.0}, {"full": 1.0}], ids=str)
def test_samples_have_what_a_batch_needs(options):
    drawn = views(**options).draw(np.random.default_rng(0), 64, 10)
    assert drawn["images"].shape == (10, 64, 64, 3) and drawn["images"].dtype == np.uint8
    assert drawn["masks"].shape == (10, 64, 64) and drawn["masks"].any((1, 2)).all()
    assert drawn["tokens"].shape == drawn["slots"].shape == (10, VARIANTS, 77)
    assert drawn["seen"].shape == (10, OBJECTS, 8, 8)
    assert drawn["seen"].min() >= 0 and 0.5 < drawn["seen"].max() <= 1
    again = views(**options).draw(np.random.default_rng(0), 64, 10)
    assert all(np.array_equal(again[name], drawn[name]) for name in drawn)
    assert drawn["masks"].all() == (options.get("full") == 1.0)


def test_tokens_name_the_objects_whose_masks_stand_at_their_number():
    drawn = views(single=0.0, covering=1.0, full=0.0).draw(np.random.default_rng(1), 64, 12)
    named = 0
    for text, slots in zip(texts_of(drawn["tokens"]), drawn["slots"].reshape(-1, 77), strict=True):
        numbers = set(slots.tolist()) - {NOTHING, UNION}
        named += bool(numbers)
        assert bool(numbers) == (UNION in slots) == any(name in text for name in NAMES)
    assert named > 30


def test_a_single_object_is_called_by_its_name_alone_and_seen():
    drawn = views(single=1.0).draw(np.random.default_rng(2), 64, 20)
    for slots, seen in zip(drawn["slots"], drawn["seen"], strict=True):
        numbers = set(slots.ravel().tolist()) - {NOTHING, UNION}
        assert len(numbers) <= 1  # none where all texts are nulls
        assert all(seen[number].astype(float).mean() > 0.01 for number in numbers)


def test_holes_around_objects_cover_what_they_are_made_for():
    drawn = views(single=1.0, full=0.0, covering=1.0).draw(np.random.default_rng(3), 64, 20)
    for mask, slots, seen in zip(drawn["masks"], drawn["slots"], drawn["seen"], strict=True):
        for number in set(slots.ravel().tolist()) - {NOTHING, UNION}:
            pixels = seen[number].repeat(8, 0).repeat(8, 1) == 1
            assert mask[pixels].all()


def test_shares_tell_how_much_of_a_pixel_an_object_covers():
    seen = np.zeros((2, 16, 16), bool)
    seen[1, :8, :4] = True
    maps = shares(seen, 2)
    assert maps.shape == (OBJECTS, 2, 2)
    assert np.array_equal(maps[1], [[0.5, 0], [0, 0]]) and not maps[[0, 2, 3]].any()
    scene = describe_scene("train", 0)
    assert resized(scene.render(64), 64) is not None and resized(scene.render(64), 32).shape == (32, 32, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 40), st.integers(0, 40), st.integers(1, 24), st.integers(1, 24))
def test_a_hole_around_an_object_covers_it_and_little_more(seed, x, y, w, h):
    seen = np.zeros((64, 64), bool)
    seen[y : y + h, x : x + w] = True
    mask = object_mask(np.random.default_rng(seed), seen)
    assert mask.shape == seen.shape and mask.dtype == bool
    assert mask[seen].all()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    reach = 64 * 0.08 + 1 + 0.25 * (max(w, h) + 10)  # grown, and an ellipse reaches beyond its box
    assert rows[0] >= y - reach and rows[-1] <= y + h + reach
    assert columns[0] >= x - reach and columns[-1] <= x + w + reach


def test_a_hull_is_convex_and_covers_the_mask():
    mask = np.zeros((32, 32), bool)
    mask[4:20, 5] = mask[19, 5:25] = True  # an L
    filled = hull(mask)
    assert np.all(filled[mask])
    assert filled[15, 8]
    assert not filled[5, 20]


def test_a_sheet_has_holes_of_all_categories_and_the_same_drawn_from_nothing(monkeypatch):
    budget = {"steps": 1, "minutes": 1.0, "matrix_lr": 0.01, "crops": {64: [1, 2, 4]}}
    config = str(CONFIGS / "models/mini-inpainting.yaml")
    training = InpaintingTraining(config, {}, size=64, scenes=4, held_out=1, **budget)
    asked = []

    def inpaint(images, masks, texts):
        asked.append((masks.mean((1, 2)), list(texts)))
        return torch.zeros(len(images), 3, *masks.shape[1:])

    monkeypatch.setattr(training, "inpaint", inpaint)
    assert training.sheet().shape == (4 * (64 + 3) - 3, 10 * (64 + 3) - 3, 3)
    (holes, prompts), (whole, again) = asked
    assert holes.max() <= 0.2 and (whole == 1).all()
    assert prompts == again
    assert all(name in prompt for name, prompt in zip(NAMES, prompts, strict=True))
