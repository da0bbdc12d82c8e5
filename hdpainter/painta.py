"""Prompt-Aware Introverted Attention (section 3.3 of the paper).

In vanilla self-attention the pixels to fill listen to every known pixel alike. PAIntA multiplies the score of
(unknown i, known j) by c_j, how much pixel j has to do with the prompt (Eq. 5).

Eq. 5 is usually written with a full hw x hw matrix. It is not needed: c_j (q_i . k_j) = q_i . (c_j k_j), so the
unknown queries attend to keys whose known ones are scaled by c_j, and the known queries to the plain keys. Both
are ordinary fused attention, exact up to rounding.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from hdpainter.levels import mask_pyramid, token_weights
from hdpainter.settings import PAIntASettings
from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.openaimodel import UNetModel, UNetState
from ldm.util import UserError


class PAIntA:
    """Context manager that turns the self-attention of a UNet's chosen levels into PAIntA.

    Patches on enter, restores on exit, also on an error. While it is active the UNet takes batches of
    [uncond | cond] (2B rows, the order of DDIMSampler) or of the conditional half alone (B rows); both halves are
    rescaled by the c of the conditional one, since c is defined by the prompt.

    Args:
        unet: the UNet to patch.
        mask: [B, 1, h, w] at latent size, 1 = fill, or a mapping from level to mask at that level's size.
        token_indices: ind(τ) for each of the B images.
        levels: downsampling factors of the latent (not of the image) whose blocks are patched.
        settings: the variant; the paper's by default.

    Attributes:
        c: the latest c of each patched block, {(stage, factor): [B, h*w]}, for the figures that explain it.
    """

    def __init__(
        self,
        unet: UNetModel,
        mask: Tensor | Mapping[int, Tensor],
        token_indices: Iterable[Iterable[int]],
        levels: Iterable[int] = (2, 4),
        settings: PAIntASettings | None = None,
    ):
        self.unet = unet
        self.levels = tuple(levels)
        self.settings = settings or PAIntASettings()
        self.token_indices = [list(indices) for indices in token_indices]
        self.masks = {factor: level[:, 0] > 0.5 for factor, level in mask_pyramid(mask, self.levels).items()}
        self.batch = len(self.token_indices)
        for level in self.masks.values():
            if len(level) != self.batch:
                raise UserError(f"{len(level)} masks for {self.batch} prompts")
        # Which rows of a level are computed anew is known beforehand: no synchronisation with a GPU per block.
        self._rows = {factor: padded_rows(level.flatten(1)) for factor, level in self.masks.items()}
        self.c: dict[tuple[int, int], Tensor] = {}
        self._patched: list[BasicTransformerBlock] = []
        self._active = True
        self._reuse_c = False

    def __enter__(self) -> "PAIntA":
        if PAIntA.on(self.unet):
            raise RuntimeError("PAIntA is already active on this UNet")
        for stage, factor, block in self.unet.transformer_blocks(self.levels):
            if not block.disable_self_attn:
                block.self_attention = partial(  # type: ignore[method-assign]  # to patch is to do just that
                    self._self_attention, block, (stage, factor)
                )
                self._patched.append(block)
        self.unet.begin = self._begin  # type: ignore[method-assign]
        vars(self.unet)["painta"] = self
        return self

    def __exit__(self, *exc: object) -> None:
        for block in self._patched:
            del block.self_attention
        self._patched.clear()
        del self.unet.begin, self.unet.painta

    @staticmethod
    def on(unet: UNetModel) -> "PAIntA | None":
        """The PAIntA that is active on `unet`, if any."""
        return vars(unet).get("painta")

    @contextmanager
    def unconditional(self) -> Iterator[None]:
        """Within this context a batch of B rows is the unconditional half, rescaled by the c that the
        conditional half left behind."""
        self._reuse_c = True
        try:
            yield
        finally:
            self._reuse_c = False

    def _begin(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> UNetState:
        self._active = bool(timesteps.max() > self.settings.until)
        return type(self.unet).begin(self.unet, x, timesteps, context, y)

    def _self_attention(
        self, block: BasicTransformerBlock, key: tuple[int, int], x: Tensor, context: Tensor
    ) -> Tensor:
        """The residual of the block's first attention: x [b, hw, d] -> [b, hw, d], b = 2B or B."""
        grid = self.masks[key[1]].shape[1:]
        if x.shape[1] != grid.numel():
            raise UserError(
                f"PAIntA's mask has {grid.numel()} tokens at level {key[1]}, the UNet {x.shape[1]}: "
                "give the mask at the latent's size"
            )
        attn, features = block.attn1, block.norm1(x)
        q, k, v = attn.project(features)
        residual = attn.to_out(attn.attend(q, k, v))
        if not self._active:
            return residual

        if self._reuse_c:
            c = self.c[key]
        else:
            cond = slice(-self.batch, None)
            queried = self._queried(block, x[cond], features[cond], residual[cond])
            c = self._alignment(block, queried, context[cond], key[1])
            self.c[key] = c.detach()

        rows = self._rows[key[1]]
        if rows is None:
            return residual
        halves = len(x) // self.batch
        fill = self.masks[key[1]].flatten(1).repeat(halves, 1).to(x.device)
        rows = rows.repeat(halves, 1).to(x.device)
        key_scale = torch.where(fill, 1.0, c.repeat(halves, 1)).to(k.dtype)
        filled = attn.to_out(attn.attend(take_rows(q, rows), k * key_scale[..., None], v))
        # Rows that only pad an image with fewer unknown pixels are known ones: they keep the plain residual.
        filled = torch.where(fill.gather(1, rows)[..., None], filled, take_rows(residual, rows))
        return residual.scatter(1, rows[..., None].expand_as(filled), filled)

    def _queried(self, block: BasicTransformerBlock, x: Tensor, features: Tensor, residual: Tensor) -> Tensor:
        """What Q_c is projected from: x the block's input, features its norm1, residual its self-attention."""
        match self.settings.query:
            case "block_input":
                return features
            case "after_self_attention":
                return block.norm2(x + residual)
        rebuilt = (features + block.norm1.bias) * block.norm1.weight  # its inverse would divide
        return block.norm2(rebuilt + residual)

    def _alignment(
        self, block: BasicTransformerBlock, queried: Tensor, context: Tensor, factor: int
    ) -> Tensor:
        """c [B, hw] in [0, 1]: the softmax mass that each pixel gives to the prompt's tokens, normalised."""
        attn = block.attn2
        q, k = (
            rearrange(projected, "b n (h d) -> b h n d", h=attn.heads)
            for projected in (attn.to_q(queried), attn.to_k(context))
        )
        scores = q.float() @ k.float().mT * attn.scale
        weights = token_weights(self.token_indices, context.shape[1], queried.device)
        c = torch.einsum("bhnl,bl->bn", scores.softmax(-1), weights) / attn.heads
        if self.settings.smoothing is not None:
            grid = self.masks[factor].shape[1:]
            c = smooth(c.view(-1, 1, *grid), self.settings.smoothing).flatten(1)
        return normalize(c)


def normalize(c: Tensor) -> Tensor:
    """clip((c - median) / max, 0, 1) over the last axis; the median of an even count is the lower middle one."""
    median = c.median(dim=-1, keepdim=True).values
    return ((c - median) / c.amax(dim=-1, keepdim=True)).clamp(0, 1)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """The release's 3x3 smoothing of [B, 1, h, w], zeros beyond the border.

    Its kernel is exp(-(d / 2σ)²), which is a Gaussian of width √2 σ.
    """
    from kornia.filters import gaussian_blur2d  # half a second, and only the release smooths

    width = math.sqrt(2) * sigma
    return gaussian_blur2d(maps, (3, 3), (width, width), border_type="constant")


def padded_rows(fill: Tensor) -> Tensor | None:
    """Indices [b, n] of the True entries of each row of `fill` [b, N], n the largest count of them.

    Rows with fewer are padded by indices of False entries. None when there is no True entry at all.
    """
    count = int(fill.sum(1).max())
    if count == 0:
        return None
    return fill.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [b, N, d], rows [b, n] -> [b, n, d]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
