"""The autoencoder's largest layers in bounded memory, with the result of the plain computation.

At 2048 x 2048 one activation of the decoder takes gigabytes, and a residual block makes half a dozen of
them; the scores of its attention would take 256 GiB. Tiling the image would change the result, because
GroupNorm and attention see all of it. Here the statistics are taken over the whole activation first, and the
convolution then runs over horizontal strips that overlap by its kernel: equal up to rounding, with no seam.

Meant for inference: nothing here records what a backward pass would need.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda as cuda_backend

# Bytes that one strip of an activation may take, or one chunk of attention scores; working memory is a few
# times that. The largest activation of a 512 x 512 image in SD's autoencoder, in fp32, just fits: no strips.
BUDGET = 256 * 2**20


def rows_within(budget: int, batch: int, channels: int, height: int, width: int) -> int:
    """How many rows of an activation [batch, channels, height, width] fit in `budget` bytes: 1 ... height.

    Four bytes to a value whatever the dtype, because a strip is normalised in fp32.
    """
    return min(height, max(1, budget // (batch * channels * width * 4)))


def group_norm_affine(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """GroupNorm as x * scale + shift: the fp32 scale and shift [B, C, 1, 1] for x [B, C, H, W].

    Group by group and in two passes (mean, then squared deviations): exact in fp32 for half input as well,
    with one group in fp32 as the only temporary.
    """
    means, variances = [], []
    for group in x.chunk(norm.num_groups, dim=1):
        group = group.float()
        mean = group.mean(dim=(1, 2, 3), keepdim=True)
        variances.append((group - mean).square_().mean(dim=(1, 2, 3), keepdim=True))
        means.append(mean)
    channels_per_group = norm.num_channels // norm.num_groups
    mean = torch.cat(means, dim=1).repeat_interleave(channels_per_group, dim=1)
    variance = torch.cat(variances, dim=1).repeat_interleave(channels_per_group, dim=1)
    scale = norm.weight.float()[:, None, None] * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias.float()[:, None, None] - mean * scale


def rows_of(x: Tensor) -> Callable[[int, int], Tensor]:
    """rows(a, b) -> rows a ... b of x."""
    return lambda a, b: x[:, :, a:b]


def norm_swish_rows(x: Tensor, norm: nn.GroupNorm) -> Callable[[int, int], Tensor]:
    """rows(a, b) -> rows a ... b of swish(norm(x))."""
    scale, shift = group_norm_affine(x, norm)

    def rows(a: int, b: int) -> Tensor:
        y = (x[:, :, a:b] * scale).add_(shift)  # in fp32, like scale and shift
        return F.silu(y, inplace=True).to(x.dtype)

    return rows


def upsampled_rows(x: Tensor) -> Callable[[int, int], Tensor]:
    """rows(a, b) -> rows a ... b of x enlarged twofold by nearest neighbour."""

    def rows(a: int, b: int) -> Tensor:
        first = a // 2
        y = F.interpolate(x[:, :, first : (b + 1) // 2], scale_factor=2.0, mode="nearest")
        return y[:, :, a - 2 * first : b - 2 * first]

    return rows


def strip_conv2d(
    rows: Callable[[int, int], Tensor],
    height: int,
    conv: nn.Conv2d,
    strip: int,
    *,
    padding: tuple[int, int, int, int] | None = None,
    residual: Callable[[int, int], Tensor] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """conv applied to an input that exists only as strips, `strip` output rows at a time: [B, C_out, H', W'].

    rows(a, b)      rows a ... b of the convolution's input, 0 <= a < b <= height
    padding         zeros (left, right, top, bottom) around the input; the convolution's own by default
    residual(a, b)  rows a ... b of what is added to the result
    out             where to write; it may be the tensor that `rows` reads from, if shape and dtype agree:
                    a strip is read before the one above it is written
    """
    assert not isinstance(conv.padding, str), "padding by name"
    vertical, horizontal = conv.padding
    left, right, top, bottom = padding or (horizontal, horizontal, vertical, vertical)
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    out_height = (height + top + bottom - kernel) // stride + 1

    def strips() -> Iterator[tuple[int, int, Tensor]]:
        for a in range(0, out_height, strip):
            b = min(a + strip, out_height)
            first, last = a * stride - top, (b - 1) * stride + kernel - top
            inside = rows(max(first, 0), min(last, height))
            yield a, b, F.pad(inside, (left, right, max(-first, 0), max(last - height, 0)))

    source = strips()
    ahead = next(source, None)
    while ahead is not None:
        (a, b, x), ahead = ahead, next(source, None)
        y = F.conv2d(x, conv.weight, conv.bias, conv.stride)
        if residual is not None:
            y = y + residual(a, b)
        if out is None:
            out = y.new_empty(y.shape[0], y.shape[1], out_height, y.shape[3])
        out[:, :, a:b] = y
    assert out is not None, "no rows"
    return out


def has_fused_attention(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch has a kernel for these [B, heads, N, C] that never holds all the scores."""
    if q.device.type == "cuda":
        # The flash kernels stop at a head width of 256; the memory-efficient one takes any.
        return cuda_backend.can_use_efficient_attention(
            cuda_backend.SDPAParams(q, k, v, None, 0.0, False, False)
        )
    return q.device.type == "cpu"


def bounded_attention(q: Tensor, k: Tensor, v: Tensor, budget: int = BUDGET) -> Tensor:
    """softmax(q kᵀ / sqrt(C)) v for one head, q [B, N, C], k and v [B, M, C] -> [B, N, C].

    By a fused kernel where there is one, else over chunks of queries whose fp32 scores fit in `budget` bytes.
    """
    q, k, v = (t.unsqueeze(1) for t in (q, k, v))
    chunk = max(1, budget // (k.shape[0] * k.shape[2] * 4))
    if torch.is_grad_enabled() or chunk >= q.shape[2] or has_fused_attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v).squeeze(1)
    out = torch.empty_like(q)
    for part, result in zip(q.split(chunk, dim=2), out.split(chunk, dim=2), strict=True):
        result.copy_(F.scaled_dot_product_attention(part, k, v))
    return out.squeeze(1)
