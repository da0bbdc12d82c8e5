"""GLIDE's two networks, for inpainting: a transformer over the prompt and a UNet over the pixels.

Names and shapes are those of the public checkpoints `base_inpaint.pt` and `upsample_inpaint.pt`. In half
precision only the torso is cast (`dtype_policy`): norms, tables, the embedding of the time and the output stay
float32.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from hdpainter.baselines.glide.tokens import CONTEXT_LENGTH, END_OF_TEXT
from ldm.checkpoint import DTypes
from ldm.modules.diffusionmodules.util import normalization, timestep_embedding
from ldm.util import UserError


class TextFeatures(NamedTuple):
    """What the UNet reads of B prompts; computed once for all steps.

    time: [B, 4 num_channels], added to the embedding of the time. tokens: [B, xf_width, text_ctx], attended to.
    """

    time: Tensor
    tokens: Tensor


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its weights, whatever the input's, which the output has again."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class SelfAttention(nn.Module):
    """Full multi-head attention among tokens [B, N, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # Each head has its queries, keys and values side by side.
        q, k, v = self.c_qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between them, [..., width] -> [..., width]."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class TextBlock(nn.Module):
    """Attention and a perceptron, each a pre-normalised residual branch: [B, N, width] -> [B, N, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TextTransformer(nn.Module):
    """`layers` blocks in sequence."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.resblocks = nn.Sequential(*(TextBlock(width, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


def halve(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H/2, W/2], means of 2x2 pixels."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W], by nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


RESAMPLE: dict[str | None, Callable[[Tensor], Tensor]] = {None: lambda x: x, "down": halve, "up": double}


class ResBlock(nn.Module):
    """Two convolutions as a residual branch, the second norm scaled and shifted by the embedding.

    x [B, channels, H, W] and emb [B, emb_channels] -> [B, out_channels, H', W']. With `resample` both branches
    are halved or doubled, the main one before its first convolution.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int,
        dropout: float,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.resample = RESAMPLE[resample]
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, swish, conv = self.in_layers
        h = conv(self.resample(swish(norm(x))))
        scale, shift = self.emb_layers(emb).to(h.dtype)[..., None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resample(x)) + h


class TextAndSpaceAttention(nn.Module):
    """Attention of pixels x [B, channels, H, W] to the prompt's tokens [B, text_width, M] and to one another.

    One softmax over M + H W keys, the text's first; heads of `head_channels`; a residual branch.
    """

    def __init__(self, channels: int, head_channels: int, text_width: int):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.encoder_kv = nn.Conv1d(text_width, 2 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        q, k, v = self._heads(self.qkv(self.norm(x).flatten(2)), 3)
        text_k, text_v = self._heads(self.encoder_kv(text), 2)
        k, v = torch.cat([text_k, k], dim=2), torch.cat([text_v, v], dim=2)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(2, 3).flatten(1, 2)).view_as(x)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, heads * parts * d, N] as `parts` tensors [B, heads, N, d]."""
        # The fused kernels want every token's channels side by side.
        return x.mT.contiguous().unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(parts, dim=-1)


class Stage(nn.Sequential):
    """Layers in sequence; residual blocks are also given the embedding, attentions the text.

    A Sequential for the keys of its weights; it is not called like one.
    """

    def forward(self, x: Tensor, emb: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, TextAndSpaceAttention):
                x = layer(x, text)
            else:
                x = layer(x)
        return x


class GlideUNet(nn.Module):
    """One of GLIDE's inpainting networks; the defaults are those of the 64 px base.

    image_size            side of the pictures it was trained on; other sizes work if the levels divide them
    num_channels          channels at the top level; level i has num_channels * channel_mult[i]
    num_res_blocks        residual blocks per level of the input half; the output half has one more
    attention_resolutions sides, of a picture of `image_size`, at which there is attention
    num_head_channels     width of the attention's heads
    text_ctx, xf_width, xf_layers, xf_heads     the prompt's tokens and their transformer
    super_res             the upsampler, which is given a smaller picture as well
    """

    def __init__(
        self,
        image_size: int = 64,
        num_channels: int = 192,
        num_res_blocks: int = 3,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        attention_resolutions: Sequence[int] = (32, 16, 8),
        num_head_channels: int = 64,
        text_ctx: int = CONTEXT_LENGTH,
        xf_width: int = 512,
        xf_layers: int = 16,
        xf_heads: int = 8,
        super_res: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.image_size, self.num_channels, self.super_res = image_size, num_channels, super_res
        emb_channels = 4 * num_channels

        self.token_embedding = nn.Embedding(END_OF_TEXT + 1, xf_width)
        self.positional_embedding = nn.Parameter(torch.zeros(text_ctx, xf_width))
        self.padding_embedding = nn.Parameter(torch.zeros(text_ctx, xf_width))
        self.transformer = TextTransformer(xf_width, xf_layers, xf_heads)
        self.final_ln = LayerNorm(xf_width)
        self.transformer_proj = nn.Linear(xf_width, emb_channels)

        self.time_embed = nn.Sequential(
            nn.Linear(num_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        def res_block(channels: int, out: int, resample: Literal["down", "up"] | None = None) -> ResBlock:
            return ResBlock(channels, emb_channels, out, dropout, resample)

        def attention(channels: int) -> TextAndSpaceAttention:
            return TextAndSpaceAttention(channels, num_head_channels, xf_width)

        def attention_at(level: int) -> list[TextAndSpaceAttention]:
            """The attention that follows the residual blocks of a level, if there is one."""
            wanted = image_size >> level in attention_resolutions
            return [attention(num_channels * channel_mult[level])] if wanted else []

        width, lowest = num_channels, len(channel_mult) - 1
        # The noisy picture, what is known of the picture, where it is known, and the smaller picture.
        in_channels = 3 + 3 + 1 + (3 if super_res else 0)
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, width, 3, padding=1))])
        skips = [width]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [res_block(width, num_channels * mult), *attention_at(level)]
                width = num_channels * mult
                self.input_blocks.append(Stage(*layers))
                skips.append(width)
            if level < lowest:
                self.input_blocks.append(Stage(res_block(width, width, "down")))
                skips.append(width)
        self.middle_block = Stage(res_block(width, width), attention(width), res_block(width, width))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for block in range(num_res_blocks + 1):
                layers = [res_block(width + skips.pop(), num_channels * mult), *attention_at(level)]
                width = num_channels * mult
                if level > 0 and block == num_res_blocks:
                    layers.append(res_block(width, width, "up"))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(normalization(width), nn.SiLU(), nn.Conv2d(width, 6, 3, padding=1))

    def dtype_policy(self, torso: torch.dtype) -> DTypes:
        """Dtypes for `ldm.checkpoint.load_into`: the public program's, with `torso` for its half precision."""
        kept = [
            name for name, module in self.named_modules() if isinstance(module, nn.GroupNorm | nn.LayerNorm)
        ]
        kept += [name for name, _ in self.named_modules() if name.endswith("emb_layers")]
        kept += ["time_embed", "out", "positional_embedding", "padding_embedding"]
        return {"": torso} | dict.fromkeys(kept, torch.float32)

    def encode_text(self, tokens: Tensor, mask: Tensor) -> TextFeatures:
        """Features of prompts: tokens int64 [B, text_ctx], mask bool [B, text_ctx], False = padding."""
        x = self.token_embedding(tokens) + self.positional_embedding
        x = torch.where(mask[..., None].bool(), x, self.padding_embedding)
        x = self.final_ln(self.transformer(x.to(self.transformer_proj.weight.dtype)))
        return TextFeatures(self.transformer_proj(x[:, -1]), x.mT)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: TextFeatures,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """eps and the variance's fraction v in -1..1, together [B, 6, H, W] in float32.

        x          noisy pictures [B, 3, H, W] in -1..1
        timesteps  [B], 0 ... 999
        image      pictures like x of which only what is known counts; zeros if None
        mask       [B, 1, H, W], 1 = known (not: to be filled); nothing is if None
        low_res    the smaller pictures [B, 3, h, w] in -1..1, only and always with `super_res`
        """
        image = torch.zeros_like(x) if image is None else image
        mask = torch.zeros_like(x[:, :1]) if mask is None else mask.to(x.dtype)
        inputs = [x, image * mask, mask]
        if self.super_res:
            if low_res is None:
                raise UserError("an upsampling network needs low_res, the pictures to enlarge")
            inputs.append(F.interpolate(low_res, x.shape[-2:], mode="bilinear"))

        embedded = timestep_embedding(timesteps, self.num_channels).to(
            next(self.time_embed.parameters()).dtype
        )
        emb = self.time_embed(embedded)
        emb = emb + text.time.to(emb.dtype)
        h = torch.cat(inputs, dim=1).to(next(self.input_blocks.parameters()).dtype)
        tokens, skips = text.tokens.to(h.dtype), []
        for stage in self.input_blocks:
            h = stage(h, emb, tokens)
            skips.append(h)
        h = self.middle_block(h, emb, tokens)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb, tokens)
        return self.out(h.to(self.out[0].weight.dtype)).float()
