"""Claim 1 of the paper: whatever eta is, x_t of general DDIM keeps the marginal of the forward process.

On Gaussian data the ideal eps is known in closed form, and every step is affine in x_t and in its noise. So mean
and variance of x_t follow exactly, from the sampler's own step, without drawing a sample.
"""

import pytest
import torch

from ldm.models.diffusion.ddim import DDIMSampler
from tests.ldm import tiny

MEAN = torch.tensor([0.0, 1.5, -2.0, 0.5], dtype=torch.float64).view(1, 4, 1, 1)
VARIANCE = torch.tensor([1.0, 0.25, 4.0, 0.0], dtype=torch.float64).view(1, 4, 1, 1)  # a point last


@pytest.fixture(scope="module")
def model():
    """A model whose x_0 is E[x_0 | x_t] for pixels that are independent Gaussians, one for each channel."""

    def posterior_mean(x, t, cond):
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        return MEAN + a.sqrt() * VARIANCE / (a * VARIANCE + 1 - a) * (x - a.sqrt() * MEAN)

    oracle = tiny.Oracle(posterior_mean).double()
    alphas_cumprod = torch.from_numpy(oracle.schedule.alphas_cumprod)
    return oracle


def affine(sampler, index):
    """(bias, slope, spread) of the step at `index`: x_{t-1} = bias + slope x_t + spread noise, per channel."""
    t = torch.tensor([int(sampler.ddim_timesteps[index])])

    def step(x, noise):
        x = torch.full((1, 4, 1, 1), x, dtype=torch.float64)
        e_t, output = sampler.predict_eps(x, None, t)
        return sampler.step(e_t, sampler.predict_x0(x, t, e_t, output), index, torch.full_like(x, noise))

    bias = step(0.0, 0.0)
    return bias, step(1.0, 0.0) - bias, step(0.0, 1.0) - bias


def largest_errors(model, eta, steps):
    """Over all steps: the largest error of the mean, and of the variance per channel, relative."""
    sampler = DDIMSampler(model)
    sampler.make_schedule(steps, ddim_eta=eta)
    a = sampler.ddim_alphas[-1]
    mean, variance = a**0.5 * MEAN, a * VARIANCE + 1 - a
    of_mean, of_variance = 0.0, torch.zeros_like(VARIANCE)
    for index in reversed(range(steps)):
        bias, slope, spread = affine(sampler, index)
        mean, variance = bias + slope * mean, slope**2 * variance + spread**2
        a = sampler.ddim_alphas_prev[index]
        of_mean = max(of_mean, (mean - a**0.5 * MEAN).abs().max().item())
        of_variance = of_variance.maximum((variance / (a * VARIANCE + 1 - a) - 1).abs())
    return of_mean, of_variance.flatten()


@pytest.mark.parametrize("eta", [0.0, 0.25, 1.0])
def test_marginals_are_those_of_the_forward_process(model, eta):
    """The mean always; the variance exactly where x_0 is known from x_t (the last channel), elsewhere up to what
    the finite steps leave out, which goes with their length: 20 times as many, a tenth of the error or less."""
    coarse, fine = (largest_errors(model, eta, steps) for steps in (50, 1000))
    for of_mean, of_variance in (coarse, fine):
        assert of_mean < 2e-6
        assert of_variance[3] < 1e-5
    assert fine[1].max() < 0.02 and fine[1].max() < 0.1 * coarse[1].max()


def test_too_little_noise_would_show(model, monkeypatch):
    """The recursion sees it if the noise is not the sampler's: without it eta 1 loses most of the variance."""
    step = DDIMSampler.step
    monkeypatch.setattr(DDIMSampler, "step", lambda self, e, x0, i, noise: step(self, e, x0, i, 0 * noise))
    assert largest_errors(model, 1.0, 50)[1].max() > 0.5
