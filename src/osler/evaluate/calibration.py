"""Whether a confidence can be taken at its word, and two ways to make it so.

A confidence is a number from 0 to 1 that goes with an answer: the probability of its letter, or the share of
samples that agree. Calibration error and Brier score ask whether it is the share of right answers, AUROC
whether right answers have more of it than wrong ones. What can be done with it by not answering is in
`osler.evaluate.selective`.

Shapes: n answers, K choices (the largest number of any question), B bins, L distinct confidences,
R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osler.evaluate.stats import CLUSTER_BOOTSTRAP, STATISTIC_RESAMPLES, Interval, bootstrap_interval

Floats = NDArray[np.float64]

NUM_BINS = 10
LEAST_FOR_ECE = 300  # below this, ten bins hold fewer than thirty answers each: noise, whatever the model
TEMPERATURES = (0.01, 100.0)  # bounds of the fit


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability diagram: answers of similar confidence.

    >>> Bin(n=2, low=0.4, high=0.6, confidence=0.5, num_correct=1).accuracy
    0.5
    """

    n: int
    low: float  # smallest and largest confidence in it
    high: float
    confidence: float  # mean
    num_correct: int

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.n


@dataclass(frozen=True, slots=True)
class Platt:
    """The confidence of a stated answer is expit(slope * logit(its probability) + offset)."""

    slope: float
    offset: float


def equal_mass_bins(confidence: ArrayLike, num_bins: int = NUM_BINS) -> NDArray[np.int64]:
    """The bin of each answer, [n], from 0: as many answers in each as ties allow.

    Equal confidences stay together, so that no number depends on the order of the answers; a bin that ties
    leave empty does not occur.
    """
    _, level, sizes = np.unique(np.asarray(confidence), return_inverse=True, return_counts=True)
    middles = (np.cumsum(sizes) - sizes / 2)[
        level
    ]  # how many answers lie below the middle of each one's level
    found = np.floor(num_bins * middles / len(level)).astype(np.int64)
    return np.unique(found, return_inverse=True)[1]


def reliability(confidence: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """The bins of a reliability diagram, from the least confident to the most; `correct` [n] holds 0 or 1."""
    values, hits = _pair(confidence, correct)
    bins = equal_mass_bins(values, num_bins)
    return tuple(
        Bin(len(c), float(c.min()), float(c.max()), float(c.mean()), int(h.sum()))
        for c, h in ((values[bins == b], hits[bins == b]) for b in range(bins.max() + 1))
    )


def calibration_error(
    confidence: ArrayLike, correct: ArrayLike, weights_Rn: Floats | None = None, num_bins: int = NUM_BINS
) -> Floats:
    """Expected calibration error over equal-mass bins, [R]: the mean over answers of |accuracy - confidence|
    of their bin (Naeini et al. 2015; equal mass: Nguyen and O'Connor 2015).

    `weights_Rn` count how often each answer is taken, once without it; the bins are those of the answers
    themselves, whatever the weights.
    """
    values, hits = _pair(confidence, correct)
    weights_Rn = np.ones((1, len(values))) if weights_Rn is None else weights_Rn
    in_bin_nB = _one_hot(equal_mass_bins(values, num_bins))
    gaps_RB = np.abs((weights_Rn * (hits - values)) @ in_bin_nB)
    return gaps_RB.sum(axis=1) / weights_Rn.sum(axis=1)


def error_if_calibrated(
    confidence: ArrayLike, num_bins: int = NUM_BINS, draws: int = STATISTIC_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """(mean, 95th percentile) of the calibration error that a perfectly calibrated model would show.

    The estimate is above 0 by chance alone: a bin's accuracy scatters, and its distance from the confidence
    has no sign. Answers are drawn right with just their confidence, each on its own (Broecker and Smith 2007,
    consistency resampling).
    """
    values = np.asarray(confidence, dtype=np.float64)
    in_bin_nB = _one_hot(equal_mass_bins(values, num_bins))
    rng = np.random.default_rng(seed)
    errors = [
        np.abs(((rng.random(len(values)) < values) - values) @ in_bin_nB).sum() / len(values)
        for _ in range(draws)
    ]
    return float(np.mean(errors)), float(np.percentile(errors, 95))


def calibration_error_interval(
    confidence: ArrayLike,
    correct: ArrayLike,
    clusters: Sequence[Hashable],
    resamples: int = STATISTIC_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % interval of the calibration error, whole clusters drawn with replacement.

    The plain percentile interval is wrong here: a resample scatters once more, so it lies above the estimate,
    which lies above the truth (decision 19 has the simulation). This one reaches from the lower to the upper
    end of the percentile and the basic interval together, and from 0 where a calibrated model would show as
    much.
    """
    error = float(calibration_error(confidence, correct)[0])
    drawn = bootstrap_interval(
        lambda weights_Rn: calibration_error(confidence, correct, weights_Rn), clusters, resamples, seed
    )
    assert drawn is not None  # the error exists for every resample
    low = min(drawn.low, 2 * error - drawn.high)
    if error <= error_if_calibrated(confidence, draws=resamples, seed=seed)[1]:
        low = 0.0
    return Interval(max(0.0, low), max(drawn.high, 2 * error - drawn.low), CLUSTER_BOOTSTRAP)


def brier(confidence: ArrayLike, correct: ArrayLike, weights_Rn: Floats | None = None) -> Floats:
    """Mean squared distance of confidence and right (1) or wrong (0), [R] (Brier 1950)."""
    values, hits = _pair(confidence, correct)
    weights_Rn = np.ones((1, len(values))) if weights_Rn is None else weights_Rn
    return weights_Rn @ (values - hits) ** 2 / weights_Rn.sum(axis=1)


def auroc(confidence: ArrayLike, correct: ArrayLike, weights_Rn: Floats | None = None) -> Floats:
    """Probability that a right answer has more confidence than a wrong one, ties by half, [R].

    NaN where all are right or all are wrong.
    """
    values, hits = _pair(confidence, correct)
    weights_Rn = np.ones((1, len(values))) if weights_Rn is None else weights_Rn
    right_RL, wrong_RL = by_level(values, weights_Rn * hits), by_level(values, weights_Rn * (1 - hits))
    wrong_above_RL = wrong_RL.cumsum(axis=1) - wrong_RL
    wrong_R = wrong_RL.sum(axis=1, keepdims=True)
    pairs_R = (right_RL * (wrong_R - wrong_above_RL - wrong_RL / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return pairs_R / (right_RL.sum(axis=1) * wrong_R[:, 0])


def by_level(confidence: Floats, values_Rn: Floats) -> Floats:
    """Sums over answers of equal confidence, [R, L], from the highest confidence down."""
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return np.add.reduceat(values_Rn[:, order], starts, axis=1)


def padded(logprobs: Sequence[Sequence[float]]) -> Floats:
    """Log-probabilities [n, K] of questions with different numbers of choices; -inf where there is none."""
    logprobs_nK = np.full((len(logprobs), max(map(len, logprobs))), -np.inf)
    for row_K, values in zip(logprobs_nK, logprobs, strict=True):
        row_K[: len(values)] = values
    return logprobs_nK


def log_loss(logprobs_nK: Floats, answers: ArrayLike) -> float:
    """Mean negative log-probability of the right choice, nats; `answers` [n] are positions."""
    return float(-np.mean(logprobs_nK[np.arange(len(logprobs_nK)), np.asarray(answers)]))


def with_temperature(logprobs_nK: Floats, temperature: float) -> Floats:
    """The distributions with their log-probabilities divided by a temperature, normalised again, [n, K]."""
    scaled_nK = logprobs_nK / temperature
    return scaled_nK - np.logaddexp.reduce(scaled_nK, axis=1, keepdims=True)


def fit_temperature(logprobs_nK: Floats, answers: ArrayLike) -> float:
    """The temperature with the smallest log loss (Guo et al. 2017), within `TEMPERATURES`.

    The loss is convex in 1 / temperature. It has no minimum where the most probable choice is always right,
    and falls to the high bound where the distributions say nothing about the answers.
    """

    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return log_loss(with_temperature(logprobs_nK, float(np.exp(log_temperature))), answers)

    found = minimize_scalar(
        loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-7}
    )
    return float(np.exp(found.x))


def log_odds(logprobs_nK: Floats, stated: ArrayLike) -> Floats:
    """logit of the probability of each stated choice, [n]; exact where that probability rounds to 1."""
    rows, columns = np.arange(len(logprobs_nK)), np.asarray(stated)
    others_nK = logprobs_nK.copy()
    others_nK[rows, columns] = -np.inf
    return logprobs_nK[rows, columns] - np.logaddexp.reduce(others_nK, axis=1)


def fit_platt(odds: ArrayLike, correct: ArrayLike) -> Platt:
    """Logistic regression of right or wrong on the logit of the confidence, [n] each (Platt 1999).

    With Platt's targets, (right + 1) / (right + 2) and 1 / (wrong + 2) in place of 1 and 0, which keep the
    fit finite where the confidence separates the two, or where all are right.
    """
    from scipy.optimize import minimize

    x, hits = _pair(odds, correct)
    num_right = float(hits.sum())
    high, low = (num_right + 1) / (num_right + 2), 1 / (len(hits) - num_right + 2)
    targets = np.where(hits == 1, high, low)

    def loss(values: Floats) -> tuple[float, Floats]:
        z = values[0] * x + values[1]
        gap = np.exp(-np.logaddexp(0, -z)) - targets
        return float(np.sum(np.logaddexp(0, z) - targets * z)), np.array([gap @ x, gap.sum()])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-8})
    return Platt(float(found.x[0]), float(found.x[1]))


def with_platt(logprobs_nK: Floats, stated: ArrayLike, platt: Platt) -> Floats:
    """The distributions [n, K] with the stated choice at its Platt confidence; the others share the rest in
    the proportions they had."""
    rows, columns = np.arange(len(logprobs_nK)), np.asarray(stated)
    z = platt.slope * log_odds(logprobs_nK, stated) + platt.offset
    others_nK = logprobs_nK.copy()
    others_nK[rows, columns] = -np.inf
    rest_nK = others_nK - np.logaddexp.reduce(others_nK, axis=1, keepdims=True) - np.logaddexp(0, z)[:, None]
    rest_nK[rows, columns] = -np.logaddexp(0, -z)
    return rest_nK


def _one_hot(bins: NDArray[np.int64]) -> Floats:
    return np.eye(int(bins.max()) + 1)[bins]


def _pair(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or values.shape != hits.shape:
        raise ValueError(
            f"confidences {values.shape} and outcomes {hits.shape}: one of each per answer is needed"
        )
    if np.isnan(values).any() or not np.isin(hits, (0, 1)).all():
        raise ValueError("confidences must be numbers, and outcomes 1 (right) or 0 (wrong)")
    return values, hits
