"""Stage 1: text-guided inpainting at the model's own resolution, by any of the methods.

Stable Inpainting denoises x_t given the mask and the latent of the masked image; PAIntA changes its
self-attention, RASG its sampler.

Both can be added to other ways of inpainting. A text-to-image model sees neither mask nor picture: Blended Latent
Diffusion (Avrahami et al. 2023) puts the known latents z_0 back, so that a step goes

    x_t <- M x_t + (1 - M) q(z_0, t)      the known part at the noise level of t, with new noise
    eps, S, grad S at this x_t             PAIntA in the self-attention, by the same M on the token grids
    x_{t-1} by Eq. 7 (or 4)                for all of x_t

The gradient is with respect to the blended x_t, known part included, and is divided by the standard deviation of
all its values, as with an inpainting model. What it does outside M is lost at the next blending. After the last
step nothing is put back: the pixels are joined as those of every method.
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
from ldm.models.diffusion.ddpm import LatentDiffusion, LatentInpaintDiffusion
from ldm.util import UserError

FACTOR = 8  # of the autoencoder: pixels per latent

# Called after each step with the sampler, the predicted x_0 [B, C, h, w] and the step's number from 0; PAIntA, if
# any, is still active on the UNet. It looks at them and leaves them as they are.
Observer = Callable[[DDIMSampler, Tensor, int], None]


class Inpainting:
    """The first stage: a batch of images, masks and prompts in, completions out.

    Args:
        model: an inpainting model (its UNet takes [x_t | mask | masked latent]); for methods that blend, a
            text-to-image model will do (its UNet takes x_t alone).
        painta_levels, rasg_levels: downsampling factors of the latent that the methods act on, a property of
            the model: SD2 at 512 px has (2, 4) and (4,), the 32x32 and 16x16 token grids.
    """

    def __init__(
        self,
        model: LatentDiffusion,
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
            if settings.background == "blended":
                name = "mask" if method.rasg is None else "known"
                guidance = {name: 1 - self.latent_mask(masks, method), "x0": self.latents(images)}
            if method.rasg is None:
                sampler = DDIMSampler(model)
            else:
                sampler = RASGSampler(model, self.rasg_levels, method.rasg)
                how = method.masks.levels if method.masks.rasg == "levels" else method.masks.rasg
                target = self.level_masks(masks, self.rasg_levels, how)
                guidance |= {"mask": target, "token_indices": tokens}
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
        """The conditional and unconditional dictionaries of LatentDiffusion: they differ in the text only.

        Where the method blends, they are of the text alone, see `text_conditioning`. Raises UserError where it
        does not, and the model is no inpainting model.
        """
        model = self.model
        positive = [full_prompt(prompt, method.prompts.positive) for prompt in prompts]
        negative = [method.prompts.negative] * len(prompts)
        if method.sampler.background == "blended":
            height, width = masks[0].shape
            size = height // FACTOR, width // FACTOR
            return text_conditioning(model, positive, size), text_conditioning(model, negative, size)
        if not isinstance(model, LatentInpaintDiffusion):
            raise UserError(f"method {method.name} needs an inpainting model, not a {type(model).__name__}")
        mask, masked = self.latent_mask(masks, method), self.latents(images, masks)
        concat = [torch.cat([mask.to(masked), masked], dim=1)]
        texts = (model.get_learned_conditioning(text) for text in (positive, negative))
        cond, uncond = ({"c_concat": concat, "c_crossattn": [text]} for text in texts)
        return cond, uncond

    def latents(self, images: Sequence[Pixels], masks: Sequence[Mask] | None = None) -> Tensor:
        """[B, C, h, w], the mode of the images' posterior; what the masks fill is grey, 0."""
        pixels = torch.cat([to_tensor(image) for image in images])
        if masks is not None:
            pixels = pixels * (1 - stack(masks))
        return self.model.get_first_stage_encoding(
            self.model.encode_first_stage(pixels.to(self.model.device)).mode()
        )

    def latent_mask(self, masks: Sequence[Mask], method: Method) -> Tensor:
        """[B, 1, h, w] at the latents' size, 1 = fill, on the model's device."""
        return pyramid(masks, [FACTOR], method.masks.concat)[FACTOR].to(self.model.device)


def text_conditioning(
    model: LatentDiffusion, prompts: Sequence[str], size: tuple[int, int]
) -> dict[str, list[Tensor]]:
    """The conditioning on text alone, for latents of `size` (h, w).

    An inpainting model is told that everything is to be filled: it gets a full mask and the latents of a grey
    picture. It has seen this in training and then works as a text-to-image model, though not as one trained for
    nothing else; tables have to say which it was.
    """
    text = model.get_learned_conditioning(list(prompts))
    cond = {"c_crossattn": [text]}
    if isinstance(model, LatentInpaintDiffusion):
        grey = torch.zeros((1, 3, size[0] * FACTOR, size[1] * FACTOR), device=model.device)
        latent = model.get_first_stage_encoding(model.encode_first_stage(grey).mode())
        full = torch.ones_like(latent[:, :1])
        cond["c_concat"] = [torch.cat([full, latent], dim=1).expand(len(text), -1, -1, -1)]
    return cond
