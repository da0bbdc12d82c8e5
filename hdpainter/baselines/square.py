"""Pictures and masks as small squares and back, for the baselines that paint nothing else."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.tensors import to_image, to_tensor
from ldm.util import UserError


def check_inputs(
    images: Sequence[Pixels], masks: Sequence[Mask], prompts: Sequence[str], seeds: Sequence[int]
) -> None:
    """Raise UserError unless each picture [H, W, 3] has a mask [H, W] that is not empty, a prompt and a seed."""
    for name, given in {"masks": masks, "prompts": prompts, "seeds": seeds}.items():
        if len(given) != len(images):
            raise UserError(f"{len(given)} {name} for {len(images)} images: give one for each")
    for i, (image, mask, prompt) in enumerate(zip(images, masks, prompts, strict=True)):
        if mask.shape != image.shape[:2]:
            sizes = [f"{width} x {height}" for height, width in (mask.shape, image.shape[:2])]
            raise UserError(
                f"mask {i} is {sizes[0]} pixels but the image is {sizes[1]}: give one of its size"
            )
        if not mask.any():
            raise UserError(f"mask {i} marks nothing to fill: mark the part to fill")
        if not isinstance(prompt, str):
            raise UserError(f"prompt {i} must be text, not {prompt!r}")


def squeeze(image: Pixels, side: int) -> Tensor:
    """A picture uint8 [H, W, 3] of any shape as [1, 3, side, side] in -1..1, by Pillow's bicubic filter."""
    return to_tensor(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def squeeze_mask(mask: Mask, side: int) -> Tensor:
    """A mask bool [H, W] as float [1, 1, side, side]: 1 in the cells that any of its pixels touches."""
    return F.adaptive_max_pool2d(torch.from_numpy(mask).float()[None, None], side)


def stretch(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """A square [3, S, S] in -1..1 as a picture of `size` (height, width), bicubically."""
    return to_image(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
