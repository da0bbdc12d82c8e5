"""Attention that is taught to segment: which token names what, the loss on hand-made maps, and its figure."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.mini.training.naming import NOTHING, OBJECTS, UNION, auc, naming_loss, separation, token_slots
from hdpainter.mini.world.toycoco import describe_scene
from hdpainter.prompts import token_indices, word_spans


def named_words(text, objects):
    """{slot: words}, the end token as its position."""
    slots = token_slots(text, objects)
    words = {}
    for word, positions in word_spans(text):
        own = set(slots[positions].tolist())
        assert len(own) == 1  # all tokens of a word name the same
        if (slot := own.pop()) != NOTHING:
            words.setdefault(slot, []).append(word)
    assert np.count_nonzero(slots == UNION) == bool(words)
    if words:
        assert np.flatnonzero(slots == UNION) == token_indices(text)[-1:]
    return words


@pytest.mark.parametrize(
    "text, objects, expected",
    [
        ("a red car and a teddy bear on grass", ["car", "teddy bear"], {0: ["red", "car"], 1: ["teddy", "bear"]}),
        ("an orange kite and an orange", ["orange", "kite"], {1: ["orange", "kite"], 0: ["orange"]}),
        ("an orange and an orange kite", ["orange", "kite"], {0: ["orange"], 1: ["orange", "kite"]}),
        ("an orange orange under the sky", ["orange"], {0: ["orange", "orange"]}),
        ("a car, a bus, Full HD, 4K", ["car", None], {0: ["car"]}),
        ("a stop sign in front of a blue wall", ["stop sign"], {0: ["stop", "sign"]}),
        ("a photo of a cupboard", ["cup"], {}),
        ("", ["car"], {}),
        ("a car", [], {}),
    ],
)  # fmt: skip
def test_words_name_their_objects(text, objects, expected):
    assert named_words(text, objects) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_every_object_of_a_scene_is_named_by_each_caption(index):
    scene = describe_scene("train", index)
    objects = [item.category.name for item in scene.objects]
    for caption in scene.captions:
        words = named_words(caption, objects)
        assert sorted(words) == list(range(len(objects)))
        for number, item in enumerate(scene.objects):
            own = " ".join(words[number])
            assert own in (item.category.name, f"{item.colour} {item.category.name}")


def test_a_text_too_long_for_the_encoder_keeps_what_it_sees():
    slots = token_slots("a car " + "on grass " * 60 + "a bus", ["car", "bus"])
    assert len(slots) == 77
    assert slots[2] == 0 and slots[76] == UNION
    assert not (slots == 1).any()


def test_naming_loss_is_the_entropy_of_what_tokens_name():
    slots = torch.full((2, 6), NOTHING, dtype=torch.int8)
    slots[0, 2], slots[0, 3], slots[0, 4] = 1, 0, UNION  # the second picture's text names nothing
    seen = torch.zeros(2, OBJECTS, 2, 2)
    seen[0, 0, 0, 0], seen[0, 1, 0, 1], seen[0, 2, 1, 1] = 1, 0.5, 1  # of number 2 the text does not speak
    scores = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def entropy(z, y):
        p = 1 / (1 + math.exp(-z))
        return -(y * math.log(p) + (1 - y) * math.log(1 - p))

    targets = {2: [0, 0.5, 0, 0], 3: [1, 0, 0, 0], 4: [1, 0.5, 0, 0]}
    expected = np.mean(
        [entropy(scores[0, i, token].item(), y) for token, ys in targets.items() for i, y in enumerate(ys)]
    )
    loss = naming_loss({1: scores}, slots, seen)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0, :, 2:5].abs().min() > 0
    assert not gradient[0, :, [0, 1, 5]].any() and not gradient[1].any()

    coarse = scores[:, :1].detach()  # one pixel, the mean of the four
    means = {2: 0.125, 3: 0.25, 4: 0.375}
    added = np.mean([entropy(float(coarse[0, 0, token]), y) for token, y in means.items()])
    both = naming_loss({1: scores, 2: coarse}, slots, seen)
    assert both.item() == pytest.approx(expected + added, rel=1e-5)
    assert naming_loss({1: scores}, torch.full_like(slots, NOTHING), seen).item() == 0


def test_auc_counts_the_pairs_in_order():
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0])
    positive = torch.tensor([True, False, True, True, False])
    # against (1, 0): 3 wins two, 2 wins two, 1 wins one and ties once
    assert auc(scores, positive) == (2 + 2 + 1.5) / 6
    assert auc(-scores, positive) == pytest.approx(1 - 5.5 / 6)
    assert auc(torch.ones(5), positive) == 0.5
    assert math.isnan(auc(scores, torch.ones(5, dtype=torch.bool)))
    assert math.isnan(auc(scores, torch.zeros(5, dtype=torch.bool)))


def test_separation_is_the_mean_over_the_objects_that_are_named_and_seen():
    slots = torch.tensor([[NOTHING, 0, 0, 1, 2, UNION]], dtype=torch.int8)
    seen = torch.zeros(1, OBJECTS, 1, 4)
    seen[0, 0, 0, 0] = 1  # number 2 is named and not seen, number 3 seen and not named
    seen[0, 1, 0, 2:], seen[0, 3, 0, 1] = 0.5, 1
    scores = torch.zeros(1, 4, 6)
    scores[0, :, 1], scores[0, :, 2] = (
        torch.tensor([1.0, 3, 0, 0]),
        torch.tensor([3.0, 0, 0, 0]),
    )  # mean: first
    scores[0, :, 3] = torch.tensor([1.0, 0, 1, 0])
    assert separation(scores, slots, seen) == pytest.approx((1 + 0.5) / 2)
    assert math.isnan(separation(scores, torch.full_like(slots, NOTHING), seen))
