"""Finding the transformer blocks of a UNet by the downsampling factor of the latent that they run at."""

from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.util import UserError


def transformer_blocks(
    unet: UNetModel, levels: Iterable[int]
) -> Iterator[tuple[int, int, BasicTransformerBlock]]:
    """Yield (stage, factor, block) in execution order for the blocks at the downsampling factors `levels`.

    Raises UserError when a level has no transformer block, since the method would silently do less than asked.
    """
    levels = set(levels)
    found = [
        (stage, factor, block)
        for stage, (module, factor) in enumerate(zip(unet.stages, unet.stage_factors, strict=True))
        if factor in levels
        for block in module.modules()
        if isinstance(block, BasicTransformerBlock)
    ]
    if missing := levels - {factor for _, factor, _ in found}:
        raise UserError(f"the UNet has no transformer blocks at downsampling factor(s) {sorted(missing)}")
    yield from found


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
