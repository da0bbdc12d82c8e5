"""GLIDE's tokens against the public program's and another implementation of GPT-2's."""

import gzip
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from tokenizers.pre_tokenizers import ByteLevel

from hdpainter.baselines.glide.tokens import END_OF_TEXT, MERGES, encode, tokenize
from ldm.util import UserError
from tests.support import GOLDEN

CASES = json.loads((GOLDEN / "glide_tokens.json").read_text(encoding="utf-8"))["cases"]


@pytest.fixture(scope="module")
def other() -> ByteLevelBPETokenizer:
    """The tokenizers library's, with our file's merges and ids in their order."""
    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()[1:]]
    visible = sorted(char for char in ByteLevel.alphabet() if ord(char) < 256)
    others = sorted(char for char in ByteLevel.alphabet() if ord(char) >= 256)
    tokens = [*visible, *others, *map("".join, merges)]
    return ByteLevelBPETokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def test_the_list_of_merges_is_gpt_2s():
    digest = hashlib.sha256(gzip.decompress(MERGES.read_bytes())).hexdigest()
    assert digest == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    assert "Copyright (c) 2019 OpenAI" in MERGES.with_name("LICENSE-vocab.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=[case["prompt"][:20] for case in CASES])
def test_the_public_programs_ids(case):
    assert encode(case["prompt"]) == case["ids"]
    for length in (128, 8):
        padded = case[f"padded_{length}"]
        ids, mask = tokenize([case["prompt"]], length)
        assert ids.shape == mask.shape == (1, length)
        own = padded["n_true"]
        assert mask[0].tolist() == [True] * own + [False] * (length - own)
        assert ids[0, :12].tolist() == padded["head"]
        assert (ids[0, own:] == END_OF_TEXT).all()


WORDS = st.sampled_from(
    ["It's", "I'LL", "they've", "x" * 30, " ", "  ", "\n\t", "12", "½", "٣", "Ⅷ", "ẞ", "é", "字"]
)


@given(st.lists(st.one_of(WORDS, st.text(max_size=8))).map("".join))
@settings(max_examples=100, deadline=None)
def test_any_text_has_the_ids_of_another_implementation(other, text):
    assert encode(text) == other.encode(text.lower()).ids


def test_what_looks_like_a_special_token_is_text(other):
    assert END_OF_TEXT not in encode("<|endoftext|>")
    assert encode("<|endoftext|>") == other.encode("<|endoftext|>").ids


def test_long_prompts_are_cut_and_empty_ones_are_all_padding():
    prompt = "a red kite over the sea " * 60
    ids, mask = tokenize([prompt, ""])
    assert mask[0].all() and ids[0].tolist() == encode(prompt)[:128]
    assert not mask[1].any() and (ids[1] == END_OF_TEXT).all()


def test_names_that_are_not_unicode_and_what_is_no_text():
    assert encode("caf\udce9") == encode("caf?")
    with pytest.raises(UserError, match="prompt must be text, not None"):
        tokenize([None])
