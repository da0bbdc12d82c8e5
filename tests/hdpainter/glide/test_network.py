"""GLIDE's networks against the public ones' layouts and outputs, and what their docstrings promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hdpainter.baselines.glide.network import GlideUNet
from hdpainter.baselines.glide.tokens import tokenize
from hdpainter.configs import read_model_config
from hdpainter.models.registry import MODELS
from ldm.checkpoint import build, dtype_for
from ldm.util import UserError
from tests.hdpainter.glide import tiny
from tests.support import golden, layout, randn, rule_w, shapes

STAGES = ("base", "upsample")


def largest_error(actual, expected) -> float:
    return (actual - expected).abs().max().item()


def run(network: GlideUNet, data, **changes):
    """The output for a golden case's inputs."""
    with torch.no_grad():
        text = network.encode_text(data["tokens"], data["mask"])
        inputs = {
            "image": data["inpaint_image"],
            "mask": data["inpaint_mask"],
            "low_res": data.get("low_res"),
        }
        return network(data["x"], data["timesteps"], text, **(inputs | changes))


@pytest.mark.parametrize(("stage", "parameters"), [("base", 385_037_638), ("upsample", 398_368_198)])
def test_full_size_network_has_the_layout_of_its_public_checkpoint(stage, parameters):
    network = build(read_model_config(MODELS / f"glide-{stage}-inpaint.yaml"))
    assert shapes(network) == layout(f"glide-{stage}-inpaint")
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert not list(network.buffers())


@pytest.mark.parametrize("stage", STAGES)
def test_the_public_networks_outputs(stage):
    case, data = golden(f"glide_{stage}_inpaint_forward")
    network = tiny.network(stage)
    assert shapes(network) == layout(f"glide-{stage}-tiny")
    with torch.no_grad():
        text = network.encode_text(data["tokens"], data["mask"])
    outputs = {
        "xf_proj": text.time,
        "xf_out": text.tokens,
        "output": run(network, data),
        "output_no_inpaint_inputs": run(network, data, image=None, mask=None),
    }
    for name, output in outputs.items():
        tolerance = case["tolerance"]
        torch.testing.assert_close(output, data[name], atol=tolerance["abs"], rtol=tolerance["rel"])
        assert largest_error(output, data[name]) < 2e-5  # what rounding is seen to do


@pytest.mark.parametrize("stage", STAGES)
def test_pixels_that_are_to_be_filled_are_not_seen(stage):
    _, data = golden(f"glide_{stage}_inpaint_forward")
    network, image, known = tiny.network(stage), data["inpaint_image"], data["inpaint_mask"]
    assert 0 < known.float().mean() < 1
    hidden, seen = (image + where * randn(1, image.shape) for where in (1 - known, known))
    expected = run(network, data)
    assert torch.equal(run(network, data, image=hidden), expected)
    assert largest_error(run(network, data, image=seen), expected) > 0.01


@given(seed=st.integers(0, 999), words=st.integers(0, 12))
@settings(max_examples=10, deadline=None)
def test_padding_has_embeddings_of_its_own(seed, words):
    network = tiny.network("base")
    ids, mask = tokenize(["a kite " * 20], 12)
    mask[:, words:] = False
    other = torch.where(
        mask, ids, torch.randint(0, 50257, ids.shape, generator=torch.Generator().manual_seed(seed))
    )
    with torch.no_grad():
        for one, two in zip(network.encode_text(ids, mask), network.encode_text(other, mask), strict=True):
            assert torch.equal(one, two)


@given(
    stage=st.sampled_from(STAGES),
    rows=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    height=st.integers(2, 4),
    width=st.integers(2, 4),
)
@settings(max_examples=10, deadline=None)
def test_pictures_of_a_batch_are_independent_and_of_any_size_that_the_levels_divide(
    stage, rows, height, width
):
    network = tiny.network(stage)
    size = (4 * height, 4 * width)
    data = {
        "x": randn(1, (3, 3, *size)),
        "inpaint_image": randn(2, (3, 3, *size)),
        "inpaint_mask": (randn(3, (3, 1, *size)) > 0).float(),
        "low_res": randn(4, (3, 3, *size))[..., ::4, ::4] if stage == "upsample" else None,
        "timesteps": torch.tensor([0, 500, 999]),
    }
    data["tokens"], data["mask"] = tokenize(["a kite", "", "two boats"], 12)
    whole = run(network, data)
    some = run(network, {name: part if part is None else part[rows] for name, part in data.items()})
    assert some.shape == (len(rows), 6, *size)
    assert largest_error(some, whole[rows]) < 1e-5
    if stage == "upsample":
        with pytest.raises(UserError, match="needs low_res"):
            run(network, data | {"low_res": None})


def test_each_epsilon_and_the_text_before_the_pixels():
    """On inputs of size 1e-3 the norms' epsilons matter; on keys in another order nothing may."""
    network = tiny.network("base")
    attention = next(module for module in network.modules() if hasattr(module, "encoder_kv"))
    channels = attention.norm.num_channels
    x, text = 1e-3 * randn(1, (2, channels, 3, 5)), randn(2, (2, 64, 12))
    h = nn.functional.group_norm(x, 32, attention.norm.weight, attention.norm.bias, 1e-5).flatten(2)
    qkv, kv = attention.qkv(h), attention.encoder_kv(text)
    out = []
    for head in range(channels // 16):
        q, k, v = qkv[:, 48 * head : 48 * head + 48].chunk(3, dim=1)
        text_k, text_v = kv[:, 32 * head : 32 * head + 32].chunk(2, dim=1)
        weights = torch.softmax(q.mT @ torch.cat([text_k, k], dim=2) / 4, dim=-1)
        out.append(torch.cat([text_v, v], dim=2) @ weights.mT)
    expected = x + attention.proj_out(torch.cat(out, dim=1)).view_as(x)
    assert largest_error(attention(x, text), expected) < 1e-5


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 0.004), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_is_close_and_leaves_what_it_must(stage, dtype, rounding):
    _, data = golden(f"glide_{stage}_inpaint_forward")
    network = rule_w(GlideUNet(**tiny.config(stage)))
    policy = network.dtype_policy(dtype)
    expected = run(network, data)
    for name, parameter in network.named_parameters():
        parameter.data = parameter.to(dtype_for(policy, name, parameter))
    cast = {name for name, parameter in network.named_parameters() if parameter.dtype == dtype}
    for name in (
        "token_embedding.weight",
        "transformer.resblocks.1.mlp.c_fc.bias",
        "transformer_proj.weight",
    ):
        assert name in cast
    assert {name for name, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)} == {
        name.removesuffix(".weight") for name in cast if network.get_parameter(name).ndim in (3, 4)
    } | {"out.2"}
    assert not [
        name
        for name in cast
        if "norm" in name
        or "emb_layers" in name
        or "time_embed" in name
        or name.startswith(("final_ln", "out.", "positional", "padding"))
    ]
    assert not [
        name for name in cast if isinstance(network.get_submodule(name.rpartition(".")[0]), nn.GroupNorm)
    ]
    output = run(network, data)
    assert output.dtype == torch.float32
    assert largest_error(output, expected) < rounding * expected.abs().max()
