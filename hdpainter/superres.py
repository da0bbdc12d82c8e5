"""Inpainting-specialised x4 super-resolution (section 3.5 of the paper).

Stable Diffusion's x4 upscaler, conditioned on the low-resolution completion, with the predicted X_0 replaced by
the original image's latent in the known region at every step (Eq. 10): the details of the known pixels
propagate, noise-free, into the filled ones.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.masks import Mask, bbox, pad_to_multiple, padded_size, soft_mask
from hdpainter.prompts import full_prompt
from hdpainter.settings import SuperResSettings
from hdpainter.tensors import stack, to_image, to_tensor
from hdpainter.tiling import tiled
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentUpscaleDiffusion
from ldm.util import UserError

SCALE = 4
TILE_OVERLAP = 128  # high-resolution pixels shared by neighbouring tiles


class BlendingSampler(DDIMSampler):
    """DDIMSampler that blends each predicted x_0 with a known one (Eq. 10): M x_0 + (1 - M) X_0.

    eps is predicted before and not computed again, so the known region keeps its share of the direction term.
    """

    def __init__(self, model: LatentUpscaleDiffusion, mask: Tensor, known: Tensor):
        super().__init__(model)
        self.mask, self.known = mask, known

    def predict_x0(self, x: Tensor, t: Tensor, e_t: Tensor, output: Tensor) -> Tensor:
        return self.mask * super().predict_x0(x, t, e_t, output) + (1 - self.mask) * self.known


class SuperResolution:
    """The second stage.

    Args:
        model: the x4 upscaler; its autoencoder has downsampling factor 4.
        multiple: low-resolution sizes are padded (by reflection) to a multiple of this.
    """

    def __init__(self, model: LatentUpscaleDiffusion, multiple: int = 64):
        self.model = model
        self.multiple = multiple

    @torch.no_grad()
    def __call__(
        self,
        image: Pixels,
        low_res: Pixels,
        mask: Mask,
        prompt: str,
        settings: SuperResSettings | None = None,
        seed: int = 0,
        rounding: Literal["round", "truncate"] = "round",
        progress: Callable[[int, int], None] | None = None,
    ) -> Pixels:
        """Carry a completion to four times its size.

        image: the original, uint8 [4h, 4w, 3]. low_res: the completion, uint8 [h, w, 3].
        mask: bool [4h, 4w], True = fill, not empty. progress: called with (step, steps) after each step.
        Returns uint8 [4h, 4w, 3], outside the mask only as good as the autoencoder reconstructs (and the
        original itself outside the crop, if `settings.crop_margin` is set).
        Raises UserError for a noise level that the model was not trained with.
        """
        settings = settings or SuperResSettings()
        highest = self.model.low_scale_model.max_noise_level - 1
        if settings.noise_level > highest:
            raise UserError(
                f"superres.noise_level is {settings.noise_level}: this upscaler was trained with 0 to {highest}"
            )
        rows, columns = self.region(mask, settings.crop_margin)
        high_rows, high_columns = (slice(s.start * SCALE, s.stop * SCALE) for s in (rows, columns))
        result = image.copy()
        result[high_rows, high_columns] = self._upscale(
            image[high_rows, high_columns],
            low_res[rows, columns],
            mask[high_rows, high_columns],
            prompt,
            settings,
            self._noise(low_res.shape[:2], rows, columns, seed),
            rounding,
            progress,
        )
        return result

    def _noise(self, size: tuple[int, int], rows: slice, columns: slice, seed: int) -> tuple[Tensor, Tensor]:
        """Noise for the condition [1, 3, h, w] and x_T [1, C, h, w] of a region, both padded to the multiple.

        Drawn for the whole picture, so that a crop starts from what the whole picture has there.
        """
        height, width = padded_size(*size, self.multiple)
        generator = torch.Generator().manual_seed(seed)
        condition, x_T = (
            torch.randn((1, channels, height, width), generator=generator)
            for channels in (3, self.model.channels)
        )
        h, w = padded_size(rows.stop - rows.start, columns.stop - columns.start, self.multiple)
        top, left = min(rows.start, height - h), min(columns.start, width - w)
        region = np.s_[..., top : top + h, left : left + w]
        return condition[region], x_T[region]

    def region(self, mask: Mask, margin: int | None) -> tuple[slice, slice]:
        """The low-resolution rows and columns to compute: all, or the mask's bounding box with a margin."""
        if margin is None:
            return slice(0, mask.shape[0] // SCALE), slice(0, mask.shape[1] // SCALE)
        top, bottom, left, right = bbox(mask, margin * SCALE, multiple=SCALE)
        return slice(top // SCALE, bottom // SCALE), slice(left // SCALE, right // SCALE)

    def _upscale(
        self,
        image: Pixels,
        low_res: Pixels,
        mask: Mask,
        prompt: str,
        settings: SuperResSettings,
        noises: tuple[Tensor, Tensor],
        rounding: Literal["round", "truncate"],
        progress: Callable[[int, int], None] | None,
    ) -> Pixels:
        model, device = self.model, self.model.device
        height, width = image.shape[:2]
        condition = to_tensor(pad_to_multiple(low_res, self.multiple, "reflect"))
        size = condition.shape[2], condition.shape[3]
        noise, x_T = (drawn.to(device) for drawn in noises)
        level = torch.full((1,), settings.noise_level, device=device)
        condition, level = model.low_scale_model(condition.to(device), level, noise=noise)
        cond, uncond = (
            {"c_concat": [condition], "c_crossattn": [model.get_learned_conditioning([text])], "c_adm": level}
            for text in (full_prompt(prompt, settings.positive), settings.negative)
        )
        sampler: DDIMSampler
        if settings.blend:
            known = self._encode(pad_to_multiple(image, self.multiple * SCALE, "reflect"), settings.tile)
            padded = pad_to_multiple(mask, self.multiple * SCALE, "reflect")
            sampler = BlendingSampler(model, latent_mask(padded, size, settings.mask).to(device), known)
        else:
            sampler = DDIMSampler(model)
        latent, _ = sampler.sample(
            settings.steps,
            1,
            x_T.shape[1:],
            cond,
            ddim_discretize=settings.grid,
            x_T=x_T,
            unconditional_guidance_scale=settings.guidance_scale,
            unconditional_conditioning=uncond,
            callback=progress and (lambda step: progress(step + 1, len(sampler.ddim_timesteps))),
            verbose=False,
        )
        return np.asarray(to_image(self._decode(latent, settings.tile), rounding))[:height, :width]

    def _encode(self, image: Pixels, tile: int | None) -> Tensor:
        def encode(x: Tensor) -> Tensor:
            return self.model.get_first_stage_encoding(self.model.encode_first_stage(x).mode())

        x = to_tensor(image).to(self.model.device)
        return encode(x) if tile is None else tiled(encode, x, tile, TILE_OVERLAP, Fraction(1, SCALE))

    def _decode(self, latent: Tensor, tile: int | None) -> Tensor:
        decode = self.model.decode_first_stage
        if tile is None:
            return decode(latent)
        return tiled(decode, latent, tile // SCALE, TILE_OVERLAP // SCALE, SCALE)


def latent_mask(mask: Mask, size: tuple[int, int], how: Literal["hard", "soft"]) -> Tensor:
    """M of Eq. 10 at latent size, [1, 1, h, w] in [0, 1], from bool [4h, 4w].

    `hard`: a latent is known only where all of its pixels are, so that nothing of what is to be replaced comes
    back along the mask's border. `soft`: the release's dilated and blurred mask.
    """
    if how == "soft":
        return stack([soft_mask(mask, size)])
    return F.max_pool2d(stack([mask]), SCALE)
