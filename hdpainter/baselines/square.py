"""Pictures and masks as small squares and back, for the baselines that paint nothing else."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.tensors import to_image, to_tensor
from ldm.util import UserError


class SquareInpainter:
    """A baseline that paints squares of its own size, whatever the pictures' shapes."""

    device: torch.device
    dtype: torch.dtype  # of most of its weights

    def __call__(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        method: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Fill the masks with what the prompts say.

        images: uint8 [H, W, 3] each, of any size. masks: bool [H, W] each, True = fill.
        prompts: what is beyond the text encoder's tokens is cut, see `words_cut`.
        seeds: one per image; its result does not depend on the others.
        method: how to sample; by default as published. progress: called with (step, steps) after each step.

        Returns pictures of the images' sizes, enlarged; so is the known region, for the caller to paste. Raises
        UserError for an empty mask, or one of another size than its image.
        """
        squares = self.squares(images, masks, prompts, seeds, method, progress)
        return [stretch(square, image.shape[:2]) for square, image in zip(squares, images, strict=True)]

    def squares(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        method: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The same as painted: [B, 3, S, S] in -1..1."""
        raise NotImplementedError

    def words_cut(self, prompt: str) -> int:
        """How many words of a prompt are not (wholly) read."""
        raise NotImplementedError


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


def stretch(
    pixels: Tensor, size: tuple[int, int], rounding: Literal["round", "truncate"] = "round"
) -> Image.Image:
    """A square [3, S, S] in -1..1 as a picture of `size` (height, width), bicubically."""
    return to_image(pixels, rounding).resize(size[::-1], Image.Resampling.BICUBIC)
