"""GLIDE's tokens: GPT-2's byte-level byte-pair encoding of the lower-cased prompt.

Everything follows from the list of merges. The first 256 tokens are the bytes, the next 50,000 the merges in
their order, and the last is the end of text. So a merge's id is also its rank: the lowest is made first.
"""

import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

import regex
import torch
from torch import Tensor

from ldm.util import UserError

MERGES = Path(__file__).with_name("vocab.bpe.gz")
END_OF_TEXT = 50256
CONTEXT_LENGTH = 128

# Contractions, then letters, digits or other signs, each with the space before them; spaces are left to the next
# word but for the last one.
_WORDS = regex.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", regex.VERSION0
)


def tokenize(prompts: Sequence[str], length: int = CONTEXT_LENGTH) -> tuple[Tensor, Tensor]:
    """Ids, int64 [B, length], and which of them are the prompts' own, bool [B, length].

    The rest is the end of text. A prompt of more than `length` tokens is cut; an empty one has none of its own,
    which is what the unconditional model gets. Raises UserError where a prompt is not text.
    """
    ids = torch.full((len(prompts), length), END_OF_TEXT)
    mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise UserError(f"prompt must be text, not {prompt!r}")
        words = encode(prompt)[:length]
        ids[row, : len(words)] = torch.tensor(words, dtype=torch.int64)
        mask[row, : len(words)] = True
    return ids, mask


def encode(text: str) -> list[int]:
    """The ids of a text of any length. What looks like a special token is text too."""
    byte_ids, merges = _vocabulary()
    ids = []
    for word in _WORDS.findall(text.lower()):
        # "replace": lone surrogates, of file names that are not Unicode, have no UTF-8.
        ids += _merge([byte_ids[byte] for byte in word.encode("utf-8", errors="replace")], merges)
    return ids


def words_cut(text: str, length: int = CONTEXT_LENGTH) -> int:
    """How many words, between blanks, are not (wholly) within the first `length` tokens."""
    words = (f" {word}" if number else word for number, word in enumerate(text.split()))
    return sum(end > length for end in accumulate(len(encode(word)) for word in words))


def _merge(ids: list[int], merges: Mapping[tuple[int, int], int]) -> list[int]:
    """A word's ids after all the merges that apply, the lowest first and at all its places from the left."""
    while len(ids) > 1:
        lowest = min(merges.get(pair, END_OF_TEXT) for pair in pairwise(ids))
        if lowest == END_OF_TEXT:
            break
        merged, i = [], 0
        while i < len(ids):
            found = i + 1 < len(ids) and merges.get((ids[i], ids[i + 1])) == lowest
            merged.append(lowest if found else ids[i])
            i += 2 if found else 1
        ids = merged
    return ids


@cache
def _vocabulary() -> tuple[list[int], dict[tuple[int, int], int]]:
    """The id of each byte, and that of the token into which a pair of ids merges."""
    # The file writes bytes as visible characters: those that are ones as themselves, which come first, and the
    # others as the characters from 256.
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    order = visible + hidden
    characters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(hidden))]
    ids = {character: i for i, character in enumerate(characters)}
    merges = {}
    for line in gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()[1:]:
        left, right = line.split()
        merges[ids[left], ids[right]] = ids[left + right] = len(ids)
    return [order.index(byte) for byte in range(256)], merges
