"""Stage 1: text-guided inpainting at the model's own resolution, by any of the methods.

Stable Inpainting denoises x_t given the mask and the latent of the masked image; PAIntA changes its
self-attention, RASG its sampler.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.masks import Mask, Shrink
from hdpainter.painta import PAIntA
from hdpainter.prompts import full_prompt, token_indices
from hdpainter.rasg import RASGSampler
from hdpainter.settings import Method
from hdpainter.tensors import pyramid, stack, to_tensor
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentInpaintDiffusion

FACTOR = 8  # of the autoencoder: pixels per latent

# Called after each step with the sampler, the predicted x_0 [B, C, h, w] and the step's number from 0; PAIntA, if
# any, is still active on the UNet. It looks at them and leaves them as they are.
Observer = Callable[[DDIMSampler, Tensor, int], None]


class Inpainting:
    """The first stage: a batch of images, masks and prompts in, completions out.

    Args:
        model: the inpainting model (its UNet takes [x_t | mask | masked latent]).
        painta_levels, rasg_levels: downsampling factors of the latent that the methods act on, a property of
            the model: SD2 at 512 px has (2, 4) and (4,), the 32x32 and 16x16 token grids.
    """

    def __init__(
        self,
        model: LatentInpaintDiffusion,
        painta_levels: Sequence[int] = (2, 4),
        rasg_levels: Sequence[int] = (4,),
    ):
        self.model = model
        self.painta_levels = tuple(painta_levels)
        self.rasg_levels = tuple(rasg_levels)

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        method: Method,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Fill the masks with what the prompts say.

        images: uint8 [H, W, 3] each. masks: bool [H, W] each, True = fill. All of one size, a multiple of 8 times
        the UNet's largest downsampling factor. seeds: one per image; its result does not depend on the others.
        progress: called with (step, steps) after each step. observer: see `Observer`.
        Returns [B, 3, H, W] in [-1, 1] on the CPU; the known region is the model's reconstruction of it.
        """
        model, settings = self.model, method.sampler
        latent_size = tuple(side // FACTOR for side in masks[0].shape)
        tokens = [token_indices(prompt, method.prompts.positive) for prompt in prompts]
        cond, uncond = self.conditioning(images, masks, prompts, method)

        with ExitStack() as stack:
            if method.painta is not None:
                unet = model.model.diffusion_model
                level_masks = self.level_masks(masks, self.painta_levels, method.masks.levels)
                stack.enter_context(PAIntA(unet, level_masks, tokens, self.painta_levels, method.painta))
            sampler: DDIMSampler
            guidance: dict[str, Any] = {}
            if method.rasg is None:
                sampler = DDIMSampler(model)
            else:
                sampler = RASGSampler(model, self.rasg_levels, method.rasg)
                how = method.masks.levels if method.masks.rasg == "levels" else method.masks.rasg
                target = self.level_masks(masks, self.rasg_levels, how)
                guidance = {"mask": target, "token_indices": tokens}
            latents, _ = sampler.sample(
                settings.steps,
                len(images),
                (model.channels, *latent_size),
                cond,
                ddim_discretize=settings.grid,
                eta=settings.eta,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                unconditional_guidance_scale=settings.guidance_scale,
                unconditional_conditioning=uncond,
                callback=progress and (lambda step: progress(step + 1, len(sampler.ddim_timesteps))),
                img_callback=observer and (lambda pred_x0, step: observer(sampler, pred_x0, step)),
                verbose=False,
                **guidance,
            )
        return model.decode_first_stage(latents).cpu()

    def level_masks(
        self, masks: Sequence[Mask], levels: Iterable[int], how: Shrink | Literal["bicubic"]
    ) -> dict[int, Tensor]:
        """The masks [H, W] at the UNet's levels: {level: [B, 1, h, w]} on the model's device."""
        by_factor = pyramid(masks, [FACTOR * level for level in levels], how)
        return {factor // FACTOR: level.to(self.model.device) for factor, level in by_factor.items()}

    def conditioning(
        self,
        images: Sequence[Pixels],
        masks: Sequence[Mask],
        prompts: Sequence[str],
        method: Method,
    ) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
        """The conditional and unconditional dictionaries of LatentDiffusion: they differ in the text only."""
        model = self.model
        pixels = torch.cat([to_tensor(image) for image in images])
        masked = (pixels * (1 - stack(masks))).to(model.device)  # what is to be filled is grey, 0
        latent = model.get_first_stage_encoding(model.encode_first_stage(masked).mode())
        mask = pyramid(masks, [FACTOR], method.masks.concat)[FACTOR]
        concat = [torch.cat([mask.to(latent), latent], dim=1)]
        positive = [full_prompt(prompt, method.prompts.positive) for prompt in prompts]
        negative = [method.prompts.negative] * len(prompts)
        texts = (model.get_learned_conditioning(text) for text in (positive, negative))
        cond, uncond = ({"c_concat": concat, "c_crossattn": [text]} for text in texts)
        return cond, uncond
