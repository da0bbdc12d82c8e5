"""The autoencoder and its training loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.modules.losses import ReconstructionKLLoss
from ldm.util import UserError, instantiate_from_config
from tests.ldm import tiny
from tests.support import randn


def autoencoder(**params):
    torch.manual_seed(0)
    return instantiate_from_config({**tiny.AUTOENCODER, "params": {**tiny.AUTOENCODER["params"], **params}})


class Squares(nn.Module):
    """A perceptual distance for tests."""

    def forward(self, inputs, reconstructions):
        return (inputs - reconstructions).square().flatten(1).mean(1)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8))
def test_shapes_of_any_size(batch, rows, columns):
    model = autoencoder().eval()
    images = torch.zeros(batch, 3, 4 * rows, 4 * columns)
    posterior = model.encode(images)
    assert posterior.mean.shape == posterior.var.shape == (batch, 4, rows, columns)
    assert model.decode(posterior.mode()).shape == images.shape


def test_forward_samples_the_posterior_or_takes_its_mean():
    model, images = autoencoder().eval(), randn(0, (1, 3, 16, 16))
    mean, posterior = model(images, sample_posterior=False)
    torch.testing.assert_close(mean, model.decode(posterior.mean))
    torch.manual_seed(1)
    sampled, posterior = model(images)
    torch.manual_seed(1)
    torch.testing.assert_close(sampled, model.decode(posterior.sample()))
    assert not torch.allclose(sampled, mean)


def test_embed_dim_may_differ_from_the_decoders_channels():
    model = autoencoder(embed_dim=2)
    assert model.encode(torch.zeros(1, 3, 8, 8)).mean.shape == (1, 2, 2, 2)
    assert model.decode(torch.zeros(1, 2, 2, 2)).shape == (1, 3, 8, 8)


def test_a_posterior_needs_variances():
    with pytest.raises(UserError, match="double_z"):
        autoencoder(ddconfig={**tiny.AUTOENCODER["params"]["ddconfig"], "double_z": False})


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 2), st.floats(-2, 2), st.integers(0, 2**31))
def test_loss_is_the_sum_of_its_terms(kl_weight, logvar, seed):
    x, y = randn(seed, (2, 3, 8, 8)), randn(seed + 1, (2, 3, 8, 8))
    moments = randn(seed + 2, (2, 8, 2, 2))
    mean, log_variance = moments.chunk(2, 1)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    perceptual = {"target": f"{__name__}.Squares"}
    loss = ReconstructionKLLoss(kl_weight, logvar, perceptual_config=perceptual, perceptual_weight=0.5)
    total, logs = loss(x, y, DiagonalGaussianDistribution(moments), "val")
    reconstruction = (x - y).abs().mean() + 0.5 * (x - y).square().mean()
    expected = reconstruction * math.exp(-logvar) + logvar + kl_weight * kl
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)
    assert set(logs) == {"val/rec_loss", "val/kl_loss", "val/perceptual_loss", "val/total_loss"}
    assert not any(value.requires_grad for value in logs.values())


def test_a_learnt_logvar_settles_at_the_error():
    """exp(-s) e + s has its minimum at s = log e: what a Laplace likelihood of that scale gives."""
    loss = ReconstructionKLLoss(kl_weight=0.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    x, y = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)
    posterior = DiagonalGaussianDistribution(torch.zeros(1, 8, 1, 1))
    for _ in range(200):
        optimizer.zero_grad()
        loss(x, y, posterior)[0].backward()
        optimizer.step()
    assert loss.logvar.item() == pytest.approx(math.log(0.1), abs=0.02)
