"""Attention and the transformer that the UNet puts between its residual blocks."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.modules.diffusionmodules.util import GroupNorm32, checkpoint, zero_module
from ldm.util import default

AMX = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # matrix instructions for bfloat16
PLAIN_SCORES = 2**24  # entries of the logits up to which `attention` may write them out


class GEGLU(nn.Module):
    """A linear layer gated by a second one through GELU: [..., dim_in] -> [..., dim_out]."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.proj = nn.Linear(dim_in, dim_out * 2)

    def forward(self, x: Tensor) -> Tensor:
        # Two products, not the halves of one: on a CPU, torch is three times slower on the halves' strided rows.
        weights, biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        x, gate = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """The two-layer perceptron of a transformer block: [..., dim] -> [..., dim_out or dim]."""

    def __init__(
        self, dim: int, dim_out: int | None = None, mult: int = 4, glu: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        inner_dim = dim * mult
        project_in = GEGLU(dim, inner_dim) if glu else nn.Sequential(nn.Linear(dim, inner_dim), nn.GELU())
        self.net = nn.Sequential(project_in, nn.Dropout(dropout), nn.Linear(inner_dim, default(dim_out, dim)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q kᵀ scale) v: [B, h, N, d], [B, h, M, d], [B, h, M, d] -> [B, h, N, d].

    By the fused kernel or, where that is faster, by plain matrix products, which in bfloat16 round logits and
    probabilities.
    """
    if q.device.type == "cpu" and _plain_is_faster(q, k, v):
        return ((q * scale) @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _plain_is_faster(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Where a gradient is wanted, or in bfloat16 without matrix instructions, plain products are up to twice as
    fast on a CPU, as long as the logits are few."""
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    slow = (q.dtype is torch.bfloat16 and not AMX) or (differentiated and q.dtype is not torch.float16)
    return slow and q.shape[:-1].numel() * k.shape[-2] <= PLAIN_SCORES


class CrossAttention(nn.Module):
    """Multi-head attention of tokens x [B, N, query_dim] over a context [B, M, context_dim] or themselves.

    The three steps `project`, `attend` and `to_out` are separate, so that a caller can look at, or replace,
    what happens between the projections and the output.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.0,
    ):
        super().__init__()
        inner_dim = dim_head * heads
        context_dim = default(context_dim, query_dim)
        self.heads = heads
        self.dim_head = dim_head
        self.scale = dim_head**-0.5
        self.to_q = nn.Linear(query_dim, inner_dim, bias=False)
        self.to_k = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_v = nn.Linear(context_dim, inner_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, query_dim), nn.Dropout(dropout))

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x, keys and values of the context (of x if None), each [B, tokens, heads * dim_head]."""
        context = default(context, x)
        return self.to_q(x), self.to_k(context), self.to_v(context)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q kᵀ scale) v in every head: [B, N, h*d], [B, M, h*d], [B, M, h*d] -> [B, N, h*d].

        The logits are accumulated in fp32 by torch's kernels, so this is safe in fp16 as well, where SD2's
        logits overflow if written out.
        """
        q, k, v = (t.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2) for t in (q, k, v))
        return attention(q, k, v, self.scale).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.to_out(self.attend(*self.project(x, context)))


# Configurations and checkpoints written for xformers name this class. SDPA needs as little memory.
MemoryEfficientCrossAttention = CrossAttention


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and a feed-forward, each a pre-normalised residual branch.

    `disable_self_attn` turns the first attention into a second cross-attention; `checkpoint` recomputes the
    block's activations in the backward pass of training.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        d_head: int,
        dropout: float = 0.0,
        context_dim: int | None = None,
        gated_ff: bool = True,
        checkpoint: bool = True,
        disable_self_attn: bool = False,
    ):
        super().__init__()
        self.disable_self_attn = disable_self_attn
        self.checkpoint = checkpoint
        self.attn1 = CrossAttention(dim, context_dim if disable_self_attn else None, n_heads, d_head, dropout)
        self.ff = FeedForward(dim, glu=gated_ff, dropout=dropout)
        self.attn2 = CrossAttention(dim, context_dim, n_heads, d_head, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def self_attention(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The first residual branch, before it is added to x: [B, N, dim] -> [B, N, dim]."""
        return self.attn1(self.norm1(x), context if self.disable_self_attn else None)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens x [B, N, dim] and context [B, M, context_dim] -> [B, N, dim]."""
        return checkpoint(self._forward, x, context, enabled=self.checkpoint and self.training)

    def _forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.self_attention(x, context)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the pixels of an image, as a residual branch.

    `use_linear` says whether the projections in and out are linear layers (Stable Diffusion 2) or 1x1
    convolutions (Stable Diffusion 1); both compute the same, but their weights have different shapes.
    """

    def __init__(
        self,
        in_channels: int,
        n_heads: int,
        d_head: int,
        depth: int = 1,
        dropout: float = 0.0,
        context_dim: int | None = None,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        use_checkpoint: bool = True,
        num_groups: int = 32,
    ):
        super().__init__()
        inner_dim = n_heads * d_head
        self.use_linear = use_linear
        self.norm = GroupNorm32(num_groups, in_channels, eps=1e-6)
        self.proj_in = (
            nn.Linear(in_channels, inner_dim) if use_linear else nn.Conv2d(in_channels, inner_dim, 1)
        )
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                inner_dim,
                n_heads,
                d_head,
                dropout=dropout,
                context_dim=context_dim,
                checkpoint=use_checkpoint,
                disable_self_attn=disable_self_attn,
            )
            for _ in range(depth)
        )
        self.proj_out = zero_module(
            nn.Linear(inner_dim, in_channels) if use_linear else nn.Conv2d(inner_dim, in_channels, 1)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [B, in_channels, H, W] and context [B, M, context_dim] -> [B, in_channels, H, W]."""
        height = x.shape[2]
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = rearrange(h, "b c h w -> b (h w) c")
        if self.use_linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.use_linear:
            h = self.proj_out(h)
        h = rearrange(h, "b (h w) c -> b c h w", h=height).contiguous()
        if not self.use_linear:
            h = self.proj_out(h)
        return x + h
