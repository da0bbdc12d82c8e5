"""The autoencoder in bounded memory equals the plain one."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm.modules.diffusionmodules import bounded
from ldm.modules.diffusionmodules.model import AttnBlock, Decoder, Downsample, Encoder, ResnetBlock, Upsample
from tests.support import assert_close, randn, rule_w

DDCONFIG = {
    "ch": 8,
    "out_ch": 3,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (),
    "in_channels": 3,
    "resolution": 32,
    "z_channels": 4,
    "num_groups": 4,
}
examples = settings(max_examples=30, deadline=None)
sizes = st.integers(1, 13)
tiny_budgets = st.integers(1, 4000)  # bytes: from strips of a single row to nearly the whole


def assert_same_in_strips(make, x, budget):
    """The layer gives the same with a budget of `budget` bytes as without one, and leaves its input alone."""
    plain, strips = rule_w(make(memory_budget=2**40)), rule_w(make(memory_budget=budget))
    before = x.clone()
    with torch.no_grad():
        assert_close(strips(x), plain(x), 3e-6)
    assert torch.equal(x, before)


@examples
@given(batch=st.integers(1, 2), height=sizes, width=sizes, budget=tiny_budgets, out=st.sampled_from([8, 12]))
def test_residual_block_in_strips(batch, height, width, budget, out):
    assert_same_in_strips(
        lambda **kw: ResnetBlock(in_channels=8, out_channels=out, num_groups=4, **kw),
        randn(height, (batch, 8, height, width)),
        budget,
    )


@examples
@given(height=sizes, width=sizes, budget=tiny_budgets)
def test_upsample_in_strips(height, width, budget):
    assert_same_in_strips(lambda **kw: Upsample(8, **kw), randn(1, (2, 8, height, width)), budget)


@examples
@given(height=st.integers(2, 13), width=st.integers(2, 13), budget=tiny_budgets)
def test_downsample_in_strips(height, width, budget):
    assert_same_in_strips(lambda **kw: Downsample(8, **kw), randn(1, (2, 8, height, width)), budget)


@settings(max_examples=15, deadline=None)
@given(height=sizes, width=sizes, budget=tiny_budgets)
def test_decoder_and_encoder_in_strips(height, width, budget):
    assert_same_in_strips(lambda **kw: Decoder(**DDCONFIG, **kw), randn(1, (1, 4, height, width)), budget)
    image = randn(2, (1, 3, 2 * height, 2 * width))
    assert_same_in_strips(lambda **kw: Encoder(**DDCONFIG, **kw), image, budget)


def test_strips_are_taken_and_no_larger_than_the_budget(monkeypatch):
    """The tests above would pass if the strips were never used."""
    rows, conv2d = [], F.conv2d

    def recorded(x, *args, **kwargs):
        rows.append(x.shape[2])
        return conv2d(x, *args, **kwargs)

    monkeypatch.setattr(bounded.F, "conv2d", recorded)
    block = ResnetBlock(in_channels=8, num_groups=4, memory_budget=3 * 8 * 10 * 4).eval()
    with torch.no_grad():
        block(randn(1, (1, 8, 12, 10)))
    assert rows == [5, 5, 5, 5] * 2  # three rows and the halo, for two convolutions


def test_sum_is_written_over_the_intermediate_result():
    """Not three but two activations are held at the end of a block: the input and the output."""
    conv = rule_w(nn.Conv2d(4, 4, 3, padding=1))
    h = randn(1, (1, 4, 9, 5))
    with torch.no_grad():
        expected = conv(h)
        out = bounded.strip_conv2d(bounded.rows_of(h), 9, conv, 2, out=h)
    assert out is h
    assert_close(out, expected, 1e-6)


@examples
@given(height=sizes, width=sizes, offset=st.floats(-100, 100))
def test_group_norm_from_its_statistics(height, width, offset):
    norm = rule_w(nn.GroupNorm(4, 8, eps=1e-6))
    x = randn(1, (2, 8, height, width)) + offset
    scale, shift = bounded.group_norm_affine(x, norm)
    expected = norm.double()(x.double())
    # Around an offset the input itself has only so many digits left.
    tolerance = 1e-5 * (1 + abs(offset))
    assert (x.double() * scale + shift - expected).abs().max() <= tolerance


def test_with_a_graph_nothing_changes():
    """The gradient goes the plain way: the same numbers with any budget."""
    grads = []
    for budget in (1, 2**40):
        block = rule_w(ResnetBlock(in_channels=8, num_groups=4, memory_budget=budget))
        attention = rule_w(AttnBlock(8, num_groups=4, memory_budget=budget))
        x = randn(1, (1, 8, 7, 5)).requires_grad_()
        attention(block(x)).square().sum().backward()
        grads.append([x.grad, block.conv1.weight.grad, attention.q.weight.grad])
    for strips, plain in zip(*grads, strict=True):
        assert torch.equal(strips, plain)


def test_dropout_of_training_is_not_lost_without_a_graph():
    block = ResnetBlock(in_channels=8, dropout=0.9, num_groups=4, memory_budget=1).train()
    with torch.no_grad():
        x = randn(1, (1, 8, 8, 8))
        assert not torch.equal(block(x), block(x))


@pytest.mark.parametrize("fused", [True, False])
@examples
@given(batch=st.integers(1, 2), queries=st.integers(1, 40), keys=st.integers(1, 40), budget=tiny_budgets)
def test_attention_in_chunks_is_attention(fused, batch, queries, keys, budget):
    q, k, v = randn(1, (batch, queries, 16)), randn(2, (batch, keys, 16)), randn(3, (batch, keys, 16))
    expected = (q.double() @ k.double().mT / 4).softmax(-1) @ v.double()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "has_fused_attention", lambda *_: fused)
        assert_close(bounded.bounded_attention(q, k, v, budget), expected.float(), 1e-5)


def test_attention_falls_back_to_chunks_within_the_budget():
    """Where torch has no fused kernel (MPS, or none for this width), no more scores than the budget at once."""
    q, k, v = (randn(i, (1, 64, 16)) for i in range(3))
    parts, attention = [], F.scaled_dot_product_attention

    def recorded(part, *args, **kwargs):
        parts.append(part.shape[2])
        return attention(part, *args, **kwargs)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "has_fused_attention", lambda *_: False)
        patch.setattr(bounded.F, "scaled_dot_product_attention", recorded)
        bounded.bounded_attention(q, k, v, budget=10 * 64 * 4)
    assert parts == [10, 10, 10, 10, 10, 10, 4]


def test_the_cpu_has_a_fused_kernel_for_the_widest_head():
    """has_fused_attention says so; if torch ever changes its mind, memory use would explode quietly."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        q = randn(1, (1, 1, 8, 512)).to(dtype)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            F.scaled_dot_product_attention(q, q, q)


def test_bf16_strips_are_as_close_to_fp32_as_the_plain_path():
    x = randn(1, (1, 4, 8, 8))
    with torch.no_grad():
        reference = rule_w(Decoder(**DDCONFIG))(x)
        plain, strips = (rule_w(Decoder(**DDCONFIG, memory_budget=b)).bfloat16() for b in (2**40, 1))
        assert_close(plain(x.bfloat16()).float(), reference, 0.03)
        assert_close(strips(x.bfloat16()).float(), reference, 0.03)


def test_strips_under_autocast():
    """The dtypes of the plain path: the first residual sum is fp32, because the input of the block is."""
    x = randn(1, (1, 8, 8, 8))
    plain, strips = (
        rule_w(ResnetBlock(in_channels=8, num_groups=4, memory_budget=budget)) for budget in (2**40, 1)
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, actual = plain(x), strips(x)
    assert actual.dtype == expected.dtype
    assert_close(actual, expected, 0.01)
