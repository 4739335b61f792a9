"""Answering only where confidence is high: what is risked at which coverage, and where to draw the line.

Coverage is the share of all questions that are answered, the most confident first; risk is the share of wrong
answers among them. A question whose completion could not be read has no confidence: it comes last, and where
coverage forces an answer it counts as wrong. So risk at coverage 1 is one minus the accuracy that is reported
everywhere else. Answers of equal confidence are taken in random order, and every number is the mean over
these orders: nothing depends on the order of the questions.

Shapes: n questions, L distinct confidences, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from osler.evaluate.calibration import Floats, by_level
from osler.evaluate.stats import paired_design_effect

NO_CONFIDENCE = -np.inf
COVERAGES = (0.80, 0.90, 0.95)
# Fixed beforehand, so that ten looks can be paid for.
THRESHOLD_COVERAGES = tuple(i / 10 for i in range(1, 11))
GUARANTEE = (
    "with 95 % probability over such validation questions the risk among answered questions is at most the "
    "wanted one (coverages of 10, 20, … 100 % tested by Clopper and Pearson's upper bound, clusters by "
    "effective sample size, the error probability shared by the fallback procedure)"
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where to abstain so that the risk among answers stays below a wanted one, and on what grounds.

    `least_confidence` is None where no coverage showed it: then nothing is answered.
    """

    wanted_risk: float
    least_confidence: float | None  # answered from here on
    coverage: float  # on the questions it was chosen on
    risk: float | None  # on the same, observed; None where nothing is answered
    upper_bound: float | None  # of the risk, as it was tested
    guarantee: str = GUARANTEE


def risk_curve(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """(coverage, risk) where each further level of confidence is answered, [L] each, coverage rising to 1."""
    answered, wrong = _cumulated(confidence, correct, None)
    return answered[0] / answered[0, -1], wrong[0] / answered[0]


def aurc(confidence: ArrayLike, correct: ArrayLike, weights_Rn: Floats | None = None) -> Floats:
    """Area under the risk-coverage curve, [R]: the mean risk over 1, 2, … n answered questions
    (Geifman, Uziel and El-Yaniv 2019)."""
    found = []
    for answered_L, wrong_L in zip(*_cumulated(confidence, correct, weights_Rn), strict=True):
        k = np.arange(1, round(answered_L[-1]) + 1)
        found.append(np.mean(np.interp(k, *_from_zero(answered_L, wrong_L)) / k))
    return np.array(found)


def oracle_aurc(correct: ArrayLike) -> float:
    """The area that is left when every right answer comes before every wrong one."""
    return float(aurc(np.asarray(correct, dtype=np.float64), correct)[0])


def accuracy_at_coverage(
    coverage: float, confidence: ArrayLike, correct: ArrayLike, weights_Rn: Floats | None = None
) -> Floats:
    """Accuracy among the ceil(coverage * n) most confident, [R]."""
    found = []
    for answered_L, wrong_L in zip(*_cumulated(confidence, correct, weights_Rn), strict=True):
        k = ceil(round(coverage * answered_L[-1], 9))
        found.append(1 - np.interp(k, *_from_zero(answered_L, wrong_L)) / k)
    return np.array(found)


def choose_threshold(
    confidence: ArrayLike,
    correct: ArrayLike,
    clusters: Sequence[Hashable],
    wanted_risk: float,
    confidence_level: float = 0.95,
) -> Threshold:
    """The lowest threshold at which the risk is shown to be at most `wanted_risk`, as `GUARANTEE` says.

    Ten coverages are tested, from the smallest up, each at a tenth of the error probability; one that passes
    hands its share on to the next (fallback procedure, Wiens 2003). So whichever is chosen, the guarantee
    holds (Geifman and El-Yaniv 2017 search with a plain tenth); it holds for further questions from the same
    source, and for no others. `confidence` [n] is `NO_CONFIDENCE` where there is none.
    """
    if not 0 < wanted_risk < 1:
        raise ValueError(f"wanted risk {wanted_risk}: between 0 and 1 is needed")
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.int64)
    share = (1 - confidence_level) / len(THRESHOLD_COVERAGES)
    ordered = np.sort(values)[::-1]
    chosen, handed_on = Threshold(wanted_risk, None, 0.0, None, None), 0.0
    for coverage in THRESHOLD_COVERAGES:
        least = ordered[ceil(round(coverage * len(values), 9)) - 1]
        if least == NO_CONFIDENCE:
            break
        inside = values >= least
        names = [name for name, taken in zip(clusters, inside, strict=True) if taken]
        error_probability = share + handed_on
        bound = upper_risk(1 - hits[inside], names, 1 - error_probability)
        handed_on = error_probability if bound <= wanted_risk else 0.0
        if bound <= wanted_risk:
            risk = float(1 - hits[inside].mean())
            chosen = Threshold(wanted_risk, float(least), float(inside.mean()), risk, bound)
    return chosen


def upper_risk(wrong: NDArray[np.int64], clusters: Sequence[Hashable], level: float) -> float:
    """Clopper-Pearson's one-sided upper bound of a share of wrong answers, [n] of 0 and 1.

    Questions about one image count for less than independent ones: n is divided by the design effect
    (Korn and Graubard 1998); where no answer, or every answer, is wrong, each cluster counts once.
    """
    from scipy.stats import beta

    n = len(wrong)
    if 0 < wrong.sum() < n:
        effective = n / paired_design_effect(np.zeros(n), wrong, clusters)
    else:
        effective = len(set(clusters))
    share = float(wrong.mean())
    return 1.0 if share == 1 else float(beta.ppf(level, share * effective + 1, (1 - share) * effective))


def _cumulated(confidence: ArrayLike, correct: ArrayLike, weights_Rn: Floats | None) -> tuple[Floats, Floats]:
    """Questions answered and wrong answers among them down to each level of confidence, [R, L] each.

    Levels that a resample missed keep the counts of the level above.
    """
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if values.shape != hits.shape or values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise ValueError("one confidence and one outcome per question are needed")
    weights_Rn = np.ones((1, len(values))) if weights_Rn is None else weights_Rn
    answered_RL = by_level(values, weights_Rn).cumsum(axis=1)
    return answered_RL, by_level(values, weights_Rn * (1 - hits)).cumsum(axis=1)


def _from_zero(answered_L: Floats, wrong_L: Floats) -> tuple[Floats, Floats]:
    """The line of wrong answers over answered questions, from nothing answered."""
    return np.append(0.0, answered_L), np.append(0.0, wrong_L)
