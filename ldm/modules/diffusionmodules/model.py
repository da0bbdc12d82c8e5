"""Encoder and decoder of the autoencoder between images and latents.

Computes in the dtype of its weights or of autocast. Use fp32 or bf16: in fp16 the decoder of the x4 upscaler is
known to overflow.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.modules.diffusionmodules import bounded
from ldm.modules.diffusionmodules.util import GroupNorm32

AttentionType = Literal["vanilla", "vanilla-xformers", "none"]  # the first two are one thing here


def Normalize(in_channels: int, num_groups: int = 32) -> GroupNorm32:
    """The autoencoder's normalisation layer (epsilon 1e-6; the UNet's residual blocks use 1e-5)."""
    return GroupNorm32(num_groups, in_channels, eps=1e-6)


class BoundedModule(nn.Module):
    """A layer that, at inference, works in strips if an activation takes more than `memory_budget` bytes."""

    def __init__(self, memory_budget: int):
        super().__init__()
        self.memory_budget = memory_budget

    def strip_rows(self, x: Tensor, channels: int, scale: int = 1) -> int | None:
        """Rows per strip of an activation of `channels`, `scale` times as high and wide as x; None: no strips."""
        if torch.is_grad_enabled() or self.training:
            return None
        height, width = x.shape[2] * scale, x.shape[3] * scale
        rows = bounded.rows_within(self.memory_budget, len(x), channels, height, width)
        return rows if rows < height else None

    def norm_swish_conv(self, x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d) -> Tensor:
        """conv(swish(norm(x))), in strips where x or the result is large."""
        if strip := self.strip_rows(x, max(conv.in_channels, conv.out_channels)):
            return bounded.strip_conv2d(bounded.norm_swish_rows(x, norm), x.shape[2], conv, strip)
        return conv(F.silu(norm(x)))


class Upsample(BoundedModule):
    """Twofold enlargement by nearest neighbour and a 3x3 convolution: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, in_channels: int, with_conv: bool = True, memory_budget: int = bounded.BUDGET):
        super().__init__(memory_budget)
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        if strip := self.strip_rows(x, x.shape[1], scale=2):
            return bounded.strip_conv2d(bounded.upsampled_rows(x), 2 * x.shape[2], self.conv, strip)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(BoundedModule):
    """Halving by a 3x3 convolution of stride 2: [B, C, H, W] -> [B, C, H/2, W/2].

    Padded on the right and below only, as the checkpoints expect.
    """

    padding = (0, 1, 0, 1)

    def __init__(self, in_channels: int, with_conv: bool = True, memory_budget: int = bounded.BUDGET):
        super().__init__(memory_budget)
        self.conv = nn.Conv2d(in_channels, in_channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        if strip := self.strip_rows(x, x.shape[1]):
            rows, height = bounded.rows_of(x), x.shape[2]
            return bounded.strip_conv2d(rows, height, self.conv, max(1, strip // 2), padding=self.padding)
        return self.conv(F.pad(x, self.padding))


class ResnetBlock(BoundedModule):
    """x + conv2(swish(norm2(conv1(swish(norm1(x)))))): [B, in_channels, H, W] -> [B, out_channels, H, W].

    With `temb_channels` an embedding temb [B, temb_channels] is added between the two convolutions.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        temb_channels: int = 0,
        num_groups: int = 32,
        memory_budget: int = bounded.BUDGET,
    ):
        super().__init__(memory_budget)
        out_channels = out_channels or in_channels
        self.norm1 = Normalize(in_channels, num_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels:
            self.temb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = Normalize(out_channels, num_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.norm_swish_conv(x, self.norm1, self.conv1)
        if temb is not None:
            h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        if strip := self.strip_rows(x, max(x.shape[1], h.shape[1])):
            # The sum is written over h, so that no more than x and h are ever held.
            return bounded.strip_conv2d(
                bounded.norm_swish_rows(h, self.norm2),
                h.shape[2],
                self.conv2,
                strip,
                residual=lambda a, b: self.nin_shortcut(x[:, :, a:b]),
                out=h if h.dtype == x.dtype else None,
            )
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Self-attention over all pixels with one head as wide as the activation, as a residual branch.

    At inference the scores take at most `memory_budget` bytes at a time.
    """

    def __init__(self, in_channels: int, num_groups: int = 32, memory_budget: int = bounded.BUDGET):
        super().__init__()
        self.memory_budget = memory_budget
        self.norm = Normalize(in_channels, num_groups)
        self.q = nn.Conv2d(in_channels, in_channels, 1)
        self.k = nn.Conv2d(in_channels, in_channels, 1)
        self.v = nn.Conv2d(in_channels, in_channels, 1)
        self.proj_out = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # The fused kernels want every token's channels side by side.
        q, k, v = (
            rearrange(conv(h), "b c h w -> b (h w) c").contiguous() for conv in (self.q, self.k, self.v)
        )
        h = bounded.bounded_attention(q, k, v, self.memory_budget)
        return x + self.proj_out(rearrange(h, "b (h w) c -> b c h w", h=x.shape[2]))


class Middle(nn.Module):
    """The blocks at the lowest resolution, with self-attention between them if `attention` is set."""

    def __init__(self, channels: int, attention: bool, dropout: float, num_groups: int, memory_budget: int):
        super().__init__()
        common = dict[str, Any](num_groups=num_groups, memory_budget=memory_budget)
        self.block_1 = ResnetBlock(in_channels=channels, dropout=dropout, **common)
        self.attn_1 = AttnBlock(channels, **common) if attention else nn.Identity()
        self.block_2 = ResnetBlock(in_channels=channels, dropout=dropout, **common)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if `attention` is set.

    Encoder and decoder run the layers themselves: with a `forward` here its caller would hold the level's
    input, the largest activation of all, to the end.
    """

    downsample: nn.Module  # the encoder's levels have this one, the decoder's the other
    upsample: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        attention: bool,
        dropout: float,
        num_groups: int,
        memory_budget: int,
    ):
        super().__init__()
        common = dict[str, Any](num_groups=num_groups, memory_budget=memory_budget)
        self.block, self.attn = nn.ModuleList(), nn.ModuleList()
        for i in range(num_blocks):
            block_in = out_channels if i else in_channels
            self.block.append(
                ResnetBlock(in_channels=block_in, out_channels=out_channels, dropout=dropout, **common)
            )
            self.attn.append(AttnBlock(out_channels, **common) if attention else nn.Identity())


class Encoder(BoundedModule):
    """Images [B, in_channels, H, W] -> [B, 2 z_channels (z_channels unless double_z), H/f, W/f].

    f = 2 ** (len(ch_mult) - 1); the channels are the moments of the posterior before `quant_conv`.
    `attn_resolutions` names the sizes that have attention in every block, for images of size `resolution`; the
    middle always has it, unless `attn_type` is "none".
    The decoder shares the parameters, so `out_ch` is not used here.
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: tuple[int, ...] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: tuple[int, ...] = (),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        z_channels: int,
        double_z: bool = True,
        attn_type: AttentionType = "vanilla",
        num_groups: int = 32,
        memory_budget: int = bounded.BUDGET,
    ):
        super().__init__(memory_budget)
        common = dict[str, Any](dropout=dropout, num_groups=num_groups, memory_budget=memory_budget)
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        width, lowest = ch, len(ch_mult) - 1
        for i, mult in enumerate(ch_mult):
            attention = attn_type != "none" and resolution // 2**i in attn_resolutions
            level = Level(width, ch * mult, num_res_blocks, attention, **common)
            width = ch * mult
            down = i < lowest
            level.downsample = Downsample(width, resamp_with_conv, memory_budget) if down else nn.Identity()
            self.down.append(level)
        self.mid = Middle(width, attn_type != "none", **common)
        self.norm_out = Normalize(width, num_groups)
        self.conv_out = nn.Conv2d(width, 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in cast(Iterable[Level], self.down):
            for block, attn in zip(level.block, level.attn, strict=True):
                h = attn(block(h))
            h = level.downsample(h)
        return self.norm_swish_conv(self.mid(h), self.norm_out, self.conv_out)


class Decoder(BoundedModule):
    """Latents [B, z_channels, h, w] -> images [B, out_ch, f h, f w], f = 2 ** (len(ch_mult) - 1).

    The encoder shares the parameters, so `in_channels` and `double_z` are not used here.
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: tuple[int, ...] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: tuple[int, ...] = (),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        z_channels: int,
        double_z: bool = True,
        attn_type: AttentionType = "vanilla",
        num_groups: int = 32,
        memory_budget: int = bounded.BUDGET,
    ):
        super().__init__(memory_budget)
        common = dict[str, Any](dropout=dropout, num_groups=num_groups, memory_budget=memory_budget)
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.mid = Middle(width, attn_type != "none", **common)
        levels = []
        for i, mult in reversed(list(enumerate(ch_mult))):
            attention = attn_type != "none" and resolution // 2**i in attn_resolutions
            level = Level(width, ch * mult, num_res_blocks + 1, attention, **common)
            width = ch * mult
            up = i > 0
            level.upsample = Upsample(width, resamp_with_conv, memory_budget) if up else nn.Identity()
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))  # numbered from the highest resolution, as in the encoder
        self.norm_out = Normalize(width, num_groups)
        self.conv_out = nn.Conv2d(width, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(cast(Sequence[Level], self.up)):
            for block, attn in zip(level.block, level.attn, strict=True):
                h = attn(block(h))
            h = level.upsample(h)
        return self.norm_swish_conv(h, self.norm_out, self.conv_out)
