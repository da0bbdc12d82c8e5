"""Training of the miniature inpainting model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hdpainter.mini.holes import FreeHole, free_holes
from hdpainter.mini.training.base import tile, to_images, to_tensor
from hdpainter.mini.training.crops import Drawn
from hdpainter.mini.training.diffusion import Batch, DiffusionTraining
from hdpainter.mini.training.naming import naming_loss, separation, token_slots
from hdpainter.mini.training.views import LATENT, InpaintingViews, shares
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import describe_scene
from hdpainter.rasg import CrossAttentionScores
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.modules.attention import CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel

LEVELS = (1, 2)  # whose cross-attention is taught to segment
FIRST_HOLE = 20_000  # held-out scene from which the holes of a sheet are looked for


class InpaintingTraining(DiffusionTraining):
    """Trains the inpainting model: first text-to-image, then with masks, as Stable Inpainting was.

    size: of the scenes in pixels. scenes, views, single, full, covering: see `InpaintingViews`. text_to_image:
    share of the budget in which everything is masked; it teaches the words. Much of what a caption names lies
    outside the mask or the view; this teaches the model to neglect prompts. naming: weight of `naming_loss`
    beside that of denoising.
    """

    def __init__(
        self,
        config: str,
        parts: dict[str, str],
        size: int,
        scenes: int,
        text_to_image: float = 0.6,
        views: int = 1,
        single: float = 0.5,
        full: float = 0.25,
        covering: float = 0.2,
        naming: float = 0.1,
        held_out: int = 24,
        **kwargs: Any,
    ):
        super().__init__(config, parts, **kwargs)
        self.text_to_image, self.naming = text_to_image, naming
        self.scores = CrossAttentionScores(self.ldm.model.diffusion_model, LEVELS)
        self.scores.__enter__()  # for good: to patch the UNet in every step would compile it anew each time
        self.views = InpaintingViews(self.texts, scenes, size, views, single, full, covering)
        self.blanks: dict[int, Tensor] = {}
        probes = [describe_scene("val", i) for i in range(held_out)]
        self.probe_images = np.stack([scene.render(size) for scene in probes])
        seen = [scene.visible_masks(size) for scene in probes]
        self.probe_captions = [scene.captions[0] for scene in probes]
        named = [[item.category.name for item in scene.objects] for scene in probes]
        grid = size // LATENT // LEVELS[-1]
        self.probe_seen = torch.from_numpy(np.stack([shares(masks, grid) for masks in seen]))
        slots = [token_slots(*pair) for pair in zip(self.probe_captions, named, strict=True)]
        self.probe_slots = torch.from_numpy(np.stack(slots))

    def weights(self) -> dict[str, Tensor]:
        """Also the rest of the CLIP, for the CLIP score."""
        clip = self.parts.get("cond_stage_model", {})
        return {f"cond_stage_model.{name}": tensor for name, tensor in clip.items()} | super().weights()

    def timesteps(self, count: int) -> Tensor:
        """High noise more often, in proportion to t: there the shapes are decided, which take long to learn."""
        t = (self.ldm.num_timesteps * torch.rand(count, device=self.device).sqrt()).long()
        return t.clamp_max(self.ldm.num_timesteps - 1)  # the product may be rounded up

    def source(self) -> InpaintingViews:
        return self.views

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self.progress < self.text_to_image:
            batch = batch | self.everything(batch)
        denoising, _ = super().loss(batch)
        naming = naming_loss(self.scores.mean(), batch["slots"], batch["seen"].float())
        return denoising + self.naming * naming, {"denoising": denoising, "naming": naming}

    def everything(self, batch: Batch) -> Batch:
        """The conditions of the same samples with everything masked."""
        mask, latent = batch["mask"], batch["masked_image_latent"]
        blank = self.blank(LATENT * latent.shape[-1]).to(latent)
        return {"mask": torch.ones_like(mask), "masked_image_latent": blank.expand_as(latent)}

    def blank(self, size: int) -> Tensor:
        """The latent [1, C, h, w] of a grey picture, which is all that a full mask leaves."""
        if size not in self.blanks:
            grey = torch.zeros(1, 3, size, size, device=self.ldm.device)
            self.blanks[size] = self.ldm.encode_first_stage(grey).mode().float()
        return self.blanks[size]

    def conditions(self, images: np.ndarray | Tensor, masks: np.ndarray | Tensor) -> Batch:
        """Latents of images [B, H, W, 3] uint8 and of the same with `masks` [B, H, W] set to grey, and masks."""
        masks = torch.as_tensor(masks)
        some = (~masks.flatten(1).all(1)).nonzero().flatten()
        x = to_tensor(images, self.ldm.device)
        m = masks.to(x.device, non_blocking=True).to(x)[:, None]
        with torch.no_grad(), self.half_precision():
            z = self.ldm.encode_first_stage(x).mode().float()
            masked = self.blank(x.shape[-1]).repeat(len(x), 1, 1, 1)
            if len(some):
                some = some.to(x.device)
                kept = (x * (1 - m))[some]
                masked[some] = self.ldm.encode_first_stage(kept).mode().float()
        small = F.interpolate(m, size=z.shape[-2:])
        return {"jpg_latent": z, "masked_image_latent": masked, "mask": small.movedim(1, -1)}

    def encode(self, drawn: Drawn) -> Batch:
        maps = {k: torch.as_tensor(drawn[k]).to(self.device, non_blocking=True) for k in ("slots", "seen")}
        return self.conditions(drawn["images"], drawn["masks"]) | maps

    def evaluate(self) -> dict[str, float]:
        """Figures of the held-out scenes, everything masked.

        right, empty, wrong: losses at t = 900 under the right, the empty and wrong captions. start_share: the
        share of the 16x16 cross-attention that the start token takes there. mid, auc: at t = 500 the loss, and
        how well a word's 16x16 map separates its object from the rest (`separation`). latent_std: the latents'
        std.
        """
        batch = self.conditions(self.probe_images, np.ones(self.probe_images.shape[:-1], bool))
        captions = self.probe_captions
        texts = {"right": captions, "empty": [""] * len(captions), "wrong": captions[1:] + captions[:1]}
        with self.averaged() as ldm:
            unet = ldm.model.diffusion_model
            with start_token_share(unet, LEVELS[-1]) as share:
                losses = {k: self.denoising_loss(batch | {"txt": text}, 900) for k, text in texts.items()}
            with CrossAttentionScores(unet, LEVELS[-1:]) as scores:
                mid = self.denoising_loss(batch | {"txt": captions}, 500)
                maps = scores.mean()[LEVELS[-1]].cpu()
        return losses | {
            "start_share": float(np.mean(share)),
            "mid": mid,
            "auc": separation(maps, self.probe_slots, self.probe_seen),
            "latent_std": float(batch["jpg_latent"].std() * self.ldm.scale_factor),
        }

    @cached_property
    def holes(self) -> list[FreeHole]:
        """What a sheet fills, one for each category; to find them takes longer than to make the model."""
        firsts = range(FIRST_HOLE, FIRST_HOLE + 100 * len(CATEGORIES), 100)
        return [
            next(free_holes(category, self.views.side, first=first))
            for category, first in zip(CATEGORIES, firsts, strict=True)
        ]

    def sheet(self) -> np.ndarray:
        """Free holes in held-out scenes, one for each category, filled for their prompts; in the lower rows the
        same prompts drawn from nothing at half the size.
        """
        size = self.views.side
        pictures = np.stack([hole.scene.render(size) for hole in self.holes])
        prompts = [hole.prompt for hole in self.holes]
        filled = to_images(self.inpaint(pictures, np.stack([hole.mask for hole in self.holes]), prompts))
        half = np.zeros((len(prompts), size // 2, size // 2, 3), np.uint8)
        drawn = to_images(self.inpaint(half, np.ones(half.shape[:-1], bool), prompts))
        for picture, hole in zip(filled, self.holes, strict=True):
            outlines, _ = cv2.findContours(
                hole.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1)
            cv2.putText(
                picture, hole.prompt, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 0, 255), 1, cv2.LINE_AA
            )
        drawn = np.stack([cv2.resize(picture, (size, size)) for picture in drawn])
        return tile(np.concatenate([filled, drawn]), 10)

    def inpaint(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        texts: Sequence[str],
        steps: int = 15,
        scale: float = 5.0,
        seed: int = 0,
    ) -> Tensor:
        """Plain inpainting of images [B, H, W, 3] by the averaged model: [B, 3, H, W] in -1..1."""
        batch = self.conditions(images, masks)
        with self.averaged() as ldm:
            z, cond = ldm.get_input(batch | {"txt": list(texts)}, "jpg")
            uncond = cond | {"c_crossattn": [ldm.get_unconditional_conditioning(len(z), "")]}
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(z.shape, generator=generator).to(z)
            samples, _ = DDIMSampler(ldm).sample(
                steps, len(z), z.shape[1:], cond, eta=0.0, x_T=start, verbose=False,
                unconditional_guidance_scale=scale, unconditional_conditioning=uncond, generator=generator,
            )  # fmt: skip
            return ldm.decode_first_stage(samples)


@contextmanager
def start_token_share(unet: UNetModel, factor: int) -> Iterator[list[float]]:
    """Collects, for every cross-attention at a downsampling factor, the mean probability of the start token."""
    shares: list[float] = []
    layers = [block.attn2 for _, _, block in unet.transformer_blocks([factor])]

    def attend(layer: CrossAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, keys = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2).float() for x in (q, k))
        shares.append(float((queries @ keys.mT * layer.scale).softmax(-1)[..., 0].mean()))
        return type(layer).attend(layer, q, k, v)

    for layer in layers:
        layer.attend = partial(attend, layer)  # type: ignore[method-assign]  # patched
    try:
        yield shares
    finally:
        for layer in layers:
            del layer.attend
