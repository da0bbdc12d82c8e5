"""ind(τ): the release's golden token indices, and what must hold for any prompt."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.prompts import default_tokenizer, full_prompt, token_indices, word_spans, words_cut
from tests.support import GOLDEN

CASES = json.loads((GOLDEN / "token_idx.json").read_text(encoding="utf-8"))
many = settings(max_examples=60, deadline=None)
prompts = st.text(st.characters(codec="utf-8"), max_size=120)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_release_token_indices(case):
    assert full_prompt(case["prompt"], case["positive"]) == case["full_prompt"]
    assert token_indices(case["prompt"], case["positive"]) == case["token_idx"]


@many
@given(prompts, st.sampled_from(["", "4K, high quality", "best " * 80]))
def test_indices_are_the_words_then_the_end_of_the_full_prompt(prompt, suffix):
    tokens = default_tokenizer()([prompt, full_prompt(prompt, suffix)])
    words, full = (row.tolist() for row in tokens)
    *word_indices, end = token_indices(prompt, suffix)
    assert word_indices == list(range(1, words.index(49407)))
    assert end == full.index(49407)


@many
@given(prompts)
def test_spans_cover_the_words_in_order(prompt):
    indices = [i for _, span in word_spans(prompt) for i in span]
    assert indices == token_indices(prompt)[:-1]


def test_spans_name_words_of_several_tokens():
    assert word_spans("a dog's toy, Fluß") == [
        ("a", [1]),
        ("dog", [2]),
        ("'s", [3]),
        ("toy", [4]),
        (",", [5]),
        ("fluß", [6, 7, 8]),
    ]
    assert word_spans("") == []


def test_words_that_the_encoder_does_not_see_are_counted():
    assert words_cut("boat " * 75) == 0
    assert words_cut("boat " * 200) == 125
    assert words_cut("boat " * 74 + "schöner") == 1  # three tokens, one of which is seen
    assert word_spans("boat " * 74 + "schöner")[-1] == ("schöner", [75])
    assert words_cut(full_prompt("boat " * 74, "high quality")) == 2
    assert len(word_spans("boat " * 200)) == 75
