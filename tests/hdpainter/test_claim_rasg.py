"""Claim 1 with RASG's direction in the noise's place: what becomes of mean and variance of x_t, on Gaussian data.

Claim 1 is about noise: independent of x_t, of mean 0 and variance 1. The standardised gradient has the variance
over the values of one image, and is a function of x_t. The two ends of what it can be, by RASG's own step: it
points somewhere else at every step, like noise, or it is the same at every step, which is what guidance is for.
"""

import numpy as np
import pytest
import torch

from hdpainter.rasg import RASGSampler
from hdpainter.settings import Method
from ldm.util import CONFIGS
from tests.ldm.test_claim import MEAN, VARIANCE, model  # noqa: F401 (a fixture)

GRID = 16
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64).view(1, 4, 1, 1)  # of mean 0
TABLE = {  # of docs/paper-vs-release.md: x_0's shift in standard deviations, its variance by noise and by RASG
    "hd-painter-printed": (3.27, 0.945, 0.705),
    "hd-painter": (0.17, 0.940, 0.939),
    "hd-painter-release": (0.07, 0.940, 0.940),
    "hd-painter-diffusers": (0.14, 0.948, 0.947),
}


class Steered(RASGSampler):
    """RASG whose gradient is given; all else of a step is its own. Its scale is arbitrary: RASG divides by it."""

    gradient_now = torch.zeros(())

    def guided_output(self, x, c, t, *_):
        return self.model.apply_model(x, t, c), torch.zeros(len(x)), 7 * self.gradient_now


def steered(model, name):  # noqa: F811
    method = Method.load(name)
    sampler = Steered(model, (4,), method.rasg)
    sampler.make_schedule(method.sampler.steps, method.sampler.grid, method.sampler.eta)
    return sampler


def affine(sampler, index):
    """(bias, slope, spread) of a step, per channel: x_{t-1} = bias + slope x_t - spread SIGNS for ∇S = SIGNS."""
    t = torch.tensor([int(sampler.ddim_timesteps[index])])

    def step(value, gradient):
        x = torch.full((1, 4, GRID, GRID), value, dtype=torch.float64)
        sampler.gradient_now = gradient.expand_as(x)
        moved, _ = sampler.p_sample_ddim(x, None, t, index, target={}, token_indices=[])
        return moved.mean((2, 3), keepdim=True)

    still = 0 * SIGNS
    bias = step(0.0, still)
    return bias, step(1.0, still) - bias, (bias - step(0.0, SIGNS)) * SIGNS


def ends(sampler, steady):
    """Mean and variance of x_0 per channel, where x_T has those of the forward process."""
    a = sampler.ddim_alphas[-1]
    mean, variance = a**0.5 * MEAN, a * VARIANCE + 1 - a
    for index in reversed(range(len(sampler.ddim_timesteps))):
        bias, slope, spread = affine(sampler, index)
        mean, variance = bias + slope * mean, slope**2 * variance
        if steady:
            mean = mean - spread * SIGNS
        else:  # a sign that is drawn anew has mean 0 and variance 1
            variance = variance + spread**2
    a = sampler.ddim_alphas_prev[0]
    return mean - a**0.5 * MEAN, (a * VARIANCE + 1 - a), variance


@pytest.mark.parametrize("name", TABLE)
def test_a_steady_direction_shifts_the_mean_and_adds_no_variance(model, name):  # noqa: F811
    shift_of_data, as_noise, as_rasg = TABLE[name]
    shift, truth, variance = ends(steered(model, name), steady=True)
    assert (shift * SIGNS < 0).flatten()[:3].all()  # against the gradient: S goes down
    assert (shift.abs() / truth.sqrt()).flatten()[0] == pytest.approx(shift_of_data, abs=0.006)
    assert (variance / truth).flatten()[0] == pytest.approx(as_rasg, abs=6e-4)
    unmoved, truth, noisy = ends(steered(model, name), steady=False)
    assert unmoved.abs().max() < 2e-6  # as in Claim 1
    assert (noisy / truth).flatten()[0] == pytest.approx(as_noise, abs=6e-4)
    row = f"| `{name}` | {shift_of_data:.2f} | {as_noise:.3f} | {as_rasg:.3f} |"
    assert row in (CONFIGS.parent / "docs" / "paper-vs-release.md").read_text(encoding="utf-8")


def test_the_spread_of_a_step_is_eta_sigma(model):  # noqa: F811
    """The standardised gradient of an image has variance 1, so that a step moves by what the noise would."""
    sampler = steered(model, "hd-painter-printed")
    for index in (1, 25, 49):
        spread = affine(sampler, index)[2].flatten().numpy()
        size = 4 * GRID**2
        np.testing.assert_allclose(spread, sampler.ddim_sigmas[index] * ((size - 1) / size) ** 0.5, rtol=1e-9)
