"""The DDIM sampler's options: what they are where nobody gives them, and inversion's bookkeeping."""

import numpy as np
import pytest
import torch

from ldm.models.diffusion.ddim import DDIMSampler, join_conditioning
from ldm.util import UserError
from tests.ldm import tiny
from tests.support import randn


@pytest.fixture
def sampler():
    """One of 10 steps, of a model that shrinks."""
    sampler = DDIMSampler(tiny.Oracle(lambda x, t, c: 0.5 * x))
    sampler.make_schedule(10)
    return sampler


def test_guidance_needs_a_scale(sampler):
    """Without one there is a single pass, whatever the unconditional conditioning is."""
    c, x, t = randn(0, (2, 7, 4)), randn(1, (2, 4, 3, 3)), torch.tensor([701, 701])
    plain = sampler.predict_eps(x, c, t)[0]
    assert torch.equal(sampler.predict_eps(x, c, t, uc=c)[0], plain)
    sampler.p_sample_ddim(x, c, t, 7, unconditional_conditioning=c)
    sampler.ddim_sampling(c, x.shape, x_T=x, unconditional_conditioning=c)
    sampler.sample(4, 2, (4, 3, 3), c, unconditional_conditioning=c)
    sampler.decode(x, c, 3, unconditional_conditioning=c)
    sampler.encode(x, c, 3, unconditional_conditioning=c)
    assert all(len(seen) == 2 for seen, _, _ in sampler.model.calls)


def test_guidance_of_three(sampler):
    c, x, t = randn(0, (3, 7, 4)), randn(1, (3, 4, 3, 3)), torch.tensor([701] * 3)
    e_t, _ = sampler.predict_eps(x, c, t, 3.0, c)
    assert e_t.shape == x.shape and len(sampler.model.calls[0][0]) == 6


def test_conditionings_of_different_parts_are_refused():
    u, c = ({key: torch.zeros(1) for key in keys} for keys in ("zca", "zba"))
    with pytest.raises(UserError, match=r"different keys: \['a', 'c', 'z'\] and \['a', 'b', 'z'\]"):
        join_conditioning(u, c)
    with pytest.raises(ValueError, match="longer"):
        join_conditioning([torch.zeros(1)], [torch.zeros(1)] * 2)


def test_it_is_deterministic_where_no_eta_is_given(sampler):
    x, seeds = randn(0, (1, 4, 2, 2)), [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    first, second = (sampler.sample(5, 1, (4, 2, 2), x_T=x, generator=seed)[0] for seed in seeds)
    assert torch.equal(first, second)
    sampler.make_schedule(5)
    assert not sampler.ddim_sigmas.any()


def test_sample_shows_a_bar_and_its_parts_are_silent(sampler, capsys):
    sampler.make_schedule(4)
    sampler.ddim_sampling(None, (1, 4, 2, 2))
    sampler.sample(4, 1, (4, 2, 2), verbose=False)
    assert capsys.readouterr() == ("", "")
    sampler.sample(4, 1, (4, 2, 2))
    assert "DDIM: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("loop", ["sample", "ddim_sampling"])
def test_every_hundredth_prediction_is_kept(sampler, loop):
    seen = []
    options = {"img_callback": lambda x0, i: seen.append(x0), "verbose": False}
    if loop == "sample":
        _, kept = sampler.sample(250, 1, (4, 2, 2), **options)
    else:
        sampler.make_schedule(250)
        _, kept = sampler.ddim_sampling(None, (1, 4, 2, 2), **options)
    steps = [0, 49, 149, 249]  # the first, and those at which 200, 100 and 0 are left
    assert len(kept["pred_x0"]) == 1 + len(steps)
    assert all(torch.equal(seen[i], x0) for i, x0 in zip(steps, kept["pred_x0"][1:], strict=True))


def test_the_descending_grid_may_have_every_step(sampler):
    sampler.make_schedule(1000, "descend")
    assert sampler.ddim_timesteps.tolist() == list(range(1, 1000))


def test_tables_fit_together(sampler):
    np.testing.assert_allclose(sampler.ddim_sqrt_one_minus_alphas**2 + sampler.ddim_alphas, 1)


def test_inversion_goes_up_from_the_clean_picture(sampler):
    x0 = randn(0, (1, 4, 2, 2))
    whole, out = sampler.encode(x0, None, 6)
    assert [int(t[0]) for _, t, _ in sampler.model.calls] == [0, *sampler.ddim_timesteps[:5]]
    assert out.keys() == {"x_encoded", "intermediate_steps"} and out["intermediate_steps"] == []
    assert torch.equal(out["x_encoded"], whole)
    one, _ = sampler.encode(x0, None, 1)
    assert torch.equal(sampler.model.calls[-1][0], x0) and not torch.equal(one, whole)
    for wrong in (0, 11):
        with pytest.raises(UserError, match=f"t_enc must lie in 1 ... 10, got {wrong}"):
            sampler.encode(x0, None, wrong)


@pytest.mark.parametrize(
    ("t_enc", "wanted", "steps"),
    [(10, 5, [1, 3, 5, 7, 9]), (6, 2, [2, 5]), (3, 5, [0, 1, 2]), (4, 1, [3])],
)
def test_inversion_keeps_so_many_latents(sampler, t_enc, wanted, steps):
    x0 = randn(0, (1, 4, 2, 2))
    _, out = sampler.encode(x0, None, t_enc, return_intermediates=wanted)
    assert out["intermediate_steps"] == steps
    for step, latent in zip(steps, out["intermediates"], strict=True):
        assert torch.equal(latent, sampler.encode(x0, None, step + 1)[0])
