"""Looking on while a picture is made, without touching it.

Nothing is computed differently for it: torch's forward hooks see the inputs of the attention layers and compute
the maps beside them, and after each step PAIntA's c, RASG's score and gradient and the predicted x_0 lie open in
the objects that made them. So a picture made under observation is the same to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from hdpainter.levels import token_weights
from hdpainter.objectives import objective
from hdpainter.painta import PAIntA
from hdpainter.rasg import RASGSampler
from hdpainter.settings import OBJECTIVES, RASGSettings
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.modules.attention import BasicTransformerBlock, CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel


@dataclass(frozen=True)
class Trace:
    """What happened in the n steps of one sample, in their order; float32 arrays, h and w of each level's grid.

    timesteps: int [n], descending.
    attention: {level: [n, columns, h, w]}, the share of a pixel's cross-attention that each column of tokens
        gets: the conditional half's softmax, mean over the heads and layers of the level. Columns sum to 1.
    agreement: {level: [n, h, w]} for RASG's levels: σ(Ā) of Eq. 9, mean over ind(τ); S compares it with the mask.
    objectives: {objective: [n]}, S(x_t) by each of them, whether or not the method steers by it; "bce" is Eq. 9
        as the paper has it.
    self_attention: {level: [n, 2, h, w]} for PAIntA's levels: how much the listeners, some of the pixels to fill,
        listen to each pixel. Softmax of the self-attention, conditional half, mean over listeners, heads and
        blocks; each [h, w] sums to 1. First as the block has it, then as PAIntA's c changes it (Eq. 5): the same
        in steps where PAIntA is off, and for methods without it.
    c: {level: [n, h, w]} in [0, 1], PAIntA's c, mean over the level's blocks; NaN in steps where PAIntA is off.
        Empty for methods without PAIntA.
    score, gradient: [n] and [n, C, h, w], RASG's own S(x_t) and its gradient; None for methods without RASG.
    pred_x0: [n, C, h, w], the predicted latents.
    """

    timesteps: np.ndarray
    attention: dict[int, np.ndarray]
    agreement: dict[int, np.ndarray]
    objectives: dict[str, np.ndarray]
    self_attention: dict[int, np.ndarray]
    c: dict[int, np.ndarray]
    score: np.ndarray | None
    gradient: np.ndarray | None
    pred_x0: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; a level's end in its factor, "attention-2", an objective's in its name."""
        fields = vars(self).items()
        several = {
            f"{name}-{key}": values
            for name, held in fields
            if isinstance(held, dict)
            for key, values in held.items()
        }
        return several | {name: held for name, held in fields if isinstance(held, np.ndarray)}


class Recorder:
    """Context manager that records a Trace of the one sample made inside it.

    It is also the callback to make it with: ``painter(..., observer=recorder)``.

    Args:
        unet: the UNet of the inpainting model.
        columns: lists of token positions; the attention maps of a list's tokens are added up.
        token_indices: ind(τ).
        target: {level: mask [1, 1, h, w]}, 1 = fill, for each level that S is computed at.
        listeners: {level: bool [h, w]}, the pixels to fill whose self-attention is recorded.
    """

    def __init__(
        self,
        unet: UNetModel,
        columns: Sequence[Sequence[int]],
        token_indices: Sequence[int],
        target: Mapping[int, Tensor],
        listeners: Mapping[int, Tensor],
    ):
        self.unet = unet
        self.columns = columns
        self.token_indices = list(token_indices)
        self.target = target
        self.listeners = listeners
        self._handles: list[RemovableHandle] = []
        self._logits: dict[CrossAttention, tuple[int, Tensor]] = {}
        self._heard: dict[BasicTransformerBlock, tuple[int, Tensor]] = {}
        self._steps: list[dict[str, np.ndarray]] = []

    def __enter__(self) -> "Recorder":
        for _, level, block in self.unet.transformer_blocks():
            self._handles.append(block.attn2.register_forward_pre_hook(partial(self._look, level)))
        for stage, level, block in self.unet.transformer_blocks(self.listeners):
            if not block.disable_self_attn:
                self._handles.append(block.register_forward_hook(partial(self._listen, (stage, level))))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def _look(self, level: int, layer: CrossAttention, inputs: tuple[Tensor, Tensor]) -> None:
        """Keep a layer's scores [heads, pixels, tokens] in the conditional half.

        That half is the last row of the layer's first call in a step: samplers run [uncond | cond] at once, or
        as RASG does, which needs the gradient of one half only, the conditional one first.
        """
        if layer not in self._logits:
            x, context = (rows[-1] for rows in inputs)
            self._logits[layer] = level, _scores(layer, x, context)

    @torch.no_grad()
    def _listen(
        self, key: tuple[int, int], block: BasicTransformerBlock, inputs: tuple[Tensor, Tensor], _: Tensor
    ) -> None:
        """Keep what the listeners hear of each pixel, [2, pixels]: by their own scores, and by those that the c
        which PAIntA has just computed for this block weighs. As in `_look`, in the conditional half."""
        if block in self._heard:
            return
        x = block.norm1(inputs[0][-1])
        scores = _scores(block.attn1, x[self.listeners[key[1]].flatten().to(x.device)], x)
        painta = PAIntA.on(self.unet)
        changed = scores
        if painta is not None and key in painta.c:
            fill = painta.masks[key[1]].flatten().to(x.device)
            changed = scores * torch.where(fill, 1.0, painta.c[key][0])
        self._heard[block] = key[1], torch.stack([s.softmax(-1).mean((0, 1)) for s in (scores, changed)])

    def __call__(self, sampler: DDIMSampler, pred_x0: Tensor, step: int) -> None:
        """Close step number `step`, which predicted `pred_x0` [1, C, h, w]."""
        t = int(sampler.ddim_timesteps[-1 - step])
        height, width = pred_x0.shape[-2:]
        logits: dict[int, list[Tensor]] = {}
        for level, scores in self._logits.values():
            logits.setdefault(level, []).append(scores)
        self._logits.clear()

        record = {"timesteps": np.array(t), "pred_x0": _array(pred_x0[0])}
        for level, layers in logits.items():
            grid = height // level, width // level
            shares = torch.stack([scores.softmax(-1).mean(0) for scores in layers]).mean(0)
            groups = token_weights(self.columns, shares.shape[-1], shares.device)
            record[f"attention-{level}"] = _array((groups @ shares.mT).unflatten(-1, grid))

        objectives = dict.fromkeys(OBJECTIVES, 0.0)
        for level, target in self.target.items():
            scores = torch.stack([scores.mean(0) for scores in logits[level]]).mean(0)[None]
            weights = token_weights([self.token_indices], scores.shape[-1], scores.device)
            grid, mask = (target.shape[-2], target.shape[-1]), target.flatten(1).to(scores)
            for name in objectives:
                settings = RASGSettings(objective=name)
                objectives[name] += float(objective(scores, mask, weights, grid, settings))
            fit = (scores.sigmoid() * weights[:, None]).sum(-1) / weights.sum()
            record[f"agreement-{level}"] = _array(fit.view(grid))
        record |= {f"objectives-{name}": np.array(value, np.float32) for name, value in objectives.items()}

        painta = PAIntA.on(self.unet)
        heard: dict[int, list[Tensor]] = {}
        for level, shares in self._heard.values():
            heard.setdefault(level, []).append(shares)
        self._heard.clear()
        for level, blocks in heard.items():
            mean = torch.stack(blocks).mean(0).unflatten(-1, (height // level, width // level))
            if painta is None or t <= painta.settings.until:
                mean = mean[:1].expand_as(mean)  # c is that of an earlier step
            record[f"self_attention-{level}"] = _array(mean)
        if painta is not None:
            for level in painta.levels:
                blocks = [c[0] for (_, factor), c in painta.c.items() if factor == level]
                grid = height // level, width // level
                off = t <= painta.settings.until or not blocks
                c = torch.full(grid, torch.nan) if off else torch.stack(blocks).mean(0).view(grid)
                record[f"c-{level}"] = _array(c)
        if isinstance(sampler, RASGSampler):
            record["score"] = _array(sampler.score[0])
            record["gradient"] = _array(sampler.gradient[0])
        self._steps.append(record)

    def trace(self) -> Trace:
        """What was recorded, all steps together."""
        held: dict[str, Any] = {
            name: {} for name in ("attention", "agreement", "objectives", "self_attention", "c")
        }
        held |= {"score": None, "gradient": None}
        for name in self._steps[0]:
            values = np.stack([record[name] for record in self._steps])
            kind, _, key = name.partition("-")
            if key:
                held[kind][int(key) if key.isdigit() else key] = values
            else:
                held[name] = values
        return Trace(**held)


def _scores(layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """Scores [heads, pixels, tokens], before the softmax, of one image: x [pixels, d], context [tokens, d]."""
    q, k = (
        rearrange(features, "n (h d) -> h n d", h=layer.heads).float()
        for features in (layer.to_q(x), layer.to_k(context))
    )
    return q @ k.mT * layer.scale


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
