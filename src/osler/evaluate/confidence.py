"""How far a model's confidence can be trusted on one test set: every number with its interval.

Two sources of confidence: the probability of the stated letter, where the completion stated it, and the share
of samples that agree. A question without a readable answer has none; it is counted, and comes last where
questions are ordered by confidence.

Shapes: n questions, m of them with a confidence, K choices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.evaluate.calibration import (
    LEAST_FOR_ECE,
    Floats,
    auroc,
    brier,
    calibration_error,
    calibration_error_interval,
    equal_mass_bins,
    error_if_calibrated,
    log_loss,
    padded,
    reliability,
)
from osler.evaluate.selective import (
    COVERAGES,
    NO_CONFIDENCE,
    accuracy_at_coverage,
    aurc,
    oracle_aurc,
    risk_curve,
)
from osler.evaluate.stats import Interval, accuracy_interval, bootstrap_interval
from osler.evaluate.summary import cluster_of
from osler.records import Prediction

CURVE_POINTS = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; None where resampling gives none."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers of similar confidence; `interval` is of their accuracy, 95 %."""

    n: int
    low: float
    high: float
    confidence: float  # mean
    accuracy: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One kind of confidence on one test set. What is None does not exist here."""

    source: str  # "probability of the letter", "agreement of 8 samples", …
    n: int
    num_with: int  # questions that have a confidence
    accuracy: Estimate  # of all n questions
    mean_confidence: float | None
    error: Estimate | None  # expected calibration error, equal-mass bins
    error_refused: str  # why there is none, "" where there is one
    error_if_calibrated: tuple[float, float] | None  # mean and 95th percentile by chance alone
    brier: Estimate | None
    auroc: Estimate | None
    log_loss: float | None  # nats, of the right choice; None where there is no distribution
    aurc: Estimate
    aurc_random: float  # risk at every coverage where order says nothing
    aurc_oracle: float
    at_coverage: tuple[tuple[float, Estimate], ...]  # (coverage, accuracy among the most confident)
    bins: tuple[ReliabilityBin, ...]
    curve: tuple[tuple[float, float], ...]  # (coverage, risk), thinned
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a threshold that was fixed on validation questions does on these."""

    wanted_risk: float
    least_confidence: float | None  # None: nothing is answered
    num_answered: int
    coverage: float
    risk: Estimate | None  # None where nothing is answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """Everything about one test set; stored in `summary.json` under "confidence"."""

    readings: tuple[Reading, ...]
    calibration: str  # what the calibrated reading was fitted on, or why there is none
    num_fitted_on: int  # questions here that the calibration was fitted on: should be 0
    threshold: Applied | None
    chance: float
    blind_accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """Answers with the distribution over the choices where each was stated."""

    clusters: tuple[Hashable, ...]  # [n]
    correct: NDArray[np.int64]  # [n], 0 or 1; 0 where nothing was read
    has: NDArray[np.bool_]  # [n], whether there is a distribution and a stated choice
    logprobs_mK: Floats  # -inf beyond a question's own choices
    stated: NDArray[np.int64]  # [m]
    answers: NDArray[np.int64]  # [m], the right choice

    def confidence(self, logprobs_mK: Floats) -> Floats:
        """Probability of each stated choice, [n]; `NO_CONFIDENCE` where there is none."""
        values = np.full(len(self.correct), NO_CONFIDENCE)
        values[self.has] = np.exp(logprobs_mK[np.arange(len(self.stated)), self.stated])
        return values


def stated_answers(
    predictions: Sequence[Prediction], logprobs: Mapping[str, Sequence[float] | None]
) -> Stated:
    """Join answers with log-probabilities by question id; whatever lacks either has no confidence."""
    found = [logprobs.get(p.question_id) for p in predictions]
    has = [
        p.extraction.index is not None and bool(values) and not any(map(math.isnan, values or ()))
        for p, values in zip(predictions, found, strict=True)
    ]
    kept = [(p, values) for p, values, one in zip(predictions, found, has, strict=True) if one and values]
    return Stated(
        clusters=tuple(map(cluster_of, predictions)),
        correct=np.array([int(p.correct) for p in predictions]),
        has=np.array(has, dtype=bool),
        logprobs_mK=padded([values for _, values in kept]) if kept else np.zeros((0, 1)),
        stated=np.array([p.extraction.index for p, _ in kept], dtype=np.int64),
        answers=np.array([p.answer_index for p, _ in kept], dtype=np.int64),
    )


def read_distribution(stated: Stated, logprobs_mK: Floats, source: str, notes: Sequence[str] = ()) -> Reading:
    """The numbers of a distribution over the choices: `stated`'s own, or one calibrated from it."""
    loss = log_loss(logprobs_mK, stated.answers) if len(logprobs_mK) else None
    return read_confidence(
        stated.confidence(logprobs_mK), stated.correct, stated.clusters, source, loss, notes
    )


def read_confidence(
    confidence: Floats,
    correct: NDArray[np.int64],
    clusters: Sequence[Hashable],
    source: str,
    loss: float | None = None,
    notes: Sequence[str] = (),
) -> Reading:
    """Every number of one confidence, [n] with `NO_CONFIDENCE` where there is none; `correct` [n] 0 or 1."""
    has = confidence != NO_CONFIDENCE
    c, y = confidence[has], correct[has]
    names = [name for name, one in zip(clusters, has, strict=True) if one]
    enough = len(c) >= LEAST_FOR_ECE

    def among(statistic: Any) -> Estimate | None:
        value = float(statistic(c, y)[0]) if len(c) else math.nan
        if math.isnan(value):
            return None
        return Estimate(value, bootstrap_interval(lambda w_Rm: statistic(c, y, w_Rm), names))

    def of_all(statistic: Any) -> Estimate:
        interval = bootstrap_interval(lambda w_Rn: statistic(confidence, correct, w_Rn), clusters)
        return Estimate(float(statistic(confidence, correct)[0]), interval)

    def at(coverage: float) -> Estimate:
        return of_all(lambda *values: accuracy_at_coverage(coverage, *values))

    accuracy = float(correct.mean())
    return Reading(
        source=source,
        n=len(correct),
        num_with=len(c),
        accuracy=Estimate(accuracy, accuracy_interval(correct, clusters)),
        mean_confidence=float(c.mean()) if len(c) else None,
        error=_error(c, y, names) if enough else None,
        error_refused=""
        if enough
        else f"refused: {LEAST_FOR_ECE} answers with a confidence are needed, here are {len(c)}",
        error_if_calibrated=error_if_calibrated(c) if enough else None,
        brier=among(brier),
        auroc=among(auroc),
        log_loss=loss,
        aurc=of_all(aurc),
        aurc_random=1 - accuracy,
        aurc_oracle=oracle_aurc(correct),
        at_coverage=tuple((coverage, at(coverage)) for coverage in COVERAGES),
        bins=_bins(c, y, names) if enough else (),
        curve=_thinned(*risk_curve(confidence, correct)),
        notes=tuple(notes),
    )


def vote(
    samples: Sequence[Sequence[Prediction]], greedy: Sequence[Prediction]
) -> tuple[Floats, NDArray[np.int64], tuple[str, ...]]:
    """Self-consistency (Wang et al. 2022): (agreement [n], whether the majority is right [n], notes).

    `samples` are G predictions files over the same questions as `greedy`, in the same order. Agreement is the
    majority's share of all G samples, the unreadable ones included. A tie goes to the greedy answer where
    that is among the first; else there is no majority, which counts as no answer.
    """
    agreement, right, ties = np.full(len(greedy), NO_CONFIDENCE), np.zeros(len(greedy), dtype=np.int64), 0
    unread = 0
    for i, (main, *drawn) in enumerate(zip(greedy, *samples, strict=True)):
        counts = Counter(p.extraction.index for p in drawn)
        unread += counts.pop(None, 0)
        first = [choice for choice, count in counts.items() if count == max(counts.values())]
        if len(first) > 1:
            first = [choice for choice in first if choice == main.extraction.index]
            ties += not first
        if first:
            agreement[i] = counts[first[0]] / len(drawn)
            right[i] = int(first[0] == main.answer_index)
    num_drawn = len(samples) * len(greedy)
    return agreement, right, (f"{unread} of {num_drawn} samples unread; {ties} questions without a majority",)


def apply_threshold(wanted_risk: float, least: float | None, confidence: Floats, stated: Stated) -> Applied:
    """What is answered from `least` on, and how often that is wrong."""
    answered = confidence >= (math.inf if least is None else least)
    risk = None
    if answered.any():
        wrong = 1 - stated.correct[answered]
        names = [name for name, one in zip(stated.clusters, answered, strict=True) if one]
        risk = Estimate(float(wrong.mean()), accuracy_interval(wrong, names))
    return Applied(
        wanted_risk=wanted_risk,
        least_confidence=least,
        num_answered=int(answered.sum()),
        coverage=float(answered.mean()),
        risk=risk,
    )


def confidence_from_json(values: Mapping[str, Any]) -> Confidence:
    """Inverse of `dataclasses.asdict`. Raises KeyError or TypeError for foreign values."""

    def estimate(v: Mapping[str, Any] | None) -> Estimate | None:
        if v is None:
            return None
        return Estimate(v["value"], None if v["interval"] is None else Interval(**v["interval"]))

    def reading(v: Mapping[str, Any]) -> Reading:
        made: dict[str, Any] = {f.name: v[f.name] for f in fields(Reading)}
        made |= {key: estimate(v[key]) for key in ("accuracy", "error", "brier", "auroc", "aurc")}
        made["at_coverage"] = tuple((coverage, estimate(e)) for coverage, e in v["at_coverage"])
        made["bins"] = tuple(
            ReliabilityBin(**{**b, "interval": Interval(**b["interval"])}) for b in v["bins"]
        )
        made["curve"] = tuple((x, y) for x, y in v["curve"])
        by_chance = v["error_if_calibrated"]
        made["error_if_calibrated"] = None if by_chance is None else tuple(by_chance)
        made["notes"] = tuple(v["notes"])
        return Reading(**made)

    threshold = values["threshold"]
    return Confidence(
        readings=tuple(map(reading, values["readings"])),
        calibration=values["calibration"],
        num_fitted_on=values["num_fitted_on"],
        threshold=None
        if threshold is None
        else Applied(**{**threshold, "risk": estimate(threshold["risk"])}),
        chance=values["chance"],
        blind_accuracy=values["blind_accuracy"],
    )


def _error(confidence: Floats, correct: NDArray[np.int64], clusters: Sequence[Hashable]) -> Estimate:
    interval = calibration_error_interval(confidence, correct, clusters)
    return Estimate(float(calibration_error(confidence, correct)[0]), interval)


def _bins(
    confidence: Floats, correct: NDArray[np.int64], clusters: Sequence[Hashable]
) -> tuple[ReliabilityBin, ...]:
    bin_of = equal_mass_bins(confidence)
    found = []
    for number, one in enumerate(reliability(confidence, correct)):
        inside = bin_of == number
        names = [name for name, taken in zip(clusters, inside, strict=True) if taken]
        interval = accuracy_interval(correct[inside], names)
        found.append(ReliabilityBin(one.n, one.low, one.high, one.confidence, one.accuracy, interval))
    return tuple(found)


def _thinned(coverage: Floats, risk: Floats) -> tuple[tuple[float, float], ...]:
    """At most `CURVE_POINTS` points of a curve, the last one always."""
    kept = np.unique(np.linspace(0, len(coverage) - 1, CURVE_POINTS).round().astype(int))
    return tuple(zip(coverage[kept].tolist(), risk[kept].tolist(), strict=True))
