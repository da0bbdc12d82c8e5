"""The UNet, its transformers and the autoencoder against the original's outputs and their own definitions."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.models.autoencoder import AutoencoderKL
from ldm.modules.attention import (
    BasicTransformerBlock,
    CrossAttention,
    FeedForward,
    MemoryEfficientCrossAttention,
    SpatialTransformer,
    attention,
)
from ldm.modules.diffusionmodules.model import Decoder, Encoder, ResnetBlock
from ldm.modules.diffusionmodules.openaimodel import UNetModel, UNetState
from ldm.modules.diffusionmodules.util import GroupNorm32, checkpoint
from ldm.util import UserError, get_obj_from_str
from tests.support import assert_close, golden, randn, rule_w

TINY_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 16,
    "num_res_blocks": 1,
    "attention_resolutions": [1, 2],
    "channel_mult": [1, 2],
    "num_head_channels": 8,
    "context_dim": 12,
    "use_linear_in_transformer": True,
    "num_groups": 4,
}


def tiny_unet(**changes) -> UNetModel:
    return rule_w(UNetModel(**{**TINY_UNET, **changes}))


def tiny_inputs(batch=2, height=8, width=8, channels=4):
    return (
        randn(1, (batch, channels, height, width)),
        torch.linspace(10, 990, batch),
        randn(2, (batch, 7, 12)),
    )


def given_input(rule):
    x = randn(rule["seed"], rule["shape"])
    x = 1e-3 * x if rule["rule"].startswith("1e-3") else x
    return x.clamp(-1, 1) if "clamp" in rule["rule"] else x


# --- the original's outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet_inpaint", "unet_upscaler", "unet_sd1"])
@torch.no_grad()
def test_unet_equals_the_original(name):
    case, tensors = golden(name)
    inputs = case["inputs"]
    model = rule_w(UNetModel(**case["config"]))
    assert len(model.state_dict()) == case["n_keys"]
    assert sum(p.numel() for p in model.parameters()) == case["n_params"]
    y = None if inputs["y"] is None else torch.tensor(inputs["y"])
    context, timesteps = given_input(inputs["context"]), torch.tensor(inputs["timesteps"])
    out = model(given_input(inputs["x"]), timesteps, context, y)
    assert_close(out, tensors["out"], case["tolerance"]["rel_to_absmax"])


@pytest.mark.parametrize("name", ["vae_f8", "vae_f4"])
@torch.no_grad()
def test_autoencoder_equals_the_original(name):
    case, tensors = golden(name)
    model = rule_w(AutoencoderKL(**case["config"]))
    assert len(model.state_dict()) == case["n_keys"]
    posterior = model.encode(given_input(case["inputs"]["x"]))
    outputs = {
        "mean": posterior.mode(),
        "logvar": posterior.logvar,
        "kl": posterior.kl(),
        "decoded": model.decode(given_input(case["inputs"]["z"])),
    }
    for key, out in outputs.items():
        assert_close(out, tensors[key], case["tolerance"]["rel_to_absmax"])


@pytest.mark.parametrize(
    "name",
    [
        "spatial_transformer_linear",
        "spatial_transformer_conv_noself",
        "transformer_block",
        "unet_resblock",
        "vae_resnetblock",
        "vae_attnblock",
        "vae_downsample",
        "vae_upsample",
    ],
)
@torch.no_grad()
def test_tiny_inputs_show_the_right_epsilon_in_every_layer(name):
    case, tensors = golden(f"micro_{name}")
    layer = rule_w(get_obj_from_str(case["target"])(**case["config"]))
    out = layer(*[given_input(rule) for rule in case["inputs"].values() if rule is not None])
    assert_close(out, tensors["out"], case["tolerance"]["rel_to_absmax"])


# --- attention ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 4), tokens=st.integers(1, 20), others=st.integers(1, 20), with_context=st.booleans()
)
def test_attention_is_its_equation(heads, tokens, others, with_context):
    attention = rule_w(CrossAttention(12, 10 if with_context else None, heads=heads, dim_head=6))
    x, context = randn(1, (2, tokens, 12)), randn(2, (2, others, 10)) if with_context else None
    source = x if context is None else context
    q = attention.to_q(x).reshape(2, tokens, heads, 6)
    k, v = (layer(source).reshape(2, -1, heads, 6) for layer in (attention.to_k, attention.to_v))
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * attention.scale).softmax(-1)
    expected = torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(2, tokens, heads * 6)
    assert_close(attention(x, context), attention.to_out(expected), 1e-5)
    assert torch.equal(
        attention(x, context), attention.to_out(attention.attend(*attention.project(x, context)))
    )


@given(heads=st.integers(1, 3), tokens=st.integers(1, 20), others=st.integers(2, 20), fused=st.booleans())
@settings(max_examples=25, deadline=None)
def test_both_ways_of_attending_have_the_same_gradients(heads, tokens, others, fused):
    q, k, v = (
        randn(seed, (2, heads, n, 6)).double().requires_grad_()
        for seed, n in enumerate((tokens, others, others))
    )
    with pytest.MonkeyPatch.context() as patch:
        if fused:
            patch.setattr("ldm.modules.attention.PLAIN_SCORES", 0)
        out = attention(q, k, v, scale=0.3)
    expected = torch.einsum("bhnm,bhmd->bhnd", (0.3 * torch.einsum("bhnd,bhmd->bhnm", q, k)).softmax(-1), v)
    direction = randn(3, out.shape).double()
    gradients = torch.autograd.grad((out * direction).sum(), (q, k, v))
    for ours, theirs in zip(
        gradients, torch.autograd.grad((expected * direction).sum(), (q, k, v)), strict=True
    ):
        assert_close(ours, theirs, 1e-6)


def test_xformers_name_is_the_same_class():
    assert MemoryEfficientCrossAttention is CrossAttention


@torch.no_grad()
def test_transformer_block_can_be_steered_on_the_instance():
    """What PAIntA and RASG rely on: replacing `self_attention` and `attn2.attend` of one block takes effect."""
    block = rule_w(BasicTransformerBlock(16, 2, 8, context_dim=12))
    x, context = randn(1, (1, 9, 16)), randn(2, (1, 7, 12))
    plain = block(x, context)
    block.self_attention = lambda x, context: torch.zeros_like(x)
    without = block(x, context)
    assert_close(without, block._forward(x, context), 0)
    assert not torch.allclose(plain, without)
    block.attn2.attend = lambda q, k, v: torch.zeros_like(q)
    h = x + block.attn2.to_out(torch.zeros(1, 9, 16))
    assert_close(block(x, context), h + block.ff(block.norm3(h)), 1e-6)


def test_disabled_self_attention_looks_at_the_context():
    block = rule_w(BasicTransformerBlock(16, 2, 8, context_dim=12, disable_self_attn=True))
    assert block.attn1.to_k.in_features == 12
    x, context = randn(1, (1, 9, 16)), randn(2, (1, 7, 12))
    assert not torch.allclose(block.self_attention(x, context), block.self_attention(x, 2 * context))
    # No token sees another one: the first output depends on the first input only.
    other = torch.cat([x[:, :1], randn(3, (1, 8, 16))], dim=1)
    assert_close(block(other, context)[:, :1], block(x, context)[:, :1], 1e-6)


@torch.no_grad()
def test_linear_and_convolutional_transformers_compute_the_same():
    linear = rule_w(SpatialTransformer(16, 2, 8, depth=2, context_dim=12, use_linear=True, num_groups=4))
    conv = SpatialTransformer(16, 2, 8, depth=2, context_dim=12, use_linear=False, num_groups=4)
    shapes = conv.state_dict()
    conv.load_state_dict({key: w.reshape(shapes[key].shape) for key, w in linear.state_dict().items()})
    x, context = randn(1, (2, 16, 3, 5)), randn(2, (2, 7, 12))
    assert_close(conv.eval()(x, context), linear(x, context), 1e-5)
    assert linear(x, context).is_contiguous()


def test_transformer_and_unet_start_as_the_identity_and_zero():
    x, context = randn(1, (1, 16, 4, 4)), randn(2, (1, 7, 12))
    assert torch.equal(SpatialTransformer(16, 2, 8, context_dim=12, num_groups=4)(x, context), x)
    assert not UNetModel(**TINY_UNET)(*tiny_inputs()).any()


def test_feed_forward_without_gate_is_a_perceptron():
    ff = rule_w(FeedForward(6, dim_out=4, mult=2))
    (first, _), _, last = ff.net
    x = randn(1, (3, 6))
    assert first.out_features == 12
    assert_close(ff(x), last(F.gelu(first(x))), 1e-6)


# --- the UNet in parts -------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    stops=st.lists(st.integers(0, 9), max_size=4).map(sorted),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
)
@torch.no_grad()
def test_stages_compose_to_the_whole(stops, height, width):
    model = tiny_unet()
    inputs = tiny_inputs(height=2 * height, width=2 * width)
    assert len(model.stages) == len(model.stage_factors) == 9
    state = model.begin(*inputs)
    for stop in stops:
        state = model.advance(state, stop)
        assert state.next_stage == stop
    assert torch.equal(model.finish(model.advance(state)), model(*inputs))


@torch.no_grad()
def test_states_join_along_the_batch():
    model = tiny_unet()
    x, t, context = tiny_inputs(batch=3)
    first = model.advance(model.begin(x[:1], t[:1], context[:1]), 4)
    rest = model.advance(model.begin(x[1:], t[1:], context[1:]), 4)
    joined = UNetState.cat([first, rest])
    assert_close(model.finish(model.advance(joined)), model(x, t, context), 1e-5)
    with pytest.raises(ValueError, match="values to unpack"):
        UNetState.cat([first, model.advance(rest, 5)])


def test_detached_state_has_no_graph():
    model = tiny_unet()
    state = model.advance(model.begin(*tiny_inputs()), 4)
    detached = state.detach()
    for name in ("h", "emb", "context"):
        assert not getattr(detached, name).requires_grad
        assert torch.equal(getattr(detached, name), getattr(state, name))
    assert state.h.requires_grad and len(detached.skips) == len(state.skips) > 0
    assert not any(skip.requires_grad for skip in detached.skips)


@pytest.mark.parametrize("num_res_blocks", [1, 2, [1, 2, 1]])
@torch.no_grad()
def test_stage_factors_are_those_at_which_the_transformers_run(num_res_blocks):
    model = tiny_unet(num_res_blocks=num_res_blocks, channel_mult=[1, 1, 2], attention_resolutions=[1, 2, 4])
    factors = []
    for stage, factor in zip(model.stages, model.stage_factors, strict=True):
        for layer in stage:
            if isinstance(layer, SpatialTransformer):
                layer.register_forward_pre_hook(
                    lambda _, args, f=factor: factors.append((f, args[0].shape[2]))
                )
    model(*tiny_inputs(height=16, width=8))
    assert factors and all(height == 16 // factor for factor, height in factors)


def test_per_level_settings():
    model = tiny_unet(
        num_res_blocks=2,
        attention_resolutions=[1, 2],
        num_attention_blocks=[2, 1],
        disable_self_attentions=[True, False],
        disable_middle_self_attn=True,
    )

    def cross_only(stage):
        return [
            layer.transformer_blocks[0].disable_self_attn
            for layer in stage
            if isinstance(layer, SpatialTransformer)
        ]

    assert [cross_only(s) for s in model.input_blocks] == [[], [True], [True], [], [False], []]
    assert cross_only(model.middle_block) == [True]
    assert [cross_only(s) for s in model.output_blocks] == [[False], [], [], [True], [True], []]


@torch.no_grad()
def test_continuous_class_embedding():
    model = tiny_unet(num_classes="continuous")
    inputs = tiny_inputs()
    low, high = (model(*inputs, y=torch.full((2, 1), level)) for level in (0.0, 1.0))
    assert low.shape == high.shape == inputs[0].shape and not torch.allclose(low, high)
    with pytest.raises(UserError, match="num_classes: give it y"):
        model(*inputs)


def test_configurations_without_a_meaning_are_told():
    for changes, message in [
        ({"num_head_channels": -1}, "set num_heads or num_head_channels"),
        ({"use_spatial_transformer": False}, "use_spatial_transformer"),
        ({"context_dim": None}, "context_dim"),
        ({"disable_self_attentions": [True]}, "disable_self_attentions needs 2 entries"),
    ]:
        with pytest.raises(UserError, match=message):
            UNetModel(**{**TINY_UNET, **changes})


# --- memory, dtypes, memory formats ------------------------------------------------------------------------


def test_checkpointing_changes_no_gradient():
    gradients = []
    for use_checkpoint in (True, False):
        model = tiny_unet(use_checkpoint=use_checkpoint).train()
        x, t, context = tiny_inputs()
        model(x.requires_grad_(), t, context).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in model.parameters())])
    for recomputed, kept in zip(*gradients, strict=True):
        assert_close(recomputed, kept, 1e-6)


@pytest.mark.parametrize(("training", "runs"), [(True, 2), (False, 1)])
def test_checkpointing_recomputes_in_training_only(training, runs):
    block = BasicTransformerBlock(16, 2, 8, context_dim=12, checkpoint=True).train(training)
    calls = []
    block.attn1.register_forward_hook(lambda *_: calls.append(1))
    block(randn(1, (1, 4, 16)).requires_grad_(), randn(2, (1, 7, 12))).sum().backward()
    assert len(calls) == runs


def test_checkpoint_without_a_graph_just_runs():
    with torch.no_grad():
        assert checkpoint(torch.add, torch.ones(1), torch.ones(1), enabled=True) == 2


@pytest.mark.parametrize("name", ["unet_inpaint", "unet_upscaler"])
@torch.no_grad()
def test_bf16_is_close_to_fp32(name):
    """As autocast and as the dtype of the weights. One rounding is 2e-3."""
    case, tensors = golden(name)
    inputs = case["inputs"]
    model = rule_w(UNetModel(**case["config"]))
    y = None if inputs["y"] is None else torch.tensor(inputs["y"])
    args = given_input(inputs["x"]), torch.tensor(inputs["timesteps"]), given_input(inputs["context"]), y
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(*args)
    weights = model.bfloat16()(*args)
    for out in (autocast, weights):
        assert out.dtype == torch.float32 and out.isfinite().all()
        assert_close(out, tensors["out"], 0.03)


@torch.no_grad()
def test_fp16_is_close_to_fp32():
    """One rounding is 2.4e-4."""
    model, inputs = tiny_unet(), tiny_inputs()
    expected = model(*inputs)
    with torch.autocast("cpu", torch.float16):
        autocast = model(*inputs)
    for out in (autocast, model.half()(*inputs)):
        assert out.dtype == torch.float32
        assert_close(out, expected, 0.004)


@torch.no_grad()
def test_autoencoder_in_bf16_is_close_to_fp32():
    case, tensors = golden("vae_f4")
    model = rule_w(AutoencoderKL(**case["config"]))
    z = given_input(case["inputs"]["z"])
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model.decode(z).float()
    assert_close(autocast, tensors["decoded"], 0.03)
    assert_close(model.bfloat16().decode(z.bfloat16()).float(), tensors["decoded"], 0.03)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_of_large_half_values_does_not_overflow(dtype, memory_format):
    """The sum of the squares is 1e15, fp16 ends at 65504."""
    x = (1000 * randn(1, (1, 8, 64, 64)) + 30000).to(dtype).contiguous(memory_format=memory_format)
    norm = GroupNorm32(2, 8)
    expected = F.group_norm(x.double(), 2)
    tolerance = 2 * torch.finfo(dtype).eps * expected.abs().max()
    for weights in (torch.float32, dtype):
        out = norm.to(weights)(x)
        assert out.dtype == dtype
        assert (out.double() - expected).abs().max() <= tolerance


def test_group_norm_of_channels_last_flat_areas_is_exact():
    """Torch's own CPU kernel is off by 0.07 here."""
    x = (1e-3 * randn(1, (1, 64, 64, 64)) + 100).contiguous(memory_format=torch.channels_last)
    expected = F.group_norm(x.contiguous().double(), 32).float()
    assert_close(GroupNorm32(32, 64)(x), expected, 2e-3)
    assert torch.equal(GroupNorm32(32, 64)(x), GroupNorm32(32, 64)(x.contiguous()))


# --- the autoencoder's options -----------------------------------------------------------------------------


@torch.no_grad()
def test_attention_at_chosen_resolutions():
    config = {
        "ch": 8,
        "out_ch": 3,
        "ch_mult": (1, 2, 2),
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "in_channels": 3,
        "resolution": 32,
        "z_channels": 4,
        "num_groups": 4,
    }
    encoder, decoder = rule_w(Encoder(**config)), rule_w(Decoder(**config))
    keys = {
        key.rsplit(".", 2)[0] for model in (encoder, decoder) for key in model.state_dict() if "attn." in key
    }
    assert keys == {"down.1.attn.0", "down.1.attn.1", "up.1.attn.0", "up.1.attn.1", "up.1.attn.2"}
    moments = encoder(randn(1, (2, 3, 32, 16)))
    assert moments.shape == (2, 8, 8, 4)
    assert decoder(moments[:, :4]).shape == (2, 3, 32, 16)
    assert Encoder(**config, double_z=False)(randn(1, (1, 3, 16, 16))).shape[1] == 4


@pytest.mark.parametrize("model", [Encoder, Decoder])
def test_resampling_without_convolutions(model):
    config = {"ch": 8, "out_ch": 3, "ch_mult": (1, 2), "num_res_blocks": 1, "in_channels": 3, "resolution": 8}
    network = model(**config, z_channels=4, resamp_with_conv=False, num_groups=4)
    assert not any("sample" in key for key in network.state_dict())
    x = randn(1, (1, 3 if model is Encoder else 4, 8, 8))
    assert network(x).shape[-1] == (4 if model is Encoder else 16)


def test_residual_block_adds_the_embedding():
    block = rule_w(ResnetBlock(in_channels=8, temb_channels=5, num_groups=4))
    x = randn(1, (2, 8, 4, 4))
    assert isinstance(block.temb_proj, nn.Linear)
    assert not torch.allclose(block(x, randn(2, (2, 5))), block(x, randn(3, (2, 5))))
