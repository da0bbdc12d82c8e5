"""Blended Latent Diffusion (Avrahami, Fried and Lischinski, 2023): inpainting with a text-to-image model.

The picture is denoised from noise by the prompt alone. At every step what is known is put back: outside the mask,
the latents are replaced by the source's, noised to the step's level.

The defaults are the public Stable Diffusion script's, which squeezes pictures to a square and whose result shows
the autoencoder's reconstruction outside the mask; what becomes of that is the caller's to say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.inpaint import FACTOR, text_conditioning
from hdpainter.masks import Mask, touched
from hdpainter.tensors import to_image, to_tensor
from ldm.models.diffusion.base import Conditioning
from ldm.models.diffusion.ddim import DDIMSampler, draw_noise
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.diffusionmodules.util import make_ddim_sampling_parameters
from ldm.util import UserError

Noise = Callable[[], Tensor]


@dataclass(frozen=True)
class BLDSettings:
    """How to sample.

    steps: of the whole DDIM grid.
    grid: for 50 steps `leading` is 0, 20, ..., 980, and `uniform` SD2's 1, 21, ..., 981.
    skip: share of the steps, the noisiest, that are left out.
    guidance_scale, negative_prompt: classifier-free guidance.
    background: what noise level the source is put back at. `leaving`: after a step, at the level that the step
        started from, so the background is one step noisier than the foreground, and a little of its noise is
        left at the end (the public script). `entering`: after a step, at the level that it led to.
        `before`: before each step at its own level, and not after the last (the original paper's program).
    start: from pure `noise` (the public script), or from the noised `source`.

    The original paper's program is ``BLDSettings(grid="uniform", skip=0, guidance_scale=5, background="before",
    start="source")``, apart from its resizing.
    """

    steps: int = 50
    grid: Literal["leading", "uniform"] = "leading"
    skip: float = 0.25
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    background: Literal["leaving", "entering", "before"] = "leaving"
    start: Literal["noise", "source"] = "noise"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise UserError(f"steps is {self.steps}: give a number from 1 to 1000")
        if not 0 <= self.skip < 1:
            raise UserError(f"skip is {self.skip}: give a share from 0 to below 1")


class BlendedLatentDiffusion:
    """BLD with any LatentDiffusion that is conditioned on text.

    model: a text-to-image model such as SD2-base; or an inpainting model, which then runs as text-to-image: with
        a mask of everything and no picture, see `hdpainter.inpaint.text_conditioning`. eps, v and x0 models.
    size: side of the square that pictures are squeezed to, in pixels.
    """

    def __init__(self, model: LatentDiffusion, size: int = 512):
        self.model, self.size = model, size
        self.sampler = DDIMSampler(model)

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: BLDSettings | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Fill the masks with what the prompts say.

        images: uint8 [H, W, 3] each, of any size. masks: bool [H, W] each, True = fill.
        seeds: one per image; its result does not depend on the others.
        progress: called with (step, steps) after each step.
        Returns square pictures of `size` pixels; the known region is the model's reconstruction of it.
        """
        settings = settings or BLDSettings()
        model = self.model
        side = self.size // FACTOR
        z0 = torch.cat([self.source(image) for image in images])
        mask = torch.cat([squeezed_mask(mask, side)[0] for mask in masks])
        cond, uncond = (
            text_conditioning(model, texts, (side, side))
            for texts in (list(prompts), [settings.negative_prompt] * len(prompts))
        )
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self.sample(
            z0,
            mask.to(z0),
            cond,
            uncond,
            settings,
            lambda: draw_noise(z0.shape, generators, z0.device),
            progress,
        )
        return [to_image(pixels) for pixels in model.decode_first_stage(latents).cpu()]

    def source(self, image: Pixels) -> Tensor:
        """The latents [1, C, h, w] of a picture uint8 [H, W, 3], squeezed to the square; the posterior's mode."""
        square = Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR)
        posterior = self.model.encode_first_stage(to_tensor(square).to(self.model.device))
        return self.model.get_first_stage_encoding(posterior.mode())

    @torch.no_grad()
    def sample(
        self,
        z0: Tensor,
        mask: Tensor,
        cond: Conditioning,
        uncond: Conditioning,
        settings: BLDSettings,
        noise: Noise,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The loop over latents [B, C, h, w].

        z0: those of the source. mask: [B, 1, h, w], 1 = fill. cond, uncond: as `apply_model` takes them.
        noise: draws standard normal noise like z0, called once for the start and once for every blending.
        """
        steps = self._make_schedule(settings)
        levels = [int(t) for t in self.sampler.ddim_timesteps]

        def blend(x: Tensor, level: int) -> Tensor:
            t = torch.full((len(z0),), level, device=z0.device)
            return mask * x + (1 - mask) * self.model.q_sample(z0, t, noise())

        x = noise()
        if settings.start == "source":
            x = self.model.q_sample(z0, torch.full((len(z0),), levels[steps - 1], device=z0.device), x)
        for index in reversed(range(steps)):
            if settings.background == "before":
                x = blend(x, levels[index])
            t = torch.full((len(x),), levels[index], device=x.device)
            eps, output = self.sampler.predict_eps(x, cond, t, settings.guidance_scale, uncond)
            x0 = self.sampler.predict_x0(x, t, eps, output)
            x = self.sampler.step(eps, x0, index, torch.zeros_like(x))
            if settings.background == "leaving":
                x = blend(x, levels[index])
            elif settings.background == "entering":
                x = blend(x, levels[index - 1] if index else 0)
            if progress:
                progress(steps - index, steps)
        return x

    def _make_schedule(self, settings: BLDSettings) -> int:
        """Set the sampler's tables; returns how many of its steps, the least noisy, are taken."""
        sampler, model = self.sampler, self.model
        sampler.make_schedule(settings.steps, "uniform")
        if settings.grid == "leading":
            timesteps = np.arange(settings.steps) * (model.num_timesteps // settings.steps)
            tables = make_ddim_sampling_parameters(model.schedule.alphas_cumprod, timesteps, eta=0.0)
            sampler.ddim_timesteps = timesteps
            sampler.ddim_sigmas, sampler.ddim_alphas, sampler.ddim_alphas_prev = tables
        count = len(sampler.ddim_timesteps)
        return count - int(count * settings.skip)


def squeezed_mask(mask: Mask, side: int) -> tuple[Tensor, bool]:
    """M [H, W] squeezed to the latents' square, float [1, 1, side, side], and whether it was too thin to be seen.

    Nearest sampling, which can miss a small mask altogether; then every cell that M touches is filled.
    """
    grey = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    small = np.array(grey.resize((side, side), Image.Resampling.NEAREST)) > 127
    missed = not small.any()
    if missed:
        small = touched(mask, (side, side))
    return torch.from_numpy(small).float()[None, None], missed
