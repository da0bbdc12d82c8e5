"""The words of a prompt and where they stand among the text encoder's tokens: ind(τ) of the paper."""

import re
from collections.abc import Collection
from functools import cache
from typing import Any

CONTEXT_LENGTH = 77  # tokens of CLIP's text encoders, the start and the end token included
# What other programs read in prompts: (word:1.3), [word:0.5], ((word)), <lora:name:1>.
_WEIGHTS = re.compile(
    r"[(\[][^()\[\]]*:\s*-?\d*\.?\d+\s*[)\]]|\(\([^()]+\)\)|<(lora|lyco|hypernet)\w*:[^<>]*>"
)


@cache
def default_tokenizer() -> Any:
    """open_clip's byte-pair tokenizer, which all Stable Diffusion 1 and 2 text encoders share."""
    from open_clip.tokenizer import SimpleTokenizer  # seconds to import; not needed to show a help text

    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def full_prompt(prompt: str, suffix: str = "") -> str:
    """What the text encoder reads: the user's prompt, then the method's quality words, if any."""
    return f"{prompt}, {suffix}" if suffix else prompt


def token_indices(prompt: str, suffix: str = "", tokenizer: Any = None) -> list[int]:
    """ind(τ): positions, among the 77 tokens of the full prompt, of the user's words and of the end of text.

    The words of the suffix do not count. In a prompt too long for the encoder the end of text stands at 76, and
    in an empty one it is all there is.
    """
    tokenizer = tokenizer or default_tokenizer()
    words = len(tokenizer.encode(prompt))
    end = len(tokenizer.encode(full_prompt(prompt, suffix))) + 1
    last = CONTEXT_LENGTH - 1
    return [*range(1, min(words + 1, last)), min(end, last)]


def word_spans(prompt: str, tokenizer: Any = None) -> list[tuple[str, list[int]]]:
    """The words (and punctuation marks) as the tokenizer reads them, each with its token positions.

    Words beyond the encoder's 77 tokens are left out; a word cut in the middle keeps the positions that remain.
    """
    spans = [
        (word, [i for i in indices if i < CONTEXT_LENGTH - 1])
        for word, indices in _words(prompt, tokenizer or default_tokenizer())
    ]
    return [(word, indices) for word, indices in spans if indices]


def words_cut(prompt: str, tokenizer: Any = None) -> int:
    """How many words the text encoder does not (wholly) see because the prompt exceeds its 77 tokens.

    A word is what stands between blanks.
    """
    tokenizer = tokenizer or default_tokenizer()
    last, cut = 0, 0
    for word in prompt.split():  # tokens do not reach across blanks
        last += len(tokenizer.encode(word))
        cut += last >= CONTEXT_LENGTH - 1
    return cut


def has_weights(prompt: str) -> bool:
    """Whether a prompt has the weights or the tags of other programs, ``(word:1.3)`` or ``<lora:name:1>``."""
    return _WEIGHTS.search(prompt) is not None


def names_any(prompt: str, things: Collection[str]) -> bool:
    """Whether one of the things, such as "clock", stands in the prompt as a word of its own or its plural."""
    words = "|".join(map(re.escape, things))
    return re.search(rf"\b({words})(e?s)?\b", prompt, re.IGNORECASE) is not None


def _words(prompt: str, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """All words with their token positions (from 1), as if the encoder had no limit."""
    words, start, tokens = [], 0, tokenizer.encode(prompt)
    for i, token in enumerate(tokens):
        if tokenizer.decoder[token].endswith("</w>"):
            word = tokenizer.decode(tokens[start : i + 1]).strip()
            words.append((word, list(range(start + 1, i + 2))))
            start = i + 1
    return words
