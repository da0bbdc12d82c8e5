"""Statistics of paired scores whose samples come in clusters.

The benchmark's 10,000 triplets come from 4,284 images, and what is scored twice in one image is not
independent. All intervals therefore come from a bootstrap that draws images, with all of their triplets,
instead of triplets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from tqdm import tqdm

REPEATS = 10_000
LEVEL = 0.95
MASK_BINS = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)  # shares of the picture that the mask covers
EXACT_BELOW = 25  # discordant pairs

_CHUNK = 1 << 22  # numbers drawn at once
SHOW_AFTER = 2.0  # seconds of work, on a terminal


@dataclass(frozen=True)
class Mean:
    """A mean over `n` samples of `clusters` images with its percentile interval [low, high], None where there
    are fewer than two images: no spread can be estimated from one."""

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int


@dataclass(frozen=True)
class Difference(Mean):
    """Mean of paired differences; `p` is two-sided, None where it cannot be had. `test` names how it was
    found."""

    p: float | None
    test: str


class ClusterBootstrap:
    """Percentile intervals of means by drawing whole clusters with replacement.

    clusters: [N] the image of each sample, anything that compares. repeats: how many draws. seed: of the
    draws; the same for every call, so that the same columns always have the same intervals.
    """

    def __init__(self, clusters: Sequence | np.ndarray, repeats: int = REPEATS, seed: int = 0):
        self._names, self._cluster = np.unique(np.asarray(clusters), return_inverse=True)
        self.repeats, self.seed = repeats, seed

    def replicates(self, columns: np.ndarray) -> np.ndarray:
        """[repeats, K] bootstrapped means of `columns` [N, K].

        NaN means that a sample is not in a column; a draw that has none of a column's samples is NaN.
        """
        sums, counts = self._per_cluster(columns)
        total = np.concatenate([sums, counts], axis=1)
        size, width = len(self._names), columns.shape[1]
        rng = np.random.default_rng(self.seed)
        rows = max(1, _CHUNK // size)
        parts = []
        starts = range(0, self.repeats, rows)
        for start in tqdm(starts, "bootstrap", leave=False, delay=SHOW_AFTER, disable=None):
            drawn = rng.integers(size, size=(min(rows, self.repeats - start), size))
            offsets = size * np.arange(len(drawn))[:, None]
            times = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * size)
            drawn_total = times.reshape(len(drawn), size).astype(np.float64) @ total
            with np.errstate(invalid="ignore"):
                parts.append(drawn_total[:, :width] / drawn_total[:, width:])
        return np.concatenate(parts)

    def means(self, columns: np.ndarray, level: float = LEVEL) -> list[Mean | None]:
        """The mean of each of `columns` [N, K] with its interval; None for a column without samples."""
        columns = np.asarray(columns, dtype=np.float64)
        return [
            None if mean is None else Mean(mean, *_interval(draws, clusters, level), n, clusters)
            for mean, draws, n, clusters in self._columns(columns)
        ]

    def differences(self, columns: np.ndarray, level: float = LEVEL) -> list[Difference | None]:
        """The mean of each of `columns` [N, K] of paired differences with its interval and p.

        p is the bootstrap's: twice the smaller share of draws on either side of zero, where a draw of zero
        counts on both and one is added to each count, so that p is never 0 and is 1 where all differences are
        0.
        """
        columns = np.asarray(columns, dtype=np.float64)
        return [
            None
            if mean is None
            else Difference(
                mean, *_interval(draws, clusters, level), n, clusters, _p_value(draws, clusters), "bootstrap"
            )
            for mean, draws, n, clusters in self._columns(columns)
        ]

    def _columns(self, columns: np.ndarray) -> Iterator[tuple[float | None, np.ndarray, int, int]]:
        draws = self.replicates(columns)
        present = ~np.isnan(columns)
        for k in range(columns.shape[1]):
            n = int(present[:, k].sum())
            mean = float(columns[present[:, k], k].mean()) if n else None
            yield mean, draws[:, k], n, len(np.unique(self._cluster[present[:, k]]))

    def _per_cluster(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum and number of the samples of each column in each cluster, [C, K] each."""
        shape = (len(self._names), columns.shape[1])
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, self._cluster, np.nan_to_num(columns, nan=0.0))
        np.add.at(counts, self._cluster, ~np.isnan(columns))
        return sums, counts


def _interval(draws: np.ndarray, clusters: int, level: float) -> tuple[float | None, float | None]:
    if clusters < 2:
        return None, None
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p_value(draws: np.ndarray, clusters: int) -> float | None:
    if clusters < 2:
        return None
    draws = draws[~np.isnan(draws)]
    side = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return min(1.0, 2 * (side + 1) / (len(draws) + 1))


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, str]:
    """McNemar's test of two columns of 0 and 1 over the same samples: (two-sided p, how it was found).

    Only discordant pairs count. With fewer than `EXACT_BELOW` of them p is the exact binomial's, above it is
    the mid-p (which counts what is exactly as extreme as the observation by half), which keeps the level
    without being as timid (Fagerland et al. 2013). Both are computed in whole numbers. The test takes samples
    as independent; the clustered interval of the difference beside it does not.
    """
    only_ours = int(np.count_nonzero((ours == 1) & (theirs == 0)))
    only_theirs = int(np.count_nonzero((ours == 0) & (theirs == 1)))
    fewer, discordant = min(only_ours, only_theirs), only_ours + only_theirs
    tail, term = 0, 1  # sum of binomial(discordant, k) for k <= fewer, and its last term
    for k in range(fewer + 1):
        tail += term
        if k < fewer:
            term = term * (discordant - k) // (k + 1)
    total = 2**discordant
    as_extreme, as_observed = (total, term) if 2 * fewer == discordant else (2 * tail, 2 * term)
    if discordant < EXACT_BELOW:
        return float(Fraction(as_extreme, total)), "McNemar, exact"
    return float(Fraction(2 * as_extreme - as_observed, 2 * total)), "McNemar, mid-p"


def preference(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PickScore's verdict on pairs of pictures from their logits, [N] each: (probability that ours is
    preferred, 1 where it is, 0 where it is not, 0.5 for a tie). The release averages the first, the paper
    speaks of the second."""
    gap = np.asarray(ours, dtype=np.float64) - theirs
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-gap))
    return probability, np.where(np.isnan(gap), np.nan, (np.sign(gap) + 1) / 2)


def mask_bins(shares: np.ndarray, edges: Sequence[float] = MASK_BINS) -> np.ndarray:
    """[N] the bin of each mask's share of the picture: i where edges[i] < share <= edges[i + 1]."""
    return np.clip(np.searchsorted(edges, shares, side="left") - 1, 0, len(edges) - 2)
