"""Pictures and masks as tensors, and back: the torch half of `images` and `masks`, which do without it."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.masks import Mask, Shrink, shrink, soft_shrink


def to_tensor(image: Image.Image | Pixels) -> Tensor:
    """An RGB image (PIL or uint8 [H, W, 3]) as a contiguous float tensor [1, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    # Contiguous NCHW: torch's CPU GroupNorm loses digits on permuted strides.
    return (pixels / 127.5 - 1).permute(2, 0, 1)[None].contiguous()


def to_image(tensor: Tensor, rounding: Literal["round", "truncate"] = "round") -> Image.Image:
    """A tensor [1, 3, H, W] or [3, H, W] in [-1, 1] as a PIL image; values outside are clipped.

    "truncate" is what the authors' release does. Raises FloatingPointError where the tensor is not finite.
    """
    if not tensor.isfinite().all():
        raise FloatingPointError(
            "the decoded image holds NaN or infinite values: try dtype float32, or weaker guidance"
        )
    pixels = (tensor.detach().float().reshape(tensor.shape[-3:]).clamp(-1, 1) + 1) * 127.5
    if rounding == "round":
        pixels = pixels.round()
    return Image.fromarray(pixels.byte().permute(1, 2, 0).contiguous().cpu().numpy())


def stack(masks: Iterable[np.ndarray]) -> Tensor:
    """Masks [H, W] of one size as a float tensor [B, 1, H, W], 1 = fill."""
    return torch.from_numpy(np.stack([np.asarray(mask, dtype=np.float32) for mask in masks])[:, None])


def pyramid(
    masks: Sequence[Mask], factors: Iterable[int], how: Shrink | Literal["bicubic"]
) -> dict[int, Tensor]:
    """For each factor, the masks [H, W] at 1/factor of their size, as float [B, 1, H/factor, W/factor]: binary,
    or for "bicubic" anything from 0 to 1."""
    height, width = masks[0].shape
    sizes = {factor: (height // factor, width // factor) for factor in factors}
    if how == "bicubic":
        return {factor: stack(soft_shrink(mask, size) for mask in masks) for factor, size in sizes.items()}
    return {factor: stack(shrink(mask, size, how) for mask in masks) for factor, size in sizes.items()}
