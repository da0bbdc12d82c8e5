"""Looking on while a picture is made, without touching it.

Nothing is computed differently for it: torch's forward pre-hooks see the inputs of the cross-attention layers and
compute the maps beside them, and after each step PAIntA's c, RASG's score and gradient and the predicted x_0 lie
open in the objects that made them. So a picture made under observation is the same to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from hdpainter.levels import token_weights
from hdpainter.objectives import bce
from hdpainter.painta import PAIntA
from hdpainter.rasg import RASGSampler
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.modules.attention import CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel


@dataclass(frozen=True)
class Trace:
    """What happened in the n steps of one sample, in their order; float32 arrays, h and w of each level's grid.

    timesteps: int [n], descending.
    attention: {level: [n, columns, h, w]}, the share of a pixel's cross-attention that each column of tokens
        gets: the conditional half's softmax, mean over the heads and layers of the level. Columns sum to 1.
    agreement: {level: [n, h, w]} for RASG's levels: σ(Ā) of Eq. 9, mean over ind(τ); S compares it with the mask.
    objective: [n], S(x_t) of Eq. 9 as the paper has it, whether or not the method steers by it.
    c: {level: [n, h, w]} in [0, 1], PAIntA's c, mean over the level's blocks; NaN in steps where PAIntA is off.
        Empty for methods without PAIntA.
    score, gradient: [n] and [n, C, h, w], RASG's own S(x_t) and its gradient; None for methods without RASG.
    pred_x0: [n, C, h, w], the predicted latents.
    """

    timesteps: np.ndarray
    attention: dict[int, np.ndarray]
    agreement: dict[int, np.ndarray]
    objective: np.ndarray
    c: dict[int, np.ndarray]
    score: np.ndarray | None
    gradient: np.ndarray | None
    pred_x0: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; those of a level end in its factor: "attention-2"."""
        levels = {
            f"{name}-{level}": values
            for name in ("attention", "agreement", "c")
            for level, values in getattr(self, name).items()
        }
        names = ("timesteps", "objective", "score", "gradient", "pred_x0")
        single = {name: getattr(self, name) for name in names}
        return levels | {name: values for name, values in single.items() if values is not None}


class Recorder:
    """Context manager that records a Trace of the one sample made inside it.

    It is also the callback to make it with: ``painter(..., observer=recorder)``.

    Args:
        unet: the UNet of the inpainting model.
        columns: lists of token positions; the attention maps of a list's tokens are added up.
        token_indices: ind(τ).
        target: {level: mask [1, 1, h, w]}, 1 = fill, for each level that S is computed at.
    """

    def __init__(
        self,
        unet: UNetModel,
        columns: Sequence[Sequence[int]],
        token_indices: Sequence[int],
        target: Mapping[int, Tensor],
    ):
        self.unet = unet
        self.columns = columns
        self.token_indices = list(token_indices)
        self.target = target
        self._handles: list[RemovableHandle] = []
        self._logits: dict[CrossAttention, tuple[int, Tensor]] = {}
        self._steps: list[dict[str, np.ndarray]] = []

    def __enter__(self) -> "Recorder":
        for _, level, block in self.unet.transformer_blocks():
            self._handles.append(block.attn2.register_forward_pre_hook(partial(self._look, level)))
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
        if layer in self._logits:
            return
        x, context = (rows[-1] for rows in inputs)
        q, k = (
            rearrange(features, "n (h d) -> h n d", h=layer.heads).float()
            for features in (layer.to_q(x), layer.to_k(context))
        )
        self._logits[layer] = level, q @ k.mT * layer.scale

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

        objective = 0.0
        for level, target in self.target.items():
            scores = torch.stack([scores.mean(0) for scores in logits[level]]).mean(0)[None]
            weights = token_weights([self.token_indices], scores.shape[-1], scores.device)
            objective += float(bce(scores, target.flatten(1).to(scores), weights))
            fit = (scores.sigmoid() * weights[:, None]).sum(-1) / weights.sum()
            record[f"agreement-{level}"] = _array(fit.view(target.shape[-2:]))
        record["objective"] = np.array(objective, np.float32)

        if (painta := PAIntA.on(self.unet)) is not None:
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
        arrays = {name: np.stack([record[name] for record in self._steps]) for name in self._steps[0]}
        levels: dict[str, dict[int, np.ndarray]] = {"attention": {}, "agreement": {}, "c": {}}
        for name in [name for name in arrays if "-" in name]:
            kind, level = name.split("-")
            levels[kind][int(level)] = arrays.pop(name)
        return Trace(
            timesteps=arrays["timesteps"],
            attention=levels["attention"],
            agreement=levels["agreement"],
            objective=arrays["objective"],
            c=levels["c"],
            score=arrays.get("score"),
            gradient=arrays.get("gradient"),
            pred_x0=arrays["pred_x0"],
        )


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
