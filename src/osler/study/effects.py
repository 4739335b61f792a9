"""Differences between the rows of a study, pooled over what they were trained and tested on.

Two rows are compared question by question: each answer of b against the answer of a to the same question,
where a was trained on the same thing with the same seed, or not trained at all. An image that is asked about
more than once, or asked of several models, is one cluster. Seeds of training are pooled as they are: the
intervals are about other questions, not about other trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from osler.evaluate.stats import (
    Interval,
    accuracy_interval,
    chance_level,
    cluster_flip_test,
    holm,
    paired_cluster_bootstrap,
)
from osler.evaluate.summary import cluster_of
from osler.records import Prediction
from osler.study.results import Line, StudyResults, mean_tokens

Domain = Literal["all", "in", "out"]
Where = Callable[[Prediction], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Accuracy over the answers of several models. Fractions of 1."""

    n: int  # answers
    accuracy: float
    interval: Interval
    chance: float
    blind: float | None  # accuracy of the blind baselines of their training sets; None where not all have one
    num_tokens: float | None  # mean per completion; None where not all were counted
    parse_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """b against a on the same questions. Fractions of 1; p is two-sided, with whole clusters."""

    a: str  # row names
    b: str
    n: int  # pairs of answers
    accuracy_a: float
    accuracy_b: float
    interval: Interval
    p: float
    holm_p: float  # equal to p until the family is known

    @property
    def difference(self) -> float:
        return self.accuracy_b - self.accuracy_a


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """An effect on the questions of one value."""

    scope: str  # "modality" or "question_type"
    value: str
    effect: Effect


def lines_of(results: StudyResults, row: str) -> tuple[Line, ...]:
    return tuple(line for line in results.lines if line.row == row)


def value_of(results: StudyResults, prediction: Prediction) -> str:
    """The column that an answer belongs to."""
    return prediction.modality.value if results.study.axis == "modality" else prediction.question_type.value


def pooled(
    results: StudyResults, lines: Sequence[Line], domain: Domain = "all", like: Sequence[Line] = ()
) -> Pooled | None:
    """All answers of `lines` within a domain; None where there are none.

    A model that was not trained has no domain: it is given those of `like`, one after the other.
    """
    found: list[tuple[Line, Prediction]] = []
    for line in lines:
        given = [line.on] if line.on or domain == "all" else dict.fromkeys(other.on for other in like)
        for on in given:
            found += [(line, p) for p in line.predictions if _inside(results, p, on, domain)]
    if not found:
        return None
    correct = [p.correct for _, p in found]
    blind = [line.blind[p.question_id] for line, p in found if line.on and p.question_id in line.blind]
    return Pooled(
        n=len(found),
        accuracy=float(np.mean(correct)),
        interval=accuracy_interval(correct, [cluster_of(p) for _, p in found]),
        chance=chance_level([p.num_choices for _, p in found]),
        blind=float(np.mean(blind)) if len(blind) == len(found) else None,
        num_tokens=mean_tokens([p for _, p in found]),
        parse_rate=float(np.mean([p.extraction.index is not None for _, p in found])),
    )


def effect(
    results: StudyResults, a: str, b: str, domain: Domain = "all", where: Where = lambda p: True
) -> Effect | None:
    """Row b against row a; None where no question was asked of both."""
    pairs = [
        (left, right)
        for line_a, line_b in _matched(lines_of(results, a), lines_of(results, b))
        for left, right in _paired(line_a, line_b)
        if _inside(results, right, line_b.on, domain) and where(right)
    ]
    if not pairs:
        return None
    right_a, right_b = [p.correct for p, _ in pairs], [p.correct for _, p in pairs]
    clusters = [cluster_of(p) for _, p in pairs]
    p = cluster_flip_test(right_a, right_b, clusters)[1]
    return Effect(
        a=a,
        b=b,
        n=len(pairs),
        accuracy_a=float(np.mean(right_a)),
        accuracy_b=float(np.mean(right_b)),
        interval=paired_cluster_bootstrap(right_a, right_b, clusters),
        p=p,
        holm_p=p,
    )


def subgroups(results: StudyResults, a: str, b: str) -> tuple[Subgroup, ...]:
    """The effect by column, then by the other label; p values adjusted over all of them."""
    found = []
    for scope in _scopes(results):
        values = dict.fromkeys(_label(p, scope) for line in lines_of(results, b) for p in line.predictions)
        ordered = (
            [v for v in results.columns if v in values] if scope == results.study.axis else sorted(values)
        )
        for value in ordered if len(values) > 1 else ():
            one = effect(results, a, b, where=lambda p, s=scope, v=value: _label(p, s) == v)  # type: ignore[misc]
            if one is not None:
                found.append(Subgroup(scope=scope, value=value, effect=one))
    adjusted: Iterable[float] = holm([one.effect.p for one in found]) if found else ()
    return tuple(
        replace(one, effect=replace(one.effect, holm_p=float(p)))
        for one, p in zip(found, adjusted, strict=True)
    )


def _scopes(results: StudyResults) -> tuple[str, str]:
    other = "question_type" if results.study.axis == "modality" else "modality"
    return results.study.axis, other


def _label(prediction: Prediction, scope: str) -> str:
    return prediction.modality.value if scope == "modality" else prediction.question_type.value


def _inside(results: StudyResults, prediction: Prediction, on: str, domain: Domain) -> bool:
    value = value_of(results, prediction)
    if value not in results.columns:
        return False
    return domain == "all" or (value == on) == (domain == "in")


def _matched(lines_a: Sequence[Line], lines_b: Sequence[Line]) -> Iterator[tuple[Line, Line]]:
    """Each line of b with the line of a that has its training set and seed, or that was not trained."""
    by_key = {(line.on, line.seed): line for line in lines_a}
    for line in lines_b:
        partner = by_key.get((line.on, line.seed)) or by_key.get(("", None))
        if partner is not None:
            yield partner, line


def _paired(a: Line, b: Line) -> Iterable[tuple[Prediction, Prediction]]:
    """Answers to the same question, which must be the same question still."""
    answers = {p.question_id: p for p in a.predictions}
    for p in b.predictions:
        other = answers.get(p.question_id)
        if other is not None and a.question_digests[p.question_id] == b.question_digests[p.question_id]:
            yield other, p
