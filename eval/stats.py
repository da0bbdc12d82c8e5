"""Statistics of paired scores whose samples come in clusters.

The benchmark's 10,000 triplets come from 4,284 images, and what is scored twice in one image is not
independent. All intervals therefore come from a bootstrap that draws images, with all of their triplets,
instead of triplets. From fewer than `FEWEST` images neither an interval nor a p is given: the bootstrap's would
be far too sure of itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, binomtest
from tqdm import tqdm

REPEATS = 10_000
LEVEL = 0.95
MASK_BINS = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)  # shares of the picture that the mask covers
FEWEST = 20  # images
FLIPPED_BELOW = 200  # images
EXACT_BELOW = 25  # discordant pairs

_CHUNK = 1 << 22  # numbers drawn at once
SHOW_AFTER = 2.0  # seconds of work, on a terminal


@dataclass(frozen=True)
class Mean:
    """A mean over `n` samples of `clusters` images with its percentile interval [low, high], None where there
    are fewer than `FEWEST` images."""

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

        p of fewer than `FLIPPED_BELOW` images is that of flipping the signs of whole images (`flip_signs`); of
        more it is the bootstrap's: twice the smaller share of draws on either side of zero, where a draw of zero
        counts on both and one is added to each count, so that p is never 0 and is 1 where all differences are
        0.
        """
        columns = np.asarray(columns, dtype=np.float64)
        flipped = flip_signs(self._per_cluster(columns)[0], self.repeats, self.seed)
        found: list[Difference | None] = []
        for (mean, draws, n, clusters), p in zip(self._columns(columns), flipped, strict=True):
            if mean is None:
                found.append(None)
                continue
            few = clusters < FLIPPED_BELOW
            p_value = None if clusters < FEWEST else float(p) if few else _p_value(draws)
            test = "sign flips" if few else "bootstrap"
            found.append(Difference(mean, *_interval(draws, clusters, level), n, clusters, p_value, test))
        return found

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
    if clusters < FEWEST:
        return None, None
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p_value(draws: np.ndarray) -> float:
    draws = draws[~np.isnan(draws)]
    side = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return min(1.0, 2 * (side + 1) / (len(draws) + 1))


def flip_signs(sums: np.ndarray, repeats: int, seed: int) -> np.ndarray:
    """[K] two-sided p of the sums of `sums` [C, K] over C clusters, under signs that might as well be the others.

    Without a difference between the methods each image's sum could have had the other sign. p is the share of
    `repeats` random choices of signs with a total at least as far from 0, the observed one counted among them:
    exact in its level for any number of images, whatever their distribution.
    """
    rng = np.random.default_rng(seed)
    total, extreme = np.abs(sums.sum(axis=0)), np.ones(sums.shape[1])
    at_least = total - 1e-9 * np.abs(sums).sum(axis=0)  # sums in another order differ by rounding
    for start in range(0, repeats, rows := max(1, _CHUNK // max(len(sums), 1))):
        signs = rng.choice((-1.0, 1.0), size=(min(rows, repeats - start), len(sums)))
        extreme += np.count_nonzero(np.abs(signs @ sums) >= at_least, axis=0)
    return extreme / (repeats + 1)


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, str]:
    """McNemar's test of two columns of 0 and 1 over the same samples: (two-sided p, how it was found).

    Only discordant pairs count. With fewer than `EXACT_BELOW` of them p is the exact binomial's, above it is
    the mid-p (which counts what is exactly as extreme as the observation by half), which keeps the level
    without being as timid (Fagerland et al. 2013). The test takes samples as independent; the clustered interval
    of the difference beside it does not.
    """
    only_ours = int(np.count_nonzero((ours == 1) & (theirs == 0)))
    only_theirs = int(np.count_nonzero((ours == 0) & (theirs == 1)))
    fewer, discordant = min(only_ours, only_theirs), only_ours + only_theirs
    p = float(binomtest(fewer, discordant).pvalue) if discordant else 1.0
    if discordant < EXACT_BELOW:
        return p, "McNemar, exact"
    ends = 1 if 2 * fewer == discordant else 2  # outcomes that are exactly as extreme
    return p - ends / 2 * float(binom.pmf(fewer, discordant, 0.5)), "McNemar, mid-p"


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
