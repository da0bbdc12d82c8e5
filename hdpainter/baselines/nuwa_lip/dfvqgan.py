"""DF-VQGAN, the "defect-free" VQGAN: what is to be filled has no influence on what is known.

In the encoder every convolution, norm and attention is aware of the mask; the decoder takes what is known from
the encoder's activations (symmetrical connections). Masks are bool [B, 1, H, W], True = to be filled; at the size
of an activation a cell is masked where any of its pixels is.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ldm.modules.diffusionmodules.bounded import BUDGET
from ldm.modules.diffusionmodules.model import Middle, Normalize, ResnetBlock, Upsample

GROUPS = 32
EPSILON = 1e-6

Skip = tuple[Tensor, Tensor | None]
"""An activation of the encoder [B, C, h, w], and its mask (None: all is known)."""


class MaskedConv(nn.Module):
    """A convolution whose known outputs see masked inputs as zeros; the masked outputs see everything."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)

    def forward(self, x: Tensor, mask: Tensor | None, out_mask: Tensor | None = None) -> Tensor:
        """mask: the input's. out_mask: the output's, if it is another."""
        if mask is None:
            return self.conv(x)
        out_mask = mask if out_mask is None else out_mask
        return torch.where(out_mask, self.conv(x), self.conv(x.masked_fill(mask, 0)))


class MaskedNorm(nn.Module):
    """GroupNorm whose known cells are normalised by the statistics of the known cells, and masked ones by all.

    Variances are unbiased, unlike torch's.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.ParameterDict(
            {"weight": torch.ones(1, channels, 1), "bias": torch.zeros(1, channels, 1)}
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        groups = x.unflatten(1, (GROUPS, -1)).flatten(2)
        variance, mean = torch.var_mean(groups, dim=-1, keepdim=True)
        out = (groups - mean) * torch.rsqrt(variance + EPSILON)
        if mask is not None:
            hidden = mask.expand(-1, x.shape[1] // GROUPS, -1, -1).flatten(1)[:, None]
            count = groups.shape[-1]
            known = count - hidden.sum(dim=-1, keepdim=True)
            mean = groups.masked_fill(hidden, 0).mean(dim=-1, keepdim=True) * (count / (known + EPSILON))
            filled = torch.where(hidden, mean, groups)  # adds nothing to the squared deviations
            variance = filled.var(dim=-1, keepdim=True) * ((count - 1) / (known - 1 + EPSILON))
            out = torch.where(hidden, out, (groups - mean) * torch.rsqrt(variance + EPSILON))
        return out.view_as(x) * self.norm["weight"][..., None] + self.norm["bias"][..., None]


class MaskedResnetBlock(nn.Module):
    """x + conv2(swish(norm2(conv1(swish(norm1(x)))))): [B, in_channels, H, W] -> [B, out_channels, H, W]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = MaskedNorm(in_channels)
        self.conv1 = MaskedConv(in_channels, out_channels, 3)
        self.norm2 = MaskedNorm(out_channels)
        self.conv2 = MaskedConv(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.nin_shortcut = MaskedConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, mask)), mask)
        h = self.conv2(F.silu(self.norm2(h, mask)), mask)
        return h + (self.nin_shortcut(x, mask) if hasattr(self, "nin_shortcut") else x)


class MaskedAttnBlock(nn.Module):
    """Self-attention with one head as wide as the activation; known cells do not look at masked ones."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = MaskedNorm(channels)
        self.q, self.k, self.v, self.proj_out = (MaskedConv(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm(x, mask)
        q, k, v = (conv(h, mask).flatten(2).mT.contiguous()[:, None] for conv in (self.q, self.k, self.v))
        allowed = None if mask is None else mask.flatten(2)[..., None] | ~mask.flatten(2)[:, :, None]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return x + self.proj_out(h[:, 0].mT.reshape(x.shape), mask)


class MaskedDownsample(nn.Module):
    """Halving by a convolution; the zeros on the right and below count as known."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = MaskedConv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, mask: Tensor | None, out_mask: Tensor | None) -> Tensor:
        sides = (0, 1, 0, 1)
        return self.conv(F.pad(x, sides), None if mask is None else F.pad(mask, sides), out_mask)


class MaskedMiddle(nn.Module):
    """The blocks at the lowest resolution, with self-attention between them."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = MaskedResnetBlock(channels, channels)
        self.attn_1 = MaskedAttnBlock(channels)
        self.block_2 = MaskedResnetBlock(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in (self.block_1, self.attn_1, self.block_2):
            x = layer(x, mask)
        return x


class Level(nn.Module):
    """The residual blocks of one resolution and, but for the last, the way to the next."""

    block: nn.ModuleList
    downsample: MaskedDownsample  # the encoder's
    upsample: Upsample  # the decoder's


class Encoder(nn.Module):
    """Pictures [B, in_channels, H, W] -> [B, z_channels, H/f, W/f], f = 2 ** (len(ch_mult) - 1)."""

    def __init__(
        self, ch: int, ch_mult: Sequence[int], num_res_blocks: int, z_channels: int, in_channels: int = 3
    ):
        super().__init__()
        self.conv_in = MaskedConv(in_channels, ch, 3)
        self.down = nn.ModuleList()
        width = ch
        for i, mult in enumerate(ch_mult):
            level = Level()
            level.block = nn.ModuleList()
            for _ in range(num_res_blocks):
                level.block.append(MaskedResnetBlock(width, ch * mult))
                width = ch * mult
            if i < len(ch_mult) - 1:
                level.downsample = MaskedDownsample(width)
            self.down.append(level)
        self.mid = MaskedMiddle(width)
        self.norm_out = MaskedNorm(width)
        self.conv_out = MaskedConv(width, z_channels, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Skip]]:
        """The code vectors before quantisation, and the activations for the decoder, the first one first.

        Where the result is known, it does not depend on masked pixels. Without a mask all is known.
        """
        pyramid = [mask if mask is None else any_pool(mask, 2**level) for level in range(len(self.down))]
        h = self.conv_in(x, pyramid[0])
        skips = [(h, pyramid[0])]
        for i, level in enumerate(cast(Iterable[Level], self.down)):
            for block in level.block:
                h = block(h, pyramid[i])
                skips.append((h, pyramid[i]))
            if i < len(self.down) - 1:
                h = level.downsample(h, pyramid[i], pyramid[i + 1])
                skips.append((h, pyramid[i + 1]))
        h = self.mid(h, pyramid[-1])
        return self.conv_out(F.silu(self.norm_out(h, pyramid[-1])), pyramid[-1]), skips


class Decoder(nn.Module):
    """Code vectors [B, z_channels, h, w] -> pictures [B, out_ch, f h, f w], f = 2 ** (len(ch_mult) - 1).

    The last block of a level has the width of the next finer one.
    """

    def __init__(
        self, ch: int, ch_mult: Sequence[int], num_res_blocks: int, z_channels: int, out_ch: int = 3
    ):
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], attention=True, dropout=0.0, num_groups=GROUPS, memory_budget=BUDGET)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            finer = widths[max(i - 1, 0)]
            level = Level()
            level.block = nn.ModuleList(
                ResnetBlock(in_channels=width, out_channels=width if block < num_res_blocks - 1 else finer)
                for block in range(num_res_blocks)
            )
            if i > 0:
                level.upsample = Upsample(finer)
            self.up.append(level)
        self.norm_out = Normalize(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, z: Tensor, skips: Sequence[Skip] = ()) -> Tensor:
        """skips: the encoder's, of the same size; the last is used first, before each block and enlargement."""
        left = list(skips)

        def joined(h: Tensor) -> Tensor:
            if not left:
                return h
            skip, mask = left.pop()
            mean = (skip + h) / 2
            return mean if mask is None else torch.where(mask, h, mean)

        h = self.mid(self.conv_in(z))
        for i, level in reversed(list(enumerate(cast(Iterable[Level], self.up)))):
            for block in level.block:
                h = block(joined(h))
            if i > 0:
                h = level.upsample(joined(h))
        return self.conv_out(F.silu(self.norm_out(h)))


class Quantizer(nn.Module):
    """A codebook of `n_embed` vectors."""

    def __init__(self, n_embed: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def forward(self, z: Tensor) -> Tensor:
        """The codes [B, h, w] of the vectors nearest to z [B, embed_dim, h, w]."""
        z, book = z.movedim(1, -1), self.embedding.weight
        distances = z.square().sum(-1, keepdim=True) + book.square().sum(-1) - 2 * z @ book.T
        return distances.argmin(dim=-1)

    def vectors(self, codes: Tensor) -> Tensor:
        """The vectors [B, embed_dim, h, w] of codes [B, h, w]."""
        return self.embedding(codes).movedim(-1, 1)


class DFVQGAN(nn.Module):
    """The autoencoder between pictures in -1..1 and codes; the defaults are the published one's."""

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int = 256,
        n_embed: int = 8192,
        embed_dim: int = 256,
    ):
        super().__init__()
        self.encoder = Encoder(ch, ch_mult, num_res_blocks, z_channels)
        self.decoder = Decoder(ch, ch_mult, num_res_blocks, z_channels)
        self.quantize = Quantizer(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def encode(self, pixels: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Skip]]:
        """The codes, int64 [B, h, w], of pictures [B, 3, H, W], and the activations for `decode`."""
        z, skips = self.encoder(pixels, mask)
        return self.quantize(self.quant_conv(z)), skips

    def decode(self, codes: Tensor, skips: Sequence[Skip] = ()) -> Tensor:
        """Pictures [B, 3, H, W] of codes [B, h, w], with the activations of what is known, if there are any."""
        return self.decoder(self.post_quant_conv(self.quantize.vectors(codes)), skips)


def any_pool(mask: Tensor, factor: int) -> Tensor:
    """A mask bool [B, 1, H, W] at 1/factor of its size: a cell is masked where any of its pixels is."""
    return F.max_pool2d(mask.float(), factor).bool()
