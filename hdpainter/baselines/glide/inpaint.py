"""GLIDE as an inpainting method: a square of 64 px by the prompt, then the upsampler to 256 px.

As in the public notebook, the picture is squeezed to both sizes, each from the original and with the hole's
pixels still in it, so that the bicubic filter mixes a little of them into the hole's border. The notebook begins
with a mask of 64 px; here, what is to be filled is every cell in which any pixel of the mask lies. The mask of
256 px is made of these cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hdpainter.baselines.glide.network import GlideUNet, TextFeatures
from hdpainter.baselines.glide.sampler import (
    Predict,
    Respaced,
    cosine_betas,
    denoise,
    guide,
    linear_betas,
    spaced_timesteps,
    to_8_bits,
)
from hdpainter.baselines.glide.tokens import tokenize
from hdpainter.baselines.loading import load_network
from hdpainter.baselines.square import check_inputs, squeeze, squeeze_mask, stretch
from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.models.registry import find_checkpoint
from ldm.checkpoint import read_state_dict
from ldm.models.diffusion.ddim import draw_noise
from ldm.util import UserError

# GLIDE's public files, by the input channels of the network in them.
FILES = {
    3: "base.pt, which does not inpaint",
    6: "upsample.pt, which does not inpaint",
    7: "base_inpaint.pt",
    10: "upsample_inpaint.pt",
}


@dataclass(frozen=True)
class GlideSettings:
    """How to sample; the defaults are the public notebook's.

    steps, upsampler_steps: which timesteps are taken, see `spaced_timesteps`.
    guidance_scale: classifier-free guidance of the base; the upsampler has none.
    temperature: factor of the noise that the upsampler starts from; 1 is sharper, and grainier.
    """

    steps: str = "100"
    upsampler_steps: str = "fast27"
    guidance_scale: float = 5.0
    temperature: float = 0.997

    def __post_init__(self) -> None:
        for respacing in (self.steps, self.upsampler_steps):
            spaced_timesteps(respacing)
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}: give a number above 0")


class Glide:
    """GLIDE's two networks, in eval mode and on one device."""

    def __init__(self, base: GlideUNet, upsampler: GlideUNet):
        self.base, self.upsampler = base, upsampler

    @classmethod
    def load(
        cls,
        base: str | Path = "base_inpaint.pt",
        upsampler: str | Path = "upsample_inpaint.pt",
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> "Glide":
        """The networks with the weights of two checkpoints, which are sought as all are.

        dtype: of the torso (see `GlideUNet.dtype_policy`); None: float16 on a GPU, else float32.
        Raises UserError where a file is missing, damaged or another model's.
        """
        files = [find_checkpoint(file) for file in (base, upsampler)]
        check_file(files[0], 7)
        check_file(files[1], 10)
        return cls(
            load_network(files[0], "glide-base-inpaint.yaml", device, dtype),
            load_network(files[1], "glide-upsample-inpaint.yaml", device, dtype),
        )

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: GlideSettings | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Fill the masks with what the prompts say.

        images: uint8 [H, W, 3] each, of any size. masks: bool [H, W] each, True = fill.
        prompts: of which the first 128 tokens are read. seeds: one per image; its result does not depend on the
        others.
        progress: called with (step, steps) after each step of either network.
        Returns pictures of the images' sizes, enlarged from 256 px; so is the known region, for the caller to
        paste. Raises UserError for an empty mask, or one of another size than its image.
        """
        check_inputs(images, masks, prompts, seeds)
        settings = settings or GlideSettings()
        painting = Respaced.of(cosine_betas(), settings.steps)
        upsampling = Respaced.of(linear_betas(), settings.upsampler_steps)
        known = 1 - torch.cat([squeeze_mask(mask, self.base.image_size) for mask in masks])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        done = count(1)

        def sample(net: GlideUNet, diffusion: Respaced, predict: Predict, temperature: float = 1.0) -> Tensor:
            """The pictures [B, 3, S, S] of one stage in -1..1."""
            device = net.positional_embedding.device
            image = torch.cat([squeeze(picture, net.image_size) for picture in images]).to(device)
            mask = F.interpolate(known, image.shape[-2:], mode="nearest").to(device)

            def noise() -> Tensor:
                return draw_noise(image.shape, generators, device)

            x = temperature * noise()
            for x_t, _ in denoise(x, predict, diffusion, image, mask, noise):
                x = x_t
                if progress:
                    progress(next(done), len(painting) + len(upsampling))
            return x

        small = sample(self.base, painting, guided(self.base, prompts, settings.guidance_scale))
        predict = plain(self.upsampler, prompts, to_8_bits(small))
        pixels = sample(self.upsampler, upsampling, predict, settings.temperature)
        return [stretch(square, image.shape[:2]) for square, image in zip(pixels, images, strict=True)]


def guided(net: GlideUNet, prompts: Sequence[str], scale: float) -> Predict:
    """The base's predictions for B prompts, with classifier-free guidance in one batch of 2B."""
    rows = [*range(len(prompts)), *[len(prompts)] * len(prompts)]  # the last is the empty prompt's
    text = TextFeatures(*(part[rows] for part in features(net, [*prompts, ""])))

    def predict(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, t, image, mask = (torch.cat([part, part]) for part in inputs)
        return guide(net(x, t, text, image, mask), scale)

    return predict


def plain(net: GlideUNet, prompts: Sequence[str], low_res: Tensor) -> Predict:
    """The upsampler's predictions for prompts and their smaller pictures [B, 3, s, s]."""
    text = features(net, prompts)

    def predict(x: Tensor, t: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return net(x, t, text, image, mask, low_res).chunk(2, dim=1)

    return predict


def features(net: GlideUNet, prompts: Sequence[str]) -> TextFeatures:
    """The text features of prompts, by a network's own transformer."""
    length, device = len(net.positional_embedding), net.positional_embedding.device
    return net.encode_text(*(part.to(device) for part in tokenize(prompts, length)))


def check_file(path: Path, in_channels: int) -> None:
    """Raise UserError if the file is GLIDE's, but another one than that of `in_channels`."""
    weights = read_state_dict(path)
    if "transformer_proj.weight" in weights and "input_blocks.0.0.weight" in weights:
        found = weights["input_blocks.0.0.weight"].shape[1]
        if found != in_channels and found in FILES:
            raise UserError(f"{path} is GLIDE's {FILES[found]}: give {FILES[in_channels]}")
