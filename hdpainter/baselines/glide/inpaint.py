"""GLIDE as an inpainting method: a square of 64 px by the prompt, then the upsampler to 256 px.

As in the public notebook, the picture is squeezed to both sizes, each from the original and with the hole's
pixels still in it, so that the bicubic filter mixes a little of them into the hole's border. The notebook begins
with a mask of 64 px; here, what is to be filled is every cell in which any pixel of the mask lies. The mask of
256 px is made of these cells.
"""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hdpainter.baselines.glide.network import GlideUNet, TextFeatures
from hdpainter.baselines.glide.sampler import (
    Predict,
    Respaced,
    cosine_betas,
    denoise,
    guide,
    linear_betas,
    to_8_bits,
)
from hdpainter.baselines.glide.tokens import tokenize, words_cut
from hdpainter.baselines.square import SquareInpainter, check_inputs, squeeze, squeeze_mask
from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.prompts import full_prompt
from hdpainter.settings import GlideMethod
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


class Glide(SquareInpainter):
    """GLIDE's two networks, in eval mode and on one device."""

    def __init__(self, base: GlideUNet, upsampler: GlideUNet):
        self.base, self.upsampler = base, upsampler

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.base.positional_embedding.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return next(self.base.input_blocks.parameters()).dtype

    @torch.no_grad()
    def squares(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        method: GlideMethod | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        check_inputs(images, masks, prompts, seeds)
        method = method or GlideMethod()
        painting = Respaced.of(cosine_betas(), str(method.sampler.steps))
        upsampling = Respaced.of(linear_betas(), method.glide.steps)
        known = 1 - torch.cat([squeeze_mask(mask, self.base.image_size) for mask in masks])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        texts = [full_prompt(prompt, method.prompts.positive) for prompt in prompts]
        done = count(1)

        def sample(net: GlideUNet, diffusion: Respaced, predict: Predict, temperature: float = 1.0) -> Tensor:
            """The pictures [B, 3, S, S] of one stage in -1..1."""
            image = torch.cat([squeeze(picture, net.image_size) for picture in images]).to(self.device)
            mask = F.interpolate(known, image.shape[-2:], mode="nearest").to(self.device)

            def noise() -> Tensor:
                return draw_noise(image.shape, generators, self.device)

            x = temperature * noise()
            for x_t, _ in denoise(x, predict, diffusion, image, mask, noise):
                x = x_t
                if progress:
                    progress(next(done), len(painting) + len(upsampling))
            return x

        guidance = guided(self.base, texts, method.sampler.guidance_scale, method.prompts.negative)
        small = sample(self.base, painting, guidance)
        predict = plain(self.upsampler, texts, to_8_bits(small))
        return sample(self.upsampler, upsampling, predict, method.glide.temperature)

    def words_cut(self, prompt: str) -> int:
        return words_cut(prompt, len(self.base.positional_embedding))


def guided(net: GlideUNet, prompts: Sequence[str], scale: float, negative: str = "") -> Predict:
    """The base's predictions for B prompts, with classifier-free guidance away from `negative`, in one batch of
    2B."""
    rows = [*range(len(prompts)), *[len(prompts)] * len(prompts)]  # the last is the negative prompt's
    text = TextFeatures(*(part[rows] for part in features(net, [*prompts, negative])))

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


def check_files(base: Path, upsampler: Path) -> None:
    """Raise UserError if one of the files is GLIDE's, but another one."""
    for path, in_channels in ((base, 7), (upsampler, 10)):
        weights = read_state_dict(path)
        if "transformer_proj.weight" in weights and "input_blocks.0.0.weight" in weights:
            found = weights["input_blocks.0.0.weight"].shape[1]
            if found != in_channels and found in FILES:
                raise UserError(f"{path} is GLIDE's {FILES[found]}: give {FILES[in_channels]}")
