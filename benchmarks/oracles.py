"""The plain equations, written for clarity and not for speed: what the fast paths must equal.

Full attention matrices, one image at a time, loops where the paper has sums. The tests compare with them, and
steps.py races them.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from hdpainter.settings import PAIntASettings
from ldm.modules.attention import BasicTransformerBlock, CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def similarity(attn: CrossAttention, q: Tensor, k: Tensor) -> Tensor:
    """q k^T / sqrt(d) for every head: [heads, n, m] (or with a batch axis in front)."""
    return split_heads(q, attn.heads) @ split_heads(k, attn.heads).mT * attn.scale


def attend(attn: CrossAttention, scores: Tensor, v: Tensor) -> Tensor:
    out = scores.softmax(-1) @ split_heads(v, attn.heads)
    return out.transpose(-3, -2).flatten(-2)


class FullMatrixAttention:
    """Every attention of the UNet by its full matrix."""

    def __init__(self, unet: UNetModel):
        self.layers = [module for module in unet.modules() if isinstance(module, CrossAttention)]

    def __enter__(self):
        for attn in self.layers:
            attn.attend = partial(lambda attn, q, k, v: attend(attn, similarity(attn, q, k), v), attn)
        return self

    def __exit__(self, *exc):
        for attn in self.layers:
            vars(attn).pop("attend", None)  # rasg_gradient has taken its own layers' away


def alignment(
    block: BasicTransformerBlock,
    x: Tensor,
    context: Tensor,
    tokens: Iterable[int],
    settings: PAIntASettings,
    grid: tuple[int, int],
) -> Tensor:
    """c_j of one image (section 3.3) from the conditional x [n, d] and context [l, d_c]."""
    features = block.norm1(x)
    if settings.query != "block_input":
        q, k, v = (
            projection(features) for projection in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        )
        vanilla = block.attn1.to_out(attend(block.attn1, similarity(block.attn1, q, k), v))
        if settings.query == "port":
            x = (features + block.norm1.bias) * block.norm1.weight
        features = block.norm2(x + vanilla)
    attn = block.attn2
    s_cross = similarity(attn, attn.to_q(features), attn.to_k(context)).softmax(-1).mean(0)
    c = sum(s_cross[:, k] for k in tokens)
    if settings.smoothing is not None:
        height, width = grid
        image, smoothed = c.reshape(grid), torch.zeros(grid, dtype=c.dtype)
        weight = {
            (dy, dx): torch.exp(torch.tensor(-(dy * dy + dx * dx) / (2 * settings.smoothing) ** 2))
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        }
        total = sum(weight.values())
        for (dy, dx), w in weight.items():
            for y in range(max(0, -dy), min(height, height - dy)):
                for x_ in range(max(0, -dx), min(width, width - dx)):
                    smoothed[y, x_] += w / total * image[y + dy, x_ + dx]
        c = smoothed.flatten()
    lower_median = c.sort().values[(len(c) - 1) // 2]
    return ((c - lower_median) / c.max()).clamp(0, 1)


class FullMatrixPAIntA:
    """Eq. 5 on full matrices, image by image. `masks` maps factor to [B, 1, h, w]."""

    def __init__(self, unet, masks, token_indices, levels, settings=None):
        self.unet, self.masks, self.token_indices = unet, masks, [list(t) for t in token_indices]
        self.settings = settings or PAIntASettings()
        self.blocks = [(factor, block) for _, factor, block in unet.transformer_blocks(levels)]

    def __enter__(self):
        for factor, block in self.blocks:
            block.self_attention = partial(self.self_attention, block, factor)
        return self

    def __exit__(self, *exc):
        for _, block in self.blocks:
            del block.self_attention

    def self_attention(self, block, factor, x, context):
        batch = len(self.token_indices)
        out = [None] * len(x)
        for image, tokens in enumerate(self.token_indices):
            m = self.masks[factor][image, 0].flatten() > 0.5
            cond = len(x) - batch + image
            grid = tuple(self.masks[factor].shape[-2:])
            c = alignment(block, x[cond], context[cond], tokens, self.settings, grid)
            for row in range(image, len(x), batch):
                attn, features = block.attn1, block.norm1(x[row])
                q, k, v = attn.to_q(features), attn.to_k(features), attn.to_v(features)
                a_self = similarity(attn, q, k)
                unknown_to_known = m[:, None] & ~m[None, :]
                scaled = torch.where(unknown_to_known, c[None, :] * a_self, a_self)
                out[row] = attn.to_out(attend(attn, scaled, v))
        return torch.stack(out)


def rasg_gradient(
    unet, x_t, inputs, timesteps, masks, token_indices, levels, logit_shift=0.0, reduction="sum"
):
    """S(x_t) (Eq. 8 and 9) [B], its gradient [B, 4, h, w] and the UNet's output for [uncond | cond].

    One graph through the whole UNet for both halves, scores of every head, loops over tokens and pixels' sums.
    `inputs(x)` returns the keyword arguments of the UNet for the latents x, both halves.
    """
    x_t = x_t.detach().requires_grad_()
    batch, scores = len(x_t), []
    layers = [block.attn2 for _, _, block in unet.transformer_blocks(levels)]

    def record(attn, q, k, v):
        a_cross = similarity(attn, q, k)
        scores.append(a_cross)
        return attend(attn, a_cross, v)

    for attn in layers:
        attn.attend = partial(record, attn)
    try:
        with torch.enable_grad():
            out = unet(timesteps=timesteps, **inputs(x_t))
            mean = torch.stack([a[-batch:].mean(1) for a in scores]).mean(0)
            total = []
            for image, tokens in enumerate(token_indices):
                m = masks[image].flatten()
                s = 0.0
                for k in tokens:
                    p = torch.sigmoid(mean[image, :, k].double() - logit_shift)
                    bce = -(m * torch.log(p) + (1 - m) * torch.log1p(-p))
                    s = s + (bce.sum() if reduction == "sum" else bce.mean())
                total.append(s)
            sum(total).backward()
    finally:
        for attn in layers:
            del attn.attend
    return torch.stack(total).float().detach(), x_t.grad, out.detach()
