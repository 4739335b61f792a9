"""Intervals and paired tests for right-or-wrong answers.

An accuracy has a Wilson interval where every cluster (image or subject) has one question, and a cluster
bootstrap elsewhere: questions about one image are not independent (Miller, arXiv 2411.00640, on
clustered standard errors). Two models on the same questions are compared by McNemar's test, by the same
test with whole clusters, and by the paired cluster bootstrap of the difference. What a comparison of a given
size could see at all is in `osler.evaluate.power`.
All fractions run from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import erfc, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WILSON = "Wilson"
CLUSTER_BOOTSTRAP = "cluster bootstrap"
WILSON_OVER_CLUSTERS = "Wilson over clusters"
RESAMPLES = 10_000
STATISTIC_RESAMPLES = 2_000  # of a statistic that looks at every answer of every resample
_DRAWN_AT_A_TIME = 2**22  # answers of all resamples held in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """Lower and upper bound, and the method that gave them.

    >>> round(wilson_interval(234, 300).low, 4), round(wilson_interval(234, 300).high, 4)
    (0.7297, 0.8232)
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class McNemar:
    """The 2 x 2 table of two models on the same questions, and two-sided p values.

    `exact_p` conditions on the discordant pairs (binomial, p = 1/2); `mid_p` counts the observed table
    by half, which keeps the level better (Fagerland, Lydersen and Laake 2013).
    """

    both: int  # questions that a and b answer right
    only_a: int
    only_b: int
    neither: int
    exact_p: float
    mid_p: float

    @property
    def discordant(self) -> int:
        return self.only_a + self.only_b


class NonInferiority(StrEnum):
    """What an interval of a difference says about a margin."""

    PASS = "pass"
    FAIL = "fail"
    NOT_SHOWN = "not shown"


def wilson_interval(k: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (1927) for `k` right answers of `n`.

    Raises `ValueError` unless 0 <= k <= n, n > 0 and 0 < confidence < 1.
    """
    if not (n > 0 and 0 <= k <= n):
        raise ValueError(f"Wilson interval of {k} right among {n}: 0 <= k <= n and n > 0 are needed")
    z = NormalDist().inv_cdf(1 - _tail(confidence))
    share = k / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if k == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if k == n else min(1.0, (centre + half) / scale)
    return Interval(low, high, WILSON)


def cluster_bootstrap_interval(
    correct: ArrayLike,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the accuracy when whole clusters are drawn with replacement.

    `correct` [n] holds 0 or 1, `clusters` [n] the cluster of each answer. Where every cluster has the
    same mean, resampling shows no spread and the bounds coincide; `accuracy_interval` takes another method
    then.
    """
    sums, sizes, counts = _cluster_kinds(_zeros_and_ones(correct), clusters)
    return _percentiles(_resampled_means(sums, sizes, counts, resamples, seed), confidence)


def accuracy_interval(
    correct: ArrayLike,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The interval that fits the data; `method` names it.

    Wilson where every cluster has one answer; else the cluster bootstrap; where all clusters have the
    same mean (all answers right, say) a Wilson interval that counts each cluster once, because a bootstrap
    would have no width.
    """
    values = _zeros_and_ones(correct)
    sums, sizes, counts = _cluster_kinds(values, clusters)
    num_clusters = int(counts.sum())
    if num_clusters == len(values):
        return wilson_interval(int(values.sum()), len(values), confidence)
    if not _all_alike(sums, sizes):
        return _percentiles(_resampled_means(sums, sizes, counts, resamples, seed), confidence)
    bounds = wilson_interval(float(values.mean()) * num_clusters, num_clusters, confidence)
    return Interval(bounds.low, bounds.high, WILSON_OVER_CLUSTERS)


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of values from 0 to 1 [n], whole clusters drawn with replacement.

    For shares that each question has of its own, such as that of its rotations answered right. Where all
    clusters have the same mean, a Wilson interval that counts each cluster once.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or ((array < 0) | (array > 1)).any():
        raise ValueError("a non-empty one-dimensional list of values from 0 to 1 is needed")
    sums, sizes, counts = _cluster_kinds(array, clusters)
    if not _all_alike(sums, sizes):
        return _percentiles(_resampled_means(sums, sizes, counts, resamples, seed), confidence)
    num_clusters = int(counts.sum())
    bounds = wilson_interval(float(array.mean()) * num_clusters, num_clusters, confidence)
    return Interval(bounds.low, bounds.high, WILSON_OVER_CLUSTERS)


def bootstrap_interval(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    clusters: Sequence[Hashable],
    resamples: int = STATISTIC_RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval | None:
    """Percentile interval of any statistic when whole clusters are drawn with replacement.

    `statistic` is given how often each answer was drawn, [R, n] for R resamples, and returns one value for
    each, [R]. A resample in which it does not exist (NaN) is left out; None where it never does.
    """
    drawn = _drawn_answers(clusters, resamples, seed)
    values = np.concatenate([statistic(weights_Rn) for weights_Rn in drawn])
    values = values[~np.isnan(values)]
    return _percentiles(values, confidence) if len(values) else None


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's test of two models' answers, 0 or 1, [n] each, to the same questions in the same order.

    Exact in integers at any size. Without discordant pairs both p values are 1.
    """
    first, second = _pair(a, b)
    only_a = int(np.sum((first == 1) & (second == 0)))
    only_b = int(np.sum((first == 0) & (second == 1)))
    both = int(np.sum((first == 1) & (second == 1)))
    n, smaller = only_a + only_b, min(only_a, only_b)
    term = tail = 1  # binomial(n, i) and its sum up to i, from i = 0
    for i in range(smaller):
        term = term * (n - i) // (i + 1)
        tail += term
    exact = min(1.0, 2 * tail / 2**n)
    mid = min(1.0, (2 * tail - term) / 2**n)
    return McNemar(both, only_a, only_b, len(first) - both - n, exact, mid)


def cluster_flip_test(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float, float]:
    """McNemar's test with whole clusters: (exact p, mid-p), two-sided.

    Questions about one image are not independent, so each cluster's sum of differences keeps its size and
    takes either sign with probability 1/2 (Fisher's randomisation test, The Design of Experiments, 1935,
    section 21). Where every cluster has one question this is McNemar's exact test. The distribution is exact:
    one binomial per size of sum, convolved.
    """
    from scipy.stats import binom

    first, second = _pair(a, b)
    sums, _, counts = _cluster_kinds(second - first, clusters)
    sizes = np.abs(sums)
    half = np.ones(1)  # of the sum of all sizes that took the sign +
    for size in np.unique(sizes[sizes > 0]):
        num_clusters = int(counts[sizes == size].sum())
        spaced = np.zeros(size * num_clusters + 1)
        spaced[::size] = binom.pmf(np.arange(num_clusters + 1), num_clusters, 0.5)
        half = np.convolve(half, spaced)
    observed = (int(sizes @ counts) + abs(int(sums @ counts))) // 2
    tail = float(half[observed:].sum())
    return min(1.0, 2 * tail), min(1.0, 2 * tail - float(half[observed]))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p values (1979) of a family of tests, in the shape given; NaN is no test and stays.

    A hypothesis whose adjusted p is below the level is rejected with that level for the whole family.
    Raises `ValueError` for a p outside 0 to 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    values = p.ravel()[tested]
    if ((values < 0) | (values > 1)).any():
        raise ValueError("Holm: p values from 0 to 1 are needed")
    order = np.argsort(values, kind="stable")
    steps = (len(values) - np.arange(len(values))) * values[order]
    adjusted = np.full(p.size, np.nan)
    adjusted[tested[order]] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.reshape(p.shape)


def non_inferiority(difference: Interval, margin: float) -> NonInferiority:
    """Whether b is worse than a by less than `margin` (> 0), from the 95 % interval of b - a.

    `PASS` where the whole interval lies above -margin (a one-sided test at 2.5 %; Piaggio et al., JAMA 2012,
    CONSORT for non-inferiority), `FAIL` where it lies below, `NOT_SHOWN` where it holds -margin. The margin
    has to be fixed before the answers are seen.
    """
    if not 0 < margin <= 1:
        raise ValueError(f"non-inferiority margin {margin}: more than 0 and at most 1 is needed")
    if difference.low > -margin:
        return NonInferiority.PASS
    return NonInferiority.FAIL if difference.high < -margin else NonInferiority.NOT_SHOWN


def margin_p(difference: float, interval: Interval, margin: float) -> float:
    """Two-sided p of a true b - a of exactly -margin (> 0), by the normal law with the interval's own width.

    `interval` is the 95 % interval of `difference`. A p below 5 % with a difference above -margin is what
    `non_inferiority` calls `PASS`, up to an interval that is not symmetric; unlike a verdict it can be
    adjusted for other tests. An interval without width decides: 0, or 1 where the difference is -margin.
    """
    error = (interval.high - interval.low) / (2 * NormalDist().inv_cdf(0.975))
    if error == 0:
        return float(difference == -margin)
    return erfc(abs(difference + margin) / error / sqrt(2))


def paired_cluster_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of accuracy(b) - accuracy(a), whole clusters drawn with replacement.

    `a`, `b` [n] hold 0 or 1 for the same questions in the same order. Where every cluster shows the same
    difference (the two never disagree, say) the bounds are that difference plus and minus the Wilson bound
    for a difference that was seen in none of the clusters.
    """
    first, second = _pair(a, b)
    sums, sizes, counts = _cluster_kinds(second - first, clusters)
    if not _all_alike(sums, sizes):
        return _percentiles(_resampled_means(sums, sizes, counts, resamples, seed), confidence)
    difference = float(np.mean(second - first))
    reach = wilson_interval(0, int(counts.sum()), confidence).high
    return Interval(max(-1.0, difference - reach), min(1.0, difference + reach), WILSON_OVER_CLUSTERS)


def paired_design_effect(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Variance of accuracy(b) - accuracy(a) with clusters over that without, never below 1.

    The clustered variance is linearised: sum over clusters of (sum of residuals)^2, over n^2 (Miller,
    arXiv 2411.00640, equation 4). Below 1 it is taken for chance: clusters do not make questions count for
    more.
    """
    first, second = _pair(a, b)
    difference = second - first
    mean = float(difference.mean())
    sums, sizes, counts = _cluster_kinds(difference, clusters)
    alone = float(((difference - mean) ** 2).sum())
    together = float((counts * (sums - mean * sizes) ** 2).sum())
    return max(1.0, together / alone) if alone > 0 else 1.0


def chance_level(num_choices: Iterable[int]) -> float:
    """Expected accuracy of guessing uniformly among the choices each question really has."""
    counts = list(num_choices)
    if not counts or min(counts) < 1:
        raise ValueError("chance level: at least one question with at least one choice is needed")
    return float(np.mean([1 / count for count in counts]))


def _tail(confidence: float) -> float:
    """Probability left out at each end."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: a number between 0 and 1 is needed, 0.95 for 95 %")
    return (1 - confidence) / 2


def _zeros_and_ones(values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or not np.isin(array, (0, 1)).all():
        raise ValueError("a non-empty one-dimensional list of right (1) and wrong (0) answers is needed")
    return array.astype(np.int64)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = _zeros_and_ones(a), _zeros_and_ones(b)
    if len(first) != len(second):
        raise ValueError(
            f"paired comparison of {len(first)} and {len(second)} answers: the same questions are needed"
        )
    return first, second


def _members(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """The number of each answer's cluster, [n], counted from 0 in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters])


def _drawn_answers(clusters: Sequence[Hashable], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each answer is in a bootstrap sample of clusters, a few resamples at a time: [R, n]."""
    if resamples < 1:
        raise ValueError(f"{resamples} resamples: at least 1 is needed")
    member_of = _members(clusters)
    num_clusters = int(member_of.max()) + 1
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _DRAWN_AT_A_TIME // len(member_of))
    for start in range(0, resamples, at_a_time):
        size = min(at_a_time, resamples - start)
        drawn = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size)
        yield drawn[:, member_of].astype(np.float64)


def _cluster_kinds(
    values: NDArray[Any], clusters: Sequence[Hashable]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Clusters grouped by kind: the sum, the size, and how many clusters have just these. [num_kinds] each.

    A bootstrap sample of clusters is a multinomial draw over these few kinds, which gives the same
    distribution as drawing clusters one by one, hundreds of times faster.
    """
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} answers but {len(clusters)} cluster names")
    member_of = _members(clusters)
    sums = np.bincount(member_of, weights=values).astype(values.dtype)
    sizes = np.bincount(member_of)
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    return kinds[:, 0], kinds[:, 1], counts


def _all_alike(sums: NDArray[Any], sizes: NDArray[Any]) -> bool:
    """Whether every cluster has the same mean, so that resampling would show no spread."""
    return bool(np.all(sums * sizes[0] == sums[0] * sizes))


def _resampled_means(
    sums: NDArray[Any], sizes: NDArray[Any], counts: NDArray[np.int64], resamples: int, seed: int
) -> NDArray[np.float64]:
    if resamples < 1:
        raise ValueError(f"{resamples} resamples: at least 1 is needed")
    num_clusters = int(counts.sum())
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_clusters, counts / num_clusters, size=resamples)
    return (drawn @ sums) / (drawn @ sizes)


def _percentiles(means: NDArray[np.float64], confidence: float) -> Interval:
    tail = 100 * _tail(confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(low), float(high), CLUSTER_BOOTSTRAP)
