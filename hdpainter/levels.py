"""What the methods tell the levels of a UNet, by their downsampling factors: masks and the tokens that count."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_pyramid(mask: Tensor | Mapping[int, Tensor], levels: Iterable[int]) -> dict[int, Tensor]:
    """Binary masks [B, 1, h/f, w/f] for every factor f of `levels`, 1 = fill.

    `mask` is either the mask at latent size [B, 1, h, w], scaled by nearest neighbour as in the paper, or a
    ready mapping from factor to mask.
    """
    if isinstance(mask, Mapping):
        return {factor: mask[factor] for factor in levels}
    height, width = mask.shape[-2:]
    return {
        factor: F.interpolate(mask.float(), (height // factor, width // factor), mode="nearest")
        for factor in levels
    }


def token_weights(token_indices: Iterable[Iterable[int]], length: int, device: torch.device) -> Tensor:
    """ind(τ) of each image as a matrix [B, length] of zeros and ones."""
    rows = [list(indices) for indices in token_indices]
    weights = torch.zeros(len(rows), length)
    for row, indices in zip(weights, rows, strict=True):
        row[indices] = 1
    return weights.to(device)
