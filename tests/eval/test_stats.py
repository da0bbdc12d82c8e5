"""Statistics against brute force, closed forms and their own promises."""

import tracemalloc
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from eval.grids import bin_name
from eval.stats import FLIPPED_BELOW, ClusterBootstrap, flip_signs, mask_bins, mcnemar, preference


def clustered(rng, clusters=60, largest=6):
    """Image ids of samples that come in clusters of 1 to `largest`, shuffled."""
    ids = np.repeat(np.arange(clusters) * 7 + 3, rng.integers(1, largest + 1, clusters))
    return rng.permutation(ids)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_replicates_are_those_of_drawing_whole_images(seed):
    rng = np.random.default_rng(seed)
    ids = clustered(rng, clusters=int(rng.integers(2, 12)))
    values = rng.normal(size=(len(ids), 3))
    values[rng.random(values.shape) < 0.2] = np.nan
    draws = ClusterBootstrap(ids, repeats=5, seed=seed).replicates(values)

    names = np.unique(ids)
    picks = np.random.default_rng(seed).integers(len(names), size=(5, len(names)))
    for pick, draw in zip(picks, draws, strict=True):
        sample = np.concatenate([values[ids == names[i]] for i in pick])
        for k in range(3):
            kept = sample[~np.isnan(sample[:, k]), k]
            if len(kept):
                assert draw[k] == pytest.approx(kept.mean(), abs=1e-12)
            else:
                assert np.isnan(draw[k])


def test_many_clusters_are_drawn_in_chunks_without_a_change(monkeypatch):
    rng = np.random.default_rng(0)
    ids, values = clustered(rng), None
    values = rng.normal(size=(len(ids), 2))
    whole = ClusterBootstrap(ids, 50).replicates(values)
    monkeypatch.setattr("eval.stats._CHUNK", 3 * 60)
    np.testing.assert_allclose(ClusterBootstrap(ids, 50).replicates(values), whole, rtol=1e-12)


def test_draws_are_those_of_seed_0():
    values = np.random.default_rng(7).normal(size=(40, 1))
    first, second = (ClusterBootstrap(range(40), 50, **seed).replicates(values) for seed in ({}, {"seed": 0}))
    np.testing.assert_array_equal(first, second)


def test_same_seed_same_interval_whatever_else_is_in_the_table():
    rng = np.random.default_rng(1)
    ids = clustered(rng)
    values = rng.normal(size=(len(ids), 4))
    alone = ClusterBootstrap(ids, 500, seed=3).means(values[:, 2:3])[0]
    together = ClusterBootstrap(ids, 500, seed=3).means(values)[2]
    assert alone.low == pytest.approx(together.low) and alone.high == pytest.approx(together.high)
    assert ClusterBootstrap(ids, 500, seed=4).means(values[:, 2:3])[0].low != alone.low


def test_interval_is_as_wide_as_the_closed_form_for_clusters_of_one_size():
    rng = np.random.default_rng(2)
    ids = np.repeat(np.arange(400), 3)
    shared = rng.normal(size=400)
    values = (shared[ids] + 0.5 * rng.normal(size=1200))[:, None]
    mean = ClusterBootstrap(ids, 4000).means(values)[0]
    of_images = values[:, 0].reshape(400, 3).mean(1)
    expected = 2 * 1.95996 * of_images.std() / np.sqrt(400)
    assert mean.high - mean.low == pytest.approx(expected, rel=0.05)
    assert mean.value == pytest.approx(values.mean()) and mean.n == 1200 and mean.clusters == 400
    as_if_independent = ClusterBootstrap(np.arange(1200), 4000).means(values)[0]
    assert as_if_independent.high - as_if_independent.low < 0.75 * (mean.high - mean.low)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """300 synthetic benchmarks: 95% coverage less the bootstrap's small-sample loss; 4 binomial deviations
    wide."""
    rng = np.random.default_rng(3)
    truth, hits = 0.7, 0
    for _ in range(300):
        ids = np.repeat(np.arange(60), 3)
        rate = rng.beta(7, 3, 60)  # mean 0.7, each image easier or harder
        values = (rng.random(180) < rate[ids]).astype(float)[:, None]
        mean = ClusterBootstrap(ids, 400).means(values)[0]
        hits += mean.low <= truth <= mean.high
    assert 0.89 <= hits / 300 <= 0.99


def test_p_of_no_difference_is_uniform_and_of_a_difference_small():
    rng = np.random.default_rng(4)
    ids = np.repeat(np.arange(50), 2)
    null = rng.normal(size=(100, 300))
    p = np.array([d.p for d in ClusterBootstrap(ids, 400).differences(null)])
    assert 0.01 <= np.mean(p < 0.05) <= 0.10  # 5% and the loss for 50 images
    assert 0.4 <= np.mean(p < 0.5) <= 0.6
    shifted = ClusterBootstrap(ids, 400).differences(null + 1)
    assert max(d.p for d in shifted) < 0.01 and all(d.low > 0 for d in shifted)


@pytest.mark.parametrize("images", [20, 400])
def test_no_difference_at_all_has_p_one(images):
    difference = ClusterBootstrap(range(images), 100).differences(np.zeros((images, 1)))[0]
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_few_images_have_neither_interval_nor_p_and_no_sample_no_mean():
    """Two pictures, all better, once had p < 0.001."""
    for images, has in ((1, False), (2, False), (19, False), (20, True), (199, True), (200, True)):
        values = np.column_stack([np.linspace(1, 2, 2 * images), np.full(2 * images, np.nan)])
        bootstrap = ClusterBootstrap(np.repeat(np.arange(images), 2), 200)
        difference, none = bootstrap.differences(values)
        mean, nothing = bootstrap.means(values)
        assert difference.value == mean.value == pytest.approx(1.5) and none is nothing is None
        for end in (difference.low, difference.high, difference.p, mean.low, mean.high):
            assert (end is not None) == has
        assert difference.test == ("bootstrap" if images >= 200 else "sign flips")


def test_images_count_by_column():
    values = np.arange(60.0).reshape(30, 2)
    values[19:, 1] = np.nan
    enough, few = ClusterBootstrap(np.arange(30), 100).differences(values)
    assert enough.p is not None and few.p is few.low is None and few.clusters == 19


def test_sign_flips_are_those_of_scipy_and_of_all_choices():
    rng = np.random.default_rng(5)
    sums = rng.normal(0.3, 1, (12, 3))
    signs = np.array(np.meshgrid(*[(-1, 1)] * 12)).reshape(12, -1)
    exact = (np.abs(signs.T @ sums) >= np.abs(sums.sum(0)) - 1e-9).mean(0)
    found = flip_signs(sums, 20_000, seed=0)
    assert found == pytest.approx(exact, abs=0.015)  # 4 deviations of 20,000 draws
    for column, p in zip(sums.T, exact, strict=True):
        test = permutation_test((column,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert p == pytest.approx(test.pvalue)
    assert flip_signs(np.full((20, 1), 0.1), 999, seed=0)[0] == pytest.approx(1 / 1000)  # itself counts
    np.testing.assert_array_equal(found[1:2], flip_signs(sums[:, 1:2], 20_000, seed=0))


@pytest.mark.parametrize("scale", [1e-6, -1e-6, 1, -1e6])
def test_sums_that_differ_by_rounding_are_as_extreme(scale):
    """All signs alike, 2 choices of 8, are as far from 0 as the observation, in whatever order they are added."""
    sums = scale * np.array([[0.1], [0.2], [0.3]])
    assert flip_signs(sums, 10_000, seed=0)[0] == pytest.approx(0.25, abs=0.02)


def test_many_images_are_drawn_in_chunks_of_bounded_memory():
    images, repeats = 3000, 4000
    tracemalloc.start()
    draws = ClusterBootstrap(np.arange(images), repeats).replicates(np.ones((images, 1)))
    p = flip_signs(np.zeros((images, 1)), repeats, seed=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert draws.shape == (repeats, 1) and (draws == 1).all() and p == 1
    assert most < 150e6 < images * repeats * 16  # the numbers of all draws at once


def test_a_clear_difference_has_the_least_p_of_ten_thousand_draws():
    for images in (FLIPPED_BELOW - 1, FLIPPED_BELOW):
        difference = ClusterBootstrap(np.arange(images)).differences(np.ones((images, 1)))[0]
        assert difference.p == pytest.approx((1 if images < FLIPPED_BELOW else 2) / 10_001)


def test_p_of_the_bootstrap_counts_the_observed_among_the_draws():
    ids = np.arange(400)
    difference = ClusterBootstrap(ids, 499).differences(np.ones((400, 1)))[0]
    assert difference.p == pytest.approx(2 / 500)


def pairs(ours_only, theirs_only, both=3, neither=2):
    ours = [1] * ours_only + [0] * theirs_only + [1] * both + [0] * neither
    theirs = [0] * ours_only + [1] * theirs_only + [1] * both + [0] * neither
    return np.array(ours, float), np.array(theirs, float)


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_mcnemar_equals_the_sum_over_all_outcomes(b, c):
    p, test = mcnemar(*pairs(b, c))
    n = b + c
    probabilities = [comb(n, k) / 2**n for k in range(n + 1)]
    as_extreme = [q for k, q in enumerate(probabilities) if abs(2 * k - n) >= abs(b - c)]
    expected = sum(as_extreme)
    if n >= 25:
        ends = [q for k, q in enumerate(probabilities) if abs(2 * k - n) == abs(b - c)]
        expected -= sum(ends) / 2
        assert test == "McNemar, mid-p"
    else:
        assert test == "McNemar, exact"
    assert p == pytest.approx(expected, rel=1e-9)
    assert p == mcnemar(*pairs(c, b, both=0, neither=9))[0]


@pytest.mark.parametrize(("ours", "test"), [(12, "McNemar, exact"), (13, "McNemar, mid-p")])
def test_mcnemar_is_exact_below_25_pairs(ours, test):
    assert mcnemar(*pairs(ours, 12))[1] == test


def test_mcnemar_of_thousands_agrees_with_the_normal_law():
    from statistics import NormalDist

    p, _ = mcnemar(*pairs(2600, 2400))
    assert p == pytest.approx(2 * NormalDist().cdf(-200 / np.sqrt(5000)), rel=0.02)


def test_mcnemar_leaves_out_samples_that_one_side_lacks():
    ours, theirs = np.array([1, 1, np.nan, 0]), np.array([0, np.nan, 1, 0])
    assert mcnemar(ours, theirs)[0] == 1


@given(st.floats(-900, 900), st.floats(-900, 900))
def test_preference_is_the_softmax_of_two_logits(a, b):
    probability, win = preference(np.array([a]), np.array([b]))
    top = max(a, b)
    assert probability[0] == pytest.approx(np.exp(a - top) / (np.exp(a - top) + np.exp(b - top)))
    assert win[0] == (0.5 if a == b else float(a > b))
    assert preference(np.array([b]), np.array([a]))[1][0] == 1 - win[0]


def test_preference_of_a_missing_picture_is_missing():
    assert np.isnan(preference(np.array([np.nan]), np.array([1.0]))).all()


@given(st.floats(0, 1))
def test_every_mask_is_in_the_bin_that_holds_it(share):
    edges = (0.0, 0.1, 0.5, 1.0)
    index = mask_bins(np.array([share]), edges)[0]
    assert edges[index] <= share <= edges[index + 1]
    if share in (0.1, 0.5, 1.0):
        assert edges[index + 1] == share


def test_the_bins_of_tables_are_those_that_they_name():
    shares = np.array([1e-6, 0.05, 0.051, 0.1, 0.101, 0.2, 0.201, 0.4, 0.401, 1.0])
    assert mask_bins(shares).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [bin_name(index) for index in range(5)] == ["0–5%", "5–10%", "10–20%", "20–40%", "40–100%"]
    assert mask_bins(np.array([0, 1 + 1e-9])).tolist() == [0, 4]  # an empty mask, a share that was rounded
