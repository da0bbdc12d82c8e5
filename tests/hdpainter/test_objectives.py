"""Every objective of RASG against its plain equation, and the variants of the gradient's standardisation."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.objectives import objective
from hdpainter.painta import smooth
from hdpainter.rasg import RASGSampler, standardize
from hdpainter.settings import RASGSettings, from_mapping
from ldm.util import UserError
from tests.support import randn

GRID = (3, 4)
TOKENS = ([1, 2, 6], [3])


def plain(name: str, a: np.ndarray, m: np.ndarray, tokens: list[int]) -> float:
    """S of one image: loops over ind(τ) and pixels, a [pixels, tokens] already shifted, m [pixels]."""
    total, worst = 0.0, 0.0
    for k in tokens:
        p = 1 / (1 + np.exp(-a[:, k]))
        if name == "bce":
            total += sum(-(m[i] * np.log(p[i]) + (1 - m[i]) * np.log1p(-p[i])) for i in range(len(m)))
        elif name == "l1":
            total += sum(abs(p[i] - m[i]) for i in range(len(m)))
        elif name == "softmax":
            e = np.exp(a[:, k])
            total += 1 - sum(e[i] for i in range(len(m)) if m[i]) / sum(e)
        else:
            smoothed = smooth(torch.from_numpy(p).view(1, 1, *GRID), 0.5).flatten()
            worst = max(worst, 1 - max((smoothed[i].item() for i in range(len(m)) if m[i]), default=1.0))
    return worst if name == "max" else total


@pytest.mark.parametrize("name", ["bce", "l1", "softmax", "max"])
@given(st.integers(0, 10**6), st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_objectives_are_their_plain_equations(name, seed, shift):
    scores = 3 * randn(seed, (2, 12, 7))
    mask = (randn(seed + 1, (2, 12)) > 0).float()
    weights = torch.zeros(2, 7)
    for row, tokens in zip(weights, TOKENS, strict=True):
        row[tokens] = 1
    chosen = RASGSettings(objective=name, logit_shift=shift)
    a = scores.double().numpy() - shift
    expected = [plain(name, *one) for one in zip(a, mask.numpy(), TOKENS, strict=True)]
    np.testing.assert_allclose(objective(scores, mask, weights, GRID, chosen), expected, rtol=1e-4, atol=1e-5)
    if name in ("bce", "l1"):
        mean = dataclasses.replace(chosen, reduction="mean")
        np.testing.assert_allclose(
            objective(scores, mask, weights, GRID, mean), np.array(expected) / 12, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ["bce", "l1", "softmax", "max"])
def test_the_samplers_objective_is_the_sum_over_levels(name):
    """Each level's scores with the mask of its own grid [B, 1, h, w]."""
    sampler = RASGSampler(None, (1, 2), RASGSettings(objective=name))
    grids = {1: (6, 8), 2: GRID}
    scores = {level: randn(level, (2, h * w, 7)) for level, (h, w) in grids.items()}
    masks = {level: (randn(level + 2, (2, 1, *grid)) > 0).float() for level, grid in grids.items()}
    weights = torch.zeros(2, 7)
    for row, tokens in zip(weights, TOKENS, strict=True):
        row[tokens] = 1
    expected = sum(
        objective(scores[level], masks[level].flatten(1), weights, grid, sampler.settings)
        for level, grid in grids.items()
    )
    torch.testing.assert_close(sampler.objective(scores, masks, TOKENS), expected)


@pytest.mark.parametrize("name", ["bce", "l1", "softmax", "max"])
def test_a_step_down_the_gradient_lowers_the_objective(name):
    scores, mask = randn(1, (1, 12, 7)).requires_grad_(), torch.zeros(1, 12)
    mask[0, [5, 6]] = 1
    weights = torch.zeros(1, 7)
    weights[0, 1:4] = 1
    chosen = RASGSettings(objective=name)
    before = objective(scores, mask, weights, GRID, chosen)
    (gradient,) = torch.autograd.grad(before.sum(), scores)
    assert objective(scores - 0.1 * gradient, mask, weights, GRID, chosen) < before


@pytest.mark.parametrize("name", ["bce", "l1", "softmax", "max"])
def test_an_empty_mask_or_no_token_gives_finite_gradients(name):
    scores = randn(2, (2, 12, 7)).requires_grad_()
    weights = torch.zeros(2, 7)
    weights[0, 1] = 1
    total = objective(scores, torch.zeros(2, 12), weights, GRID, RASGSettings(objective=name)).sum()
    (gradient,) = torch.autograd.grad(total, scores)
    assert gradient.isfinite().all()


def test_centring_takes_the_mean_off_and_keeps_the_std():
    gradient = randn(3, (2, 4, 8, 8)) + 5
    plain, centred = standardize(gradient), standardize(gradient, center=True)
    torch.testing.assert_close(centred, plain - plain.mean(dim=(1, 2, 3), keepdim=True))
    torch.testing.assert_close(centred.flatten(1).std(1), torch.ones(2))
    assert plain.mean() > 1


def test_an_unknown_objective_is_refused():
    with pytest.raises(UserError, match="objective must be one of bce, l1, softmax, max, not 'l2'"):
        from_mapping(RASGSettings, {"objective": "l2"}, "rasg")
