"""The autoencoder's posterior against torch's own normal distributions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from tests.support import assert_close, randn


def posterior(seed: int) -> DiagonalGaussianDistribution:
    return DiagonalGaussianDistribution(randn(seed, (3, 8, 2, 5)))


@settings(max_examples=20, deadline=None)
@given(a=st.integers(0, 1000), b=st.integers(0, 1000))
def test_kl_divergence(a, b):
    p, q = posterior(a), posterior(b)
    normal = Normal(p.mean, p.std)
    standard = kl_divergence(normal, Normal(0.0, 1.0)).sum((1, 2, 3))
    assert_close(p.kl(), standard, 1e-5)
    between = kl_divergence(normal, Normal(q.mean, q.std)).sum((1, 2, 3))
    torch.testing.assert_close(p.kl(q), between, atol=1e-4, rtol=1e-5)


def test_samples_have_its_moments_and_follow_the_seed():
    p = DiagonalGaussianDistribution(torch.cat([torch.full((1, 1, 100, 100), v) for v in (3.0, -2.0)], dim=1))
    z = p.sample(torch.Generator().manual_seed(1))
    assert abs(z.mean() - 3) < 0.02 and abs(z.std() - torch.tensor(-1.0).exp()) < 0.02
    assert torch.equal(z, p.sample(torch.Generator().manual_seed(1)))
    torch.manual_seed(1)
    assert torch.equal(z, p.sample())
    assert torch.equal(p.mode(), p.mean)


def test_variance_is_kept_in_range():
    p = DiagonalGaussianDistribution(torch.tensor([0.0, 0.0, 1e4, -1e4]).reshape(1, 4, 1, 1))
    assert p.logvar.flatten().tolist() == [20.0, -30.0]
    assert p.std.isfinite().all() and p.kl().isfinite().all()


def test_deterministic_posterior_is_its_mean():
    p = DiagonalGaussianDistribution(randn(1, (2, 8, 3, 3)), deterministic=True)
    assert torch.equal(p.sample(), p.mean) and not p.kl().any()
