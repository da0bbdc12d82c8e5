"""PAIntA against the golden data of the authors' release and against Eq. 5 on full matrices."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from benchmarks.oracles import FullMatrixPAIntA
from hdpainter.painta import PAIntA, normalize
from hdpainter.settings import PAIntASettings
from hdpainter.tensors import pyramid
from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from ldm.util import UserError
from tests.support import assert_close, cases, golden, randn, rule_w

RELEASE = PAIntASettings(query="after_self_attention", smoothing=0.5, until=500)
NO_SMOOTHING = PAIntASettings(query="after_self_attention")
PORT = PAIntASettings(query="port", smoothing=0.5, until=499)
PAPER = PAIntASettings()

SMALL_UNET = {
    "image_size": 16,
    "in_channels": 9,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [1, 2, 4],
    "num_res_blocks": 1,
    "channel_mult": [1, 1, 2],
    "num_heads": 2,
    "transformer_depth": 1,
    "context_dim": 16,
}


def box_mask(size, boxes) -> np.ndarray:
    mask = np.zeros(size, bool)
    for y0, y1, x0, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def release_masks(case) -> dict[int, torch.Tensor]:
    mask = box_mask(case["image_hw"], case["mask_boxes_y0y1x0x1"])
    return {factor // 8: m for factor, m in pyramid([mask], [8, 16, 32], "bicubic>0.5").items()}


@pytest.fixture(scope="module")
def small_unet():
    return rule_w(UNetModel(**SMALL_UNET))


@pytest.mark.parametrize("level", [16, 32])
def test_block_equals_the_release(level):
    case, expected = golden(f"painta_block_res{level}")
    config = {key: value for key, value in case["config"].items() if key != "gated_ff"}
    block = rule_w(BasicTransformerBlock(**config, checkpoint=False))
    # A UNet whose only transformer is the block: levels and batches then work as in a whole one.
    unet = _unet_around(block)
    x, context = (randn(case["inputs"][k]["seed"], case["inputs"][k]["shape"]) for k in ("x", "context"))
    mask = expected["mask"][None, None].float()
    tol = case["tolerance"]["rel_to_absmax"]

    def run(variant, rows=slice(None)):
        with torch.no_grad(), PAIntA(unet, {1: mask}, [case["token_idx"]], [1], variant) as painta:
            unet.begin(torch.zeros(1, 4, 8, 8), torch.tensor([999]), context)
            out = block(x[rows], context[rows])
        return out, painta.c[(0, 1)][0]

    out, c = run(RELEASE)
    assert_close(out, expected["out_official"], tol)
    torch.testing.assert_close(c, expected["c_official"], atol=1e-5, rtol=0)
    out, c = run(NO_SMOOTHING)
    assert_close(out, expected["out_nosmooth"], tol)
    torch.testing.assert_close(c, expected["c_nosmooth"], atol=1e-5, rtol=0)
    out, c = run(PAPER, slice(1, 2))
    assert_close(out, expected["out_nosmooth_q_norm1_x"], tol)
    torch.testing.assert_close(c, expected["c_nosmooth_q_norm1_x"], atol=1e-5, rtol=0)


def _unet_around(block):
    unet = UNetModel(**{**SMALL_UNET, "in_channels": 4})
    unet.input_blocks = torch.nn.ModuleList([torch.nn.Sequential(block)])
    unet.middle_block = torch.nn.Identity()
    unet.output_blocks = torch.nn.ModuleList()
    unet.stage_factors = [1, 1]
    return unet


@pytest.mark.parametrize("name", ["painta_unet", "painta_unet_sd1"])
def test_whole_unet_equals_the_release(name):
    case, expected = golden(name)
    unet = rule_w(UNetModel(**case["config"]))
    masks = release_masks(case)
    assert torch.equal(masks[1][0, 0], expected["mask64"].float())
    inputs = case["inputs"]
    latent = randn(inputs["zt"]["seed"], inputs["zt"]["shape"])
    masked = 0.8 * randn(inputs["masked_latent"]["seed"], inputs["masked_latent"]["shape"])
    context = randn(inputs["context"]["seed"], inputs["context"]["shape"])
    x = torch.cat([latent, masks[1], masked], dim=1).repeat(2, 1, 1, 1)
    t = torch.full((2,), case["timestep"])
    variants = {"eps_official": RELEASE, "eps_nosmooth": NO_SMOOTHING}
    with torch.no_grad():
        for key, variant in variants.items():
            if key in expected:
                with PAIntA(unet, masks, [case["token_idx"]], (2, 4), variant):
                    out = unet(x, t, context)
                assert_close(out, expected[key], case["tolerance"]["rel_to_absmax"])
        if "eps_plain" in expected:
            assert_close(unet(x, t, context), expected["eps_plain"], case["tolerance"]["rel_to_absmax"])


@st.composite
def problems(draw):
    """A batch of images with masks of every kind, prompts of different lengths, sizes that are not square."""
    height, width = draw(st.sampled_from([8, 12, 16])), draw(st.sampled_from([8, 12, 20]))
    batch = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = []
    for kind in draw(
        st.lists(st.sampled_from(["random", "empty", "full", "pixel"]), min_size=batch, max_size=batch)
    ):
        mask = np.zeros((height, width), bool)
        if kind == "random":
            mask = rng.random((height, width)) < rng.random()
        elif kind == "full":
            mask[:] = True
        elif kind == "pixel":
            mask[rng.integers(height), rng.integers(width)] = True
        masks.append(mask)
    tokens = [draw(st.lists(st.integers(1, 8), min_size=1, max_size=5, unique=True)) for _ in range(batch)]
    mask = torch.tensor(np.stack(masks))[:, None].float()
    return (
        mask,
        tokens,
        draw(st.sampled_from([PAPER, NO_SMOOTHING, RELEASE, PORT])),
        draw(st.integers(0, 1000)),
    )


def unet_inputs(mask, seed, halves=2):
    batch, _, height, width = mask.shape
    x = torch.cat(
        [randn(seed, (batch, 4, height, width)), mask, randn(seed + 1, (batch, 4, height, width))], 1
    )
    context = randn(seed + 2, (halves * batch, 9, SMALL_UNET["context_dim"]))
    return x.repeat(halves, 1, 1, 1), torch.full((halves * batch,), 801), context


def levels_of(mask, levels):
    return {f: torch.nn.functional.interpolate(mask, scale_factor=1 / f, mode="nearest") for f in levels}


@settings(max_examples=25, deadline=None)
@given(problems())
def test_two_fused_attentions_equal_eq_5(small_unet, problem):
    mask, tokens, variant, seed = problem
    inputs, levels = unet_inputs(mask, seed), (1, 2)
    with torch.no_grad():
        with PAIntA(small_unet, mask, tokens, levels, variant):
            fast = small_unet(*inputs)
        with FullMatrixPAIntA(small_unet, levels_of(mask, levels), tokens, levels, variant):
            plain = small_unet(*inputs)
    assert_close(fast, plain, 2e-5)


@settings(max_examples=10, deadline=None)
@given(problems())
def test_gradients_equal_those_of_eq_5(small_unet, problem):
    mask, tokens, variant, seed = problem
    (x, t, context), levels = unet_inputs(mask, seed), (2,)
    grads = []
    for cls, masks in ((PAIntA, mask), (FullMatrixPAIntA, levels_of(mask, levels))):
        leaf = x.clone().requires_grad_()
        with cls(small_unet, masks, tokens, levels, variant):
            small_unet(leaf, t, context).square().sum().backward()
        grads.append(leaf.grad)
    assert_close(grads[0], grads[1], 1e-4)


@settings(max_examples=10, deadline=None)
@given(problems())
def test_halves_apart_equal_one_batch(small_unet, problem):
    mask, tokens, variant, seed = problem
    x, t, context = unet_inputs(mask, seed)
    n = len(mask)
    with torch.no_grad(), PAIntA(small_unet, mask, tokens, (1, 2), variant) as painta:
        both = small_unet(x, t, context)
        cond = small_unet(x[n:], t[n:], context[n:])
        with painta.unconditional():
            uncond = small_unet(x[:n], t[:n], context[:n])
        following = small_unet(-x, t, context)  # its c is its own again
    assert_close(torch.cat([uncond, cond]), both, 2e-5)
    with torch.no_grad(), PAIntA(small_unet, mask, tokens, (1, 2), variant):
        assert torch.equal(small_unet(-x, t, context), following)


@settings(max_examples=10, deadline=None)
@given(problems())
def test_a_batch_equals_its_images_one_by_one(small_unet, problem):
    mask, tokens, variant, seed = problem
    x, t, context = unet_inputs(mask, seed)
    n = len(mask)
    with torch.no_grad():
        with PAIntA(small_unet, mask, tokens, (1, 2), variant):
            batch = small_unet(x, t, context)
        for i in range(n):
            with PAIntA(small_unet, mask[i : i + 1], tokens[i : i + 1], (1, 2), variant):
                single = small_unet(x[[i, n + i]], t[:2], context[[i, n + i]])
            assert_close(batch[[i, n + i]], single, 2e-5)


@settings(deadline=None)
@given(
    arrays(np.float32, array_shapes(min_dims=1, max_dims=3, max_side=9), elements=st.floats(-4, 4, width=32))
)
def test_normalize_is_its_formula(c):
    lower_middle = np.sort(c)[..., (c.shape[-1] - 1) // 2, None]
    most = c.max(-1, keepdims=True)
    assume((most != 0).all())
    expected = np.clip((c - lower_middle) / most, 0, 1)
    np.testing.assert_allclose(normalize(torch.from_numpy(c)), expected, atol=1e-6)


def test_an_empty_mask_changes_nothing_and_a_real_one_does(small_unet):
    mask = torch.zeros(1, 1, 16, 16)
    inputs = unet_inputs(mask, 3)
    with torch.no_grad():
        plain = small_unet(*inputs)
        with PAIntA(small_unet, mask, [[1, 2]], (1, 2)):
            assert torch.equal(small_unet(*inputs), plain)
        mask[..., 4:12, 4:12] = 1
        with PAIntA(small_unet, mask, [[1, 2]], (1, 2)):
            assert not torch.allclose(small_unet(*inputs), plain, atol=1e-4)


def test_until_switches_it_off(small_unet):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    x, _, context = unet_inputs(mask, 3)
    with torch.no_grad():
        for t, acts in ((501, True), (500, False)):
            plain = small_unet(x, torch.full((2,), t), context)
            with PAIntA(small_unet, mask, [[1, 2]], (1, 2), RELEASE):
                assert torch.equal(small_unet(x, torch.full((2,), t), context), plain) is not acts


def test_restores_the_unet_also_on_an_error(small_unet):
    mask = torch.ones(1, 1, 16, 16)
    inputs = unet_inputs(mask, 3)
    with torch.no_grad():
        before = small_unet(*inputs)
        with pytest.raises(ZeroDivisionError), PAIntA(small_unet, mask, [[1]], (1, 2)):
            assert PAIntA.on(small_unet)
            raise ZeroDivisionError
        assert PAIntA.on(small_unet) is None
        assert torch.equal(small_unet(*inputs), before)
    assert not any(
        "self_attention" in vars(module) or "begin" in vars(module) for module in small_unet.modules()
    )


def test_wrong_levels_and_sizes_are_told(small_unet):
    mask = torch.ones(1, 1, 16, 16)
    with pytest.raises(UserError, match="16"), PAIntA(small_unet, mask, [[1]], (1, 16)):
        pass
    with pytest.raises(UserError, match="latent's size"), PAIntA(small_unet, mask, [[1]], (1,)):
        small_unet(*unet_inputs(torch.ones(1, 1, 8, 8), 0))
    with pytest.raises(UserError, match="2 masks for 1"):
        PAIntA(small_unet, mask.repeat(2, 1, 1, 1), [[1]], (1,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_and_close(dtype):
    unet = rule_w(UNetModel(**SMALL_UNET))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:11, 5:14] = 1
    inputs = unet_inputs(mask, 5)
    with torch.no_grad(), PAIntA(unet, mask, [[1, 2, 3]], (1, 2)):
        expected = unet(*inputs)
        unet.to(dtype)
        actual = unet(*inputs).float()
    assert torch.isfinite(actual).all()
    assert_close(actual, expected, 0.1 if dtype is torch.bfloat16 else 0.02)


def test_logits_beyond_half_precision_do_not_overflow():
    unet = rule_w(UNetModel(**SMALL_UNET))
    for name, parameter in unet.named_parameters():
        if "attn2.to_q" in name or "attn2.to_k" in name:
            parameter.data *= 300  # q k, before it is scaled, passes 65504
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:11, 5:14] = 1
    with torch.no_grad(), PAIntA(unet.half(), mask, [[1, 2, 3]], (1, 2)) as painta:
        unet(*unet_inputs(mask, 5))
        assert painta.c and all(c.isfinite().all() for c in painta.c.values())


def test_every_golden_case_of_painta_is_used():
    assert {name for name in cases() if name.startswith("painta_")} == {
        "painta_block_res16",
        "painta_block_res32",
        "painta_unet",
        "painta_unet_sd1",
    }
