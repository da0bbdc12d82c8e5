"""The transformers of MP-S2S: two encoders, and a decoder that computes each position once.

The residual stream, norms and scales are float32; the linear layers, keys and values may have another dtype.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Attention(nn.Module):
    """Multi-head attention of tokens x [B, n, dim] to keys and values [B, heads, m, dim_head] -> [B, n, dim]."""

    def __init__(self, dim: int, heads: int, dim_head: int):
        super().__init__()
        self.heads = heads
        self.q_linear, self.k_linear, self.v_linear = (
            nn.Linear(dim, heads * dim_head, bias=False) for _ in range(3)
        )
        self.to_out = nn.Linear(heads * dim_head, dim)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a context [B, m, dim]."""
        context = context.to(self.to_out.weight.dtype)
        return self._split(self.k_linear(context)), self._split(self.v_linear(context))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """allowed: bool [n, m], which keys a token may look at; all if None."""
        q = self._split(self.q_linear(x.to(self.to_out.weight.dtype)))
        h = F.scaled_dot_product_attention(q, keys, values, attn_mask=allowed)
        return self.to_out(h.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """A linear layer gated by a second one through GELU, and a third: [..., dim] -> [..., dim]."""

    def __init__(self, dim: int, mult: int):
        super().__init__()
        self.dense_h_to_8h = nn.Linear(dim, 2 * mult * dim)
        self.dense_4h_to_h = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.dense_h_to_8h(x.to(self.dense_h_to_8h.weight.dtype)).chunk(2, dim=-1)
        return self.dense_4h_to_h(value * F.gelu(gate))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 1, dim), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Past:
    """Keys and values [B, heads, n, dim_head] of the positions so far, of at most `length`."""

    def __init__(self, length: int):
        self.length, self.filled = length, 0
        self.keys = self.values = torch.empty(0)

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of the next positions."""
        if not self.filled:
            shape = (*keys.shape[:2], self.length, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        start, self.filled = self.filled, self.filled + keys.shape[2]
        self.keys[:, :, start : self.filled] = keys
        self.values[:, :, start : self.filled] = values
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]


class Layer(nn.Module):
    """Self-attention, attention to a memory if `cross`, and a perceptron: pre-normalised and scaled branches."""

    def __init__(self, dim: int, heads: int, dim_head: int, ff_mult: int, cross: bool):
        super().__init__()
        self.atten_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dim_head)
        self.attention_scale = LayerScale(dim)
        if cross:
            self.atten_norm_cond = nn.LayerNorm(dim)
            self.attention_cond = Attention(dim, heads, dim_head)
            self.attention_scale_cond = LayerScale(dim)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, ff_mult)
        self.ff_scale = LayerScale(dim)

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
        past: Past | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """x [B, n, dim], the positions after `past`; `memory` is as `attention_cond.keys_values` gives it."""
        h = self.atten_norm(x)
        keys, values = self.attention.keys_values(h)
        if past is not None:
            keys, values = past.extended(keys, values)
        x = x + self.attention_scale(self.attention(h, keys, values, allowed))
        if memory is not None:
            x = x + self.attention_scale_cond(self.attention_cond(self.atten_norm_cond(x), *memory))
        return x + self.ff_scale(self.ff(self.ff_norm(x)))


class Encoder(nn.Module):
    """Layers in which every token [B, N, dim] sees every other."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, ff_mult: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, dim_head, ff_mult, cross=False) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """Causal layers over a start token and the cells of a grid, of which some look at nearby cells only.

    attn_types: `full` or `nearby` of each layer, repeated. side: of the grid. kernel_size: of the square of cells
    around one that are near to it.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        ff_mult: int,
        attn_types: Sequence[str],
        side: int,
        kernel_size: int,
    ):
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, dim_head, ff_mult, cross=True) for _ in range(depth))
        self.attn_types = list(islice(cycle(attn_types), depth))
        self.side, self.kernel_size = side, kernel_size

    def allowed(self) -> dict[str, Tensor]:
        """Which positions (columns) one (row) may look at, bool [side², side²], for each type of attention."""
        count = self.side**2
        causal = torch.ones(count, count, dtype=torch.bool).tril()
        cells = torch.arange(count) - 1  # the cell whose code stands at a position; the start token has none
        near = torch.ones(count, count, dtype=torch.bool)
        for place in (cells // self.side, cells % self.side):
            offset = place - place[:, None] + self.kernel_size // 2
            near &= (offset >= 0) & (offset < self.kernel_size)
        near[0] = near[:, 0] = True
        return {"full": causal, "nearby": causal & near}


class Decoding:
    """A run of the decoder: the inputs are given in their order, in any portions, and none is computed twice.

    memory: [B, M, dim], what the decoder attends to.
    """

    def __init__(self, decoder: Decoder, memory: Tensor):
        self.decoder = decoder
        layers = cast(Iterable[Layer], decoder.layers)
        self.memory = [layer.attention_cond.keys_values(memory) for layer in layers]
        self.allowed = {kind: mask.to(memory.device) for kind, mask in decoder.allowed().items()}
        self.restart()

    def restart(self) -> None:
        """Forget the inputs but not the memory."""
        self.position = 0
        self.past = [Past(self.decoder.side**2) for _ in self.decoder.layers]

    def __call__(self, x: Tensor) -> Tensor:
        """The output [B, n, dim] at the next n positions, whose inputs are x [B, n, dim]."""
        start, self.position = self.position, self.position + x.shape[1]
        allowed = {kind: mask[start : self.position, : self.position] for kind, mask in self.allowed.items()}
        layers = zip(self.decoder.layers, self.decoder.attn_types, self.memory, self.past, strict=True)
        for layer, kind, memory, past in layers:
            x = layer(x, memory, past, allowed[kind])
        return x
