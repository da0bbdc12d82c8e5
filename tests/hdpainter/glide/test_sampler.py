"""GLIDE's schedules and sampling against the public program, and their definitions."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.baselines.glide.inpaint import guided
from hdpainter.baselines.glide.network import TextFeatures
from hdpainter.baselines.glide.sampler import (
    Respaced,
    cosine_betas,
    denoise,
    guide,
    linear_betas,
    spaced_timesteps,
    to_8_bits,
)
from ldm.util import UserError
from tests.hdpainter.glide import tiny
from tests.support import golden, randn

BETAS = {"base": cosine_betas, "up": linear_betas}


def test_the_public_programs_schedules():
    case, data = golden("glide_schedules")
    assert torch.equal(torch.from_numpy(cosine_betas()), data.pop("squaredcos_cap_v2.betas"))
    assert torch.equal(torch.from_numpy(linear_betas()), data.pop("linear.betas"))
    for key, expected in data.items():
        stage, respacing, table = key.split(".")
        diffusion = Respaced.of(BETAS[stage](), respacing)
        if table == "timestep_map":
            assert list(diffusion.timesteps) == expected.tolist()
        else:
            tolerance = case["tolerance"]
            torch.testing.assert_close(
                torch.from_numpy(diffusion.tables[table]),
                expected,
                rtol=tolerance["float64_rel"],
                atol=tolerance["float64_abs"],
            )


def sampled(stage, data, predict):
    """All (x, x0) of a golden case, with its noise."""
    like = data["initial_noise"].shape
    image = data["source_image"].expand(like[0], -1, -1, -1)
    mask = data["source_mask"].float().expand(like[0], -1, -1, -1)
    betas = cosine_betas() if stage == "base" else linear_betas()
    noise = iter(data["step_noise"])
    with torch.no_grad():
        diffusion = Respaced.of(betas, "4")
        return list(
            denoise(data["initial_noise"], predict, diffusion, image, mask, lambda: next(noise))
        ), mask


@pytest.mark.parametrize("stage", ["base", "upsample"])
def test_the_public_programs_samples(stage):
    case, data = golden(f"glide_sampler_{stage}")
    network = tiny.network(stage)
    with torch.no_grad():
        text = network.encode_text(data["tokens"], data["token_mask"])
    if stage == "base":

        def predict(*inputs):
            x, t, image, mask = (torch.cat([part, part]) for part in inputs)
            return guide(network(x, t, text, image, mask), case["config"]["guidance_scale"])
    else:
        low_res = to_8_bits(data["base_samples"])
        assert torch.equal(low_res, data["low_res_quantised"])

        def predict(x, t, image, mask):
            return network(x, t, text, image, mask, low_res).chunk(2, dim=1)

    steps, mask = sampled(stage, data, predict)
    for (x, x0), expected, expected_x0 in zip(steps, data["steps"], data["pred_xstart"], strict=True):
        assert (x - expected).abs().max() < case["tolerance"]["abs"]
        assert (x0 - expected_x0).abs().max() < case["tolerance"]["abs"]
    final, _ = steps[-1]
    assert (final - data["final"]).abs().max() < case["tolerance"]["abs"]
    known = (data["source_image"] * mask).expand_as(final)
    assert torch.equal(final * mask, known)


RESPACINGS = st.one_of(
    st.integers(1, 1000).map(str),
    st.lists(st.integers(1, 50), min_size=1, max_size=20).map(lambda counts: ",".join(map(str, counts))),
    st.sampled_from(["fast27", "ddim50", "ddim7", "ddim1000", "ddim2"]),
)


@given(RESPACINGS)
@settings(max_examples=50, deadline=None)
def test_timesteps_ascend_and_the_new_schedule_has_the_old_cumulative_alphas(respacing):
    kept = spaced_timesteps(respacing)
    assert kept == sorted(set(kept)) and 0 <= kept[0] <= kept[-1] < 1000
    for betas in (cosine_betas(), linear_betas()):
        diffusion = Respaced.of(betas, respacing)
        whole = Respaced.of(betas, "1000")
        assert diffusion.tables["alphas_cumprod"] == pytest.approx(
            whole.tables["alphas_cumprod"][kept], rel=1e-9
        )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=24))
def test_a_section_gives_its_count_with_both_ends(counts):
    kept = spaced_timesteps(",".join(map(str, counts)))
    sizes = [1000 // len(counts) + (i < 1000 % len(counts)) for i in range(len(counts))]
    start = 0
    for count, size in zip(counts, sizes, strict=True):
        section, kept = kept[:count], kept[count:]
        assert section[0] == start and (count == 1 or section[-1] == start + size - 1)
        gaps = [b - a for a, b in pairwise(section)]
        assert not gaps or max(gaps) - min(gaps) <= 1
        start += size
    assert start == 1000 and not kept


def test_named_respacings():
    assert spaced_timesteps("ddim50") == list(range(0, 1000, 20))
    fast = spaced_timesteps("fast27")
    assert len(fast) == 27 and fast[-3:] == [799, 800, 997]
    assert spaced_timesteps("1") == [0]
    assert spaced_timesteps("21")[10] == 499  # 49.95 added up ten times; the product, 499.5, would give 500


@pytest.mark.parametrize(
    "respacing", ["", "0", "-3", "1001", "5,x", "fast", "ddim", "ddim999", "600,1", "100,"]
)
def test_respacings_that_cannot_be_are_told(respacing):
    with pytest.raises(UserError, match=f"respacing '{respacing}'"):
        spaced_timesteps(respacing)


@given(seed=st.integers(0, 999), count=st.integers(1, 6), stage=st.sampled_from(["base", "up"]))
@settings(max_examples=20, deadline=None)
def test_the_last_sample_has_the_known_pixels_and_stays_in_range(seed, count, stage):
    shape = (2, 3, 6, 5)
    image, mask = randn(seed, shape).clamp(-1, 1), (randn(seed + 1, shape)[:, :1] > 0).float()

    def predict(x, t, image, mask):
        return randn(int(t[0]), shape), randn(1 + int(t[0]), shape).clamp(-1, 1)

    noise = iter(randn(seed + 2, (count, *shape)))
    steps = list(
        denoise(
            3 * next(noise),
            predict,
            Respaced.of(BETAS[stage](), str(count)),
            image,
            mask,
            lambda: next(noise),
        )
    )
    assert len(steps) == count and next(noise, None) is None
    assert all((x0.abs() <= 1).all() for _, x0 in steps)
    x, x0 = steps[-1]
    assert torch.allclose(x, x0, atol=1e-6)
    assert torch.equal((x * mask), (image * mask))


def test_steps_are_those_of_ddpm_with_a_learned_variance():
    """Against Eqs. 6 and 7 of Ho et al. and Eq. 15 of Nichol & Dhariwal, written out."""
    image, mask = torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)
    eps, fraction, noises = (
        0.1 * randn(1, image.shape),
        randn(2, image.shape).clamp(-1, 1),
        randn(3, (2, *image.shape)),
    )
    diffusion = Respaced.of(linear_betas(), "3")
    abar = torch.tensor(diffusion.schedule.alphas_cumprod)
    x, draw = 0.1 * randn(4, image.shape), iter(noises)
    steps = denoise(x, lambda *_: (eps, fraction), diffusion, image, mask, lambda: next(draw))
    for index, (found, found_x0) in zip((2, 1), steps, strict=False):
        x = x.double()
        x0 = ((x - (1 - abar[index]).sqrt() * eps) / abar[index].sqrt()).clamp(-1, 1)
        alpha = abar[index] / abar[index - 1]
        mean = abar[index - 1].sqrt() * (1 - alpha) / (1 - abar[index]) * x0
        mean = mean + alpha.sqrt() * (1 - abar[index - 1]) / (1 - abar[index]) * x
        posterior = (1 - alpha) * (1 - abar[index - 1]) / (1 - abar[index])
        v = (fraction + 1) / 2
        variance = (v * (1 - alpha).log() + (1 - v) * posterior.log()).exp()
        x = mean + variance.sqrt() * noises[2 - index]
        assert torch.allclose(found_x0.double(), x0, atol=1e-5) and torch.allclose(
            found.double(), x, atol=1e-5
        )


def test_guidance_is_one_batch_and_leaves_the_variance_alone():
    calls = []

    class Net:
        positional_embedding = torch.zeros(12, 1)

        def encode_text(self, tokens, mask):
            return TextFeatures(mask.sum(1, keepdim=True).float(), mask[:, None].float())

        def __call__(self, x, t, text, image, mask):
            calls.append((len(x), text.time[:, 0].tolist()))
            return text.time[..., None, None].expand(-1, 6, *x.shape[-2:])

    inputs = randn(1, (2, 3, 2, 2)), torch.tensor([5, 5]), randn(2, (2, 3, 2, 2)), randn(3, (2, 1, 2, 2))
    eps, fraction = guided(Net(), ["two boats", "a kite at sea"], scale=5.0)(*inputs)
    assert calls == [(4, [2.0, 5.0, 0.0, 0.0])]
    assert eps[:, 0, 0, 0].tolist() == [10.0, 25.0] and fraction[:, 0, 0, 0].tolist() == [2.0, 5.0]
