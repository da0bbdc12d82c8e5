"""Running an image-to-image function in overlapping tiles: bounded memory at the price of exactness.

The autoencoder's norms and attention are global, so a tile is not what a part of the whole would be; the overlap
is blended by linear ramps, which leaves no line.
"""

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, scale: Fraction | int
) -> Tensor:
    """Apply `function` ([B, c, h, w] -> [B, c', scale h, scale w]) to tiles of `x` and blend their overlaps.

    tile, overlap: in pixels of `x`; with a scale below one, multiples of its denominator (as the size of x).
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return function(x)
    total: Tensor | None = None
    weights: Tensor | None = None
    for top in starts(height, tile, overlap):
        for left in starts(width, tile, overlap):
            out = function(x[..., top : top + tile, left : left + tile].contiguous())
            if total is None or weights is None:
                shape = (int(height * scale), int(width * scale))
                total = out.new_zeros(*out.shape[:2], *shape)
                weights = out.new_zeros(shape)
            h, w = out.shape[-2:]
            y, x0 = int(top * scale), int(left * scale)
            ramp = max(int(overlap * scale), 1)
            weight = torch.outer(ramps(h, ramp), ramps(w, ramp)).to(out)
            total[..., y : y + h, x0 : x0 + w] += out * weight
            weights[y : y + h, x0 : x0 + w] += weight
    assert total is not None and weights is not None, "no tiles"
    return total / weights


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin so that they cover `length`; the last one ends at its end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def ramps(length: int, overlap: int) -> Tensor:
    """Weights that rise over `overlap` values at both ends, nowhere zero."""
    position = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(position, position.flip(0)).clamp(max=overlap) / overlap
