"""Cross-attention that segments: which token names which object, and the loss by which its score learns where.

RASG (section 3.4 of the paper) reads the cross-attention's scores before the softmax as the logits of a
segmenter (Eq. 9). Stable Diffusion's have become something like it over billions of pictures; a miniature's do
not of themselves, since softmax is blind to a shift of all logits, and so they are taught.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hdpainter.mini.world.palette import PALETTE
from hdpainter.prompts import CONTEXT_LENGTH, default_tokenizer, word_spans

OBJECTS = 4  # that a scene has at most
UNION = OBJECTS  # what the end token stands for: everything that the text names
NOTHING = -1


def token_slots(text: str, objects: Sequence[str | None], tokenizer: Any = None) -> np.ndarray:
    """What each of the 77 tokens of `text` names, int8 [77].

    That is the number of the object to whose category, or colour before it, its word belongs, `UNION` for the
    end token of a text that names any, `NOTHING` for all others.
    objects: category names by number, None for those that do not count.
    """
    tokenizer = tokenizer or default_tokenizer()
    slots = np.full(CONTEXT_LENGTH, NOTHING, np.int8)
    numbers = {name: number for number, name in enumerate(objects) if name}
    if not numbers:
        return slots
    # "an orange kite and an orange": a colour is one where a category follows
    phrase = re.compile(rf"\b(?:(?:{'|'.join(PALETTE)}) )?({'|'.join(numbers)})\b")
    named = [(found.span(), numbers[found[1]]) for found in phrase.finditer(text)]
    at = 0
    for word, positions in word_spans(text, tokenizer):
        at = text.lower().index(word, at)
        for (start, stop), number in named:
            if start <= at < stop:
                slots[positions] = number
        at += len(word)
    if named:
        slots[min(len(tokenizer.encode(text)) + 1, CONTEXT_LENGTH - 1)] = UNION
    return slots


def naming_loss(scores: Mapping[int, Tensor], slots: Tensor, seen: Tensor) -> Tensor:
    """The binary cross entropy between sigmoid(A_cross) of the tokens that name something and where that is seen.

    scores: {level: [B, pixels, tokens]}, Eq. 8. slots: [B, tokens], see `token_slots`.
    seen: [B, OBJECTS, h, w], the share of each latent pixel that shows the object; all 0 where a text names what
    a picture does not show.
    Returns the mean over pixels and naming tokens, summed over levels; 0 if no token names anything.
    """
    numbers = torch.arange(OBJECTS, device=slots.device)
    named = (slots[:, None, :] == numbers[:, None]).any(-1)  # [B, OBJECTS]
    union = (seen * named[:, :, None, None]).amax(1, keepdim=True)
    targets = torch.cat([seen, union], 1)
    counts = (slots != NOTHING).to(seen)
    own = slots.long().clamp_min(0)[:, :, None]
    total = seen.new_zeros(())
    for level, logits in scores.items():
        shares = F.avg_pool2d(targets, level).flatten(2)  # [B, OBJECTS + 1, pixels]
        target = shares.gather(1, own.expand(-1, -1, shares.shape[-1]))
        entropy = F.binary_cross_entropy_with_logits(logits.float().mT, target, reduction="none").mean(-1)
        total = total + (entropy * counts).sum() / counts.sum().clamp_min(1)
    return total


def auc(scores: Tensor, positive: Tensor) -> float:
    """The area under the ROC curve of scores [n], to be higher where `positive` (bool [n]) than elsewhere.

    That is the probability of it, ties counting half; NaN unless there are both kinds.
    """
    inside, outside = scores[positive].double(), scores[~positive].double().sort().values
    below = torch.searchsorted(outside, inside) + torch.searchsorted(outside, inside, right=True)
    return float(below.double().mean() / (2 * len(outside))) if len(outside) else float("nan")


def separation(scores: Tensor, slots: Tensor, seen: Tensor) -> float:
    """How well the map of a word separates its object from the rest: the mean AUC over the objects named.

    scores: [B, h*w, tokens] of one level, the mean over an object's tokens counts. slots: [B, tokens]. seen:
    [B, OBJECTS, h, w] at that level's size; a pixel belongs to an object that covers half of it.
    """
    values = []
    for image, (own, objects) in enumerate(zip(slots, seen, strict=True)):
        for number, shares in enumerate(objects):
            tokens, positive = own == number, shares.flatten() >= 0.5
            if tokens.any() and 0 < positive.sum() < positive.numel():
                values.append(auc(scores[image][:, tokens].mean(-1), positive))
    return float(np.mean(values)) if values else float("nan")
