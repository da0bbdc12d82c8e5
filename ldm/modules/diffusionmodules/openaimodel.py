"""The denoising UNet.

Its forward pass is the composition of `begin`, `advance` and `finish`, so that a caller can run a part of it.
fp16 and bf16 are safe as weights and under autocast: attention logits and group statistics are accumulated in
fp32, and the timestep embedding is computed in fp32.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from ldm.modules.diffusionmodules.util import checkpoint, normalization, timestep_embedding, zero_module
from ldm.util import UserError


class Upsample(nn.Module):
    """Twofold enlargement by nearest neighbour and a 3x3 convolution: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """Halving by a 3x3 convolution of stride 2: [B, C, H, W] -> [B, C, H/2, W/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two convolutions with the timestep embedding added between them, as a residual branch.

    x [B, channels, H, W] and emb [B, emb_channels] -> [B, out_channels or channels, H, W].
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_checkpoint: bool = False,
        num_groups: int = 32,
    ):
        super().__init__()
        out_channels = out_channels or channels
        self.use_checkpoint = use_checkpoint
        self.in_layers = nn.Sequential(
            normalization(channels, num_groups), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            normalization(out_channels, num_groups),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return checkpoint(self._forward, x, emb, enabled=self.use_checkpoint and self.training)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class TimestepEmbedSequential(nn.Sequential):
    """Layers in sequence; residual blocks are also given the embedding, transformers the context.

    A Sequential for the keys of its weights; it is not called like one.
    """

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


@dataclass(frozen=True)
class UNetState:
    """A UNet's forward pass, stopped before stage `next_stage`. Every tensor has the batch first.

    h        the activation [B, C, H, W]
    skips    what the input blocks have left for the output blocks, the last one is used first
    emb      the embedding of timestep and class [B, 4 * model_channels]
    context  the text features [B, M, context_dim]
    """

    h: Tensor
    skips: tuple[Tensor, ...]
    emb: Tensor
    context: Tensor | None
    next_stage: int = 0

    def detach(self) -> Self:
        """The same state, cut off from the graph that led to it."""
        return dataclasses.replace(
            self,
            h=self.h.detach(),
            skips=tuple(skip.detach() for skip in self.skips),
            emb=self.emb.detach(),
            context=None if self.context is None else self.context.detach(),
        )

    @classmethod
    def cat(cls, states: Iterable[Self]) -> Self:
        """States stopped before the same stage as one batch, in the order given."""
        states = list(states)
        (next_stage,) = {state.next_stage for state in states}
        contexts = [state.context for state in states if state.context is not None]
        return cls(
            h=torch.cat([state.h for state in states]),
            skips=tuple(torch.cat(skips) for skips in zip(*(state.skips for state in states), strict=True)),
            emb=torch.cat([state.emb for state in states]),
            context=torch.cat(contexts) if contexts else None,
            next_stage=next_stage,
        )


class UNetModel(nn.Module):
    """UNet with timestep embedding, text cross-attention and optionally a class or level embedding.

    model_channels          channels at the top level; level i has model_channels * channel_mult[i]
    num_res_blocks          residual blocks per level of the input half, one number or one per level; the
                            output half has one more
    attention_resolutions   downsampling factors (1, 2, 4, ...) of the levels that have transformers
    num_heads, num_head_channels
                            one of them sets the heads of the attentions: a fixed number, or a fixed width
                            (which wins if both are given)
    transformer_depth       blocks per transformer
    context_dim             width of the text features
    use_linear_in_transformer   linear layers (Stable Diffusion 2) or 1x1 convolutions around the transformers
    num_classes             None, the number of classes or levels that y can take (int64 [B]), or "continuous"
                            (y float [B, 1])
    disable_self_attentions     per level, whether the first attention looks at the text as well
    num_attention_blocks    per level, how many of its residual blocks are followed by a transformer in the
                            input half (and in the output half); all by default
    disable_middle_self_attn    like disable_self_attentions, for the middle
    use_checkpoint          trade time for memory in training
    num_groups              groups of every GroupNorm; narrow networks need fewer than Stable Diffusion's 32

    `image_size`, `use_fp16` and `legacy` are in the public configurations but decide nothing: the network
    takes any size that its levels divide, computes in the dtype of its weights, and the two head layouts
    that `legacy` chooses between are the same with transformers.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int | list[int],
        attention_resolutions: list[int],
        dropout: float = 0.0,
        channel_mult: tuple[int, ...] = (1, 2, 4, 8),
        num_classes: int | Literal["continuous"] | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = -1,
        num_head_channels: int = -1,
        use_spatial_transformer: bool = True,
        transformer_depth: int = 1,
        context_dim: int | None = None,
        legacy: bool = True,
        disable_self_attentions: list[bool] | None = None,
        num_attention_blocks: list[int] | None = None,
        disable_middle_self_attn: bool = False,
        use_linear_in_transformer: bool = False,
        num_groups: int = 32,
    ):
        super().__init__()
        if not use_spatial_transformer or context_dim is None:
            raise UserError("unet_config: set use_spatial_transformer: true and a context_dim")
        if num_heads == -1 and num_head_channels == -1:
            raise UserError("unet_config: set num_heads or num_head_channels")
        levels = len(channel_mult)
        if isinstance(num_res_blocks, int):
            num_res_blocks = [num_res_blocks] * levels
        for name, per_level in {
            "num_res_blocks": num_res_blocks,
            "disable_self_attentions": disable_self_attentions,
            "num_attention_blocks": num_attention_blocks,
        }.items():
            if per_level is not None and len(per_level) != levels:
                raise UserError(f"unet_config: {name} needs {levels} entries, one per channel_mult")

        self.in_channels = in_channels
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.num_classes = num_classes

        emb_channels = model_channels * 4
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        self.label_emb: nn.Module
        if num_classes == "continuous":
            self.label_emb = nn.Linear(1, emb_channels)
        elif num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)

        def res_block(channels: int, out: int) -> ResBlock:
            return ResBlock(channels, emb_channels, dropout, out, use_checkpoint, num_groups)

        def transformer(channels: int, disable_self_attn: bool) -> SpatialTransformer:
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            return SpatialTransformer(
                channels,
                heads,
                channels // heads,
                depth=transformer_depth,
                context_dim=context_dim,
                disable_self_attn=disable_self_attn,
                use_linear=use_linear_in_transformer,
                use_checkpoint=use_checkpoint,
                num_groups=num_groups,
            )

        def attention_after(level: int, block: int) -> list[SpatialTransformer]:
            """The transformer that follows a residual block of a level, if there is one."""
            allowed = num_attention_blocks is None or block < num_attention_blocks[level]
            if 2**level not in attention_resolutions or not allowed:
                return []
            no_self = disable_self_attentions is not None and disable_self_attentions[level]
            return [transformer(model_channels * channel_mult[level], no_self)]

        stage = TimestepEmbedSequential
        width = model_channels
        self.input_blocks = nn.ModuleList([stage(nn.Conv2d(in_channels, width, 3, padding=1))])
        factors = [1]
        skip_widths = [width]
        for level, mult in enumerate(channel_mult):
            for block in range(num_res_blocks[level]):
                layers = [res_block(width, model_channels * mult), *attention_after(level, block)]
                width = model_channels * mult
                self.input_blocks.append(stage(*layers))
                factors.append(2**level)
                skip_widths.append(width)
            if level < levels - 1:
                self.input_blocks.append(stage(Downsample(width)))
                factors.append(2**level)
                skip_widths.append(width)

        self.middle_block = stage(
            res_block(width, width), transformer(width, disable_middle_self_attn), res_block(width, width)
        )
        factors.append(2 ** (levels - 1))

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for block in range(num_res_blocks[level] + 1):
                layers = [
                    res_block(width + skip_widths.pop(), model_channels * mult),
                    *attention_after(level, block),
                ]
                width = model_channels * mult
                if level > 0 and block == num_res_blocks[level]:
                    layers.append(Upsample(width))
                self.output_blocks.append(stage(*layers))
                factors.append(2**level)

        self.stage_factors: list[int] = factors
        self.out = nn.Sequential(
            normalization(width, num_groups),
            nn.SiLU(),
            zero_module(nn.Conv2d(width, out_channels, 3, padding=1)),
        )

    @property
    def stages(self) -> list[nn.Module]:
        """Input blocks, middle block and output blocks in the order in which they run.

        `stage_factors` has, for each of them, the downsampling factor of the latent at its input, where its
        transformers run.
        """
        return [*self.input_blocks, self.middle_block, *self.output_blocks]

    def transformer_blocks(
        self, levels: Iterable[int] | None = None
    ) -> list[tuple[int, int, BasicTransformerBlock]]:
        """(stage, level, block) of the transformer blocks at the downsampling factors `levels`, as they run.

        None: at all. Raises UserError where a level has no transformer block: what is to act there would silently
        do less than asked.
        """
        blocks = [
            (stage, factor, block)
            for stage, (module, factor) in enumerate(zip(self.stages, self.stage_factors, strict=True))
            for block in module.modules()
            if isinstance(block, BasicTransformerBlock)
        ]
        if levels is None:
            return blocks
        wanted = set(levels)
        if missing := wanted - {factor for _, factor, _ in blocks}:
            raise UserError(f"the UNet has no transformer blocks at downsampling factor(s) {sorted(missing)}")
        return [found for found in blocks if found[1] in wanted]

    def begin(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None
    ) -> UNetState:
        """The state before the first stage; the arguments are those of `forward`."""
        dtype = next(self.time_embed.parameters()).dtype
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(dtype))
        if self.num_classes is not None:
            if y is None:
                raise UserError("this UNet has num_classes: give it y, the classes or noise levels")
            emb = emb + self.label_emb(y.to(dtype) if self.num_classes == "continuous" else y)
        return UNetState(x.to(dtype), (), emb, None if context is None else context.to(dtype))

    def advance(self, state: UNetState, stop: int | None = None) -> UNetState:
        """The state before stage `stop` (None: after the last one)."""
        stages = self.stages
        stop = len(stages) if stop is None else stop
        middle = len(self.input_blocks)
        h, skips = state.h, state.skips
        for i in range(state.next_stage, stop):
            if i > middle:
                h, skips = torch.cat([h, skips[-1]], dim=1), skips[:-1]
            h = stages[i](h, state.emb, state.context)
            if i < middle:
                skips = (*skips, h)
        return dataclasses.replace(state, h=h, skips=skips, next_stage=stop)

    def finish(self, state: UNetState) -> Tensor:
        """The output of the network from the state after the last stage: [B, out_channels, H, W]."""
        return self.out(state.h)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """Prediction (noise or v) [B, out_channels, H, W] in the dtype of x.

        x          noisy latents, with the conditions concatenated, [B, in_channels, H, W]; H and W are
                   multiples of the lowest level's downsampling factor
        timesteps  [B], 0 ... 999
        context    text features [B, M, context_dim]
        y          class or noise level [B], only with `num_classes`
        """
        return self.finish(self.advance(self.begin(x, timesteps, context, y))).to(x.dtype)
