"""What guidance does to a sample: S (Eq. 9) along its way, and how far its latents are spread in the end.

Guidance of any kind, in the noise's place (Eq. 7) or added to eps (Eq. 6), is there to lower S; it does harm
where latents leave the range that the decoder knows. With both in the manifest, methods are compared at equal S.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hdpainter.levels import token_weights
from hdpainter.objectives import bce
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.modules.attention import CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel


class Effect:
    """Context manager for one batch of B samples made inside it, by any method; nothing is computed differently.

    It is also the observer to make them with (`hdpainter.inpaint.Observer`).

    Args:
        unet: the UNet of the inpainting model.
        token_indices: ind(τ) of each sample.
        target: {level: mask [B, 1, h, w]}, 1 = fill, for each level that S is computed at.
        inside: [B, 1, h, w] at latent size, where the latents are looked at.
    """

    def __init__(
        self,
        unet: UNetModel,
        token_indices: Sequence[Sequence[int]],
        target: Mapping[int, Tensor],
        inside: Tensor,
    ):
        self.unet, self.token_indices, self.target, self.inside = unet, token_indices, target, inside > 0
        self._handles: list[Any] = []
        self._scores: dict[CrossAttention, tuple[int, Tensor]] = {}
        self._s: list[Tensor] = []
        self._latents: Tensor | None = None

    def __enter__(self) -> "Effect":
        for _, level, block in self.unet.transformer_blocks(self.target):
            self._handles.append(block.attn2.register_forward_pre_hook(partial(self._look, level)))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def _look(self, level: int, layer: CrossAttention, inputs: tuple[Tensor, Tensor]) -> None:
        """Keep a layer's scores in the conditional half: the last rows of its first call in a step."""
        if layer not in self._scores:
            x, context = (rows[-len(self.token_indices) :] for rows in inputs)
            q, k = layer.to_q(x).float(), layer.to_k(context).float()
            self._scores[layer] = level, q @ k.mT * (layer.scale / layer.heads)

    def __call__(self, sampler: DDIMSampler, pred_x0: Tensor, step: int) -> None:
        """Close a step, which predicted `pred_x0` [B, C, h, w]."""
        per_level = []
        for level, mask in self.target.items():
            scores = torch.stack([found for at, found in self._scores.values() if at == level]).mean(0)
            weights = token_weights(self.token_indices, scores.shape[-1], scores.device)
            s = bce(scores, mask.flatten(1).to(scores), weights, "mean")
            per_level.append(s / weights.sum(1))
        self._scores.clear()
        self._s.append(torch.stack(per_level).mean(0).cpu())
        self._latents = pred_x0

    def notes(self) -> list[dict[str, float]]:
        """For each sample `S`, Eq. 9 for a pixel and a word, mean over all steps, and `spread`, the standard
        deviation of the final latents inside the mask. Nothing where no step was seen."""
        if self._latents is None:
            return [{} for _ in self.token_indices]
        latents, s = self._latents.float().cpu(), torch.stack(self._s).mean(0)
        inside = self.inside.cpu().expand_as(latents)
        spreads = [float(one[where].std(correction=0)) for one, where in zip(latents, inside, strict=True)]
        return [
            {"S": round(float(one), 5), "spread": round(spread, 4)}
            for one, spread in zip(s, spreads, strict=True)
        ]
