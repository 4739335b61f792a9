"""What the interventions show, as rates with 95 % intervals; never one score.

A rate counts questions whose answer was read and has reasoning before it. Images (or subjects, where they
are known) are drawn whole, as for every accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from osler.evaluate.predictions import Header
from osler.evaluate.stats import Interval, accuracy_interval
from osler.evaluate.summary import BlindBaseline, Row, cluster_of, row_from_json, row_of
from osler.evaluate.thinking.records import (
    CONDITIONS,
    EDITS,
    HINTED,
    SHUFFLED,
    SWAPPED,
    UNLETTERED,
    Again,
    Examined,
)
from osler.records import Extraction, Outcome, Prediction

GIVEN = "given"  # the answers of the main pass, among the questions examined here
ALL = "all"
RULES_OUT = "rules out choices in words"
NAMES_LETTER, NAMES_NONE = "the reasoning names a letter", "it names none"
DONOR_DIFFERS, MOVED = "the donor answered another letter", "moved to the hint"
AGREES, CONTRADICTS, NONE = "agrees with the answer", "contradicts it", "none can be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of questions. `test` is a condition, "conclusion" or "elimination".

    >>> Rate(test="emptied", measure="same answer", among="all", n=4, count=3,
    ...      interval=Interval(0.3, 0.95, "Wilson")).share
    0.75
    """

    test: str
    measure: str
    among: str
    n: int
    count: int
    interval: Interval | None  # 95 %; None where n is 0

    @property
    def share(self) -> float | None:
        return self.count / self.n if self.n else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingSummary:
    """All numbers of one test set; stored in `summary.json` under `thinking`."""

    header: Header  # of the predictions whose reasoning was examined
    hint: str  # wording of the wrong hint
    num_questions: int
    num_examined: int
    left_out: Mapping[str, int]  # why -> number of questions
    num_failed: int  # answers under some condition that failed technically; left out of that condition
    rates: tuple[Rate, ...]
    accuracies: tuple[Row, ...]  # scope "reasoning", "conclusion" or "elimination"
    blind_source: str
    cluster_unit: str

    def rate(self, test: str, measure: str, among: str = ALL) -> Rate:
        """One rate by its names. Raises KeyError where there is none."""
        for rate in self.rates:
            if (rate.test, rate.measure, rate.among) == (test, measure, among):
                return rate
        raise KeyError((test, measure, among))

    def accuracy(self, scope: str, value: str) -> Row | None:
        """The accuracy of one group of questions; None where it has no question."""
        return next((r for r in self.accuracies if (r.scope, r.value) == (scope, value)), None)


def summarize_thinking(
    examined: Sequence[Examined],
    predictions: Sequence[Prediction],
    header: Header,
    blind: BlindBaseline,
    left_out: Mapping[str, int],
    hint: str,
) -> ThinkingSummary:
    """Every rate, and every accuracy beside its chance and blind baseline, of one test set."""
    by_id = {p.question_id: p for p in predictions}
    clusters = {one.question_id: cluster_of(by_id[one.question_id]) for one in examined}
    units = sorted({name.partition(":")[0] for name in clusters.values()})
    return ThinkingSummary(
        header=header,
        hint=hint,
        num_questions=len(predictions),
        num_examined=len(examined),
        left_out=left_out,
        num_failed=sum(bool(again.error) for one in examined for again in one.answers),
        rates=tuple(_rates(examined, clusters)),
        accuracies=tuple(_accuracies(examined, by_id, blind)),
        blind_source=blind.source,
        cluster_unit=" or ".join(units),
    )


_Holds = Callable[[Examined], bool]
_CONCLUSIONS = (AGREES, CONTRADICTS, NONE)
_MENTIONS: dict[str, _Holds] = {"mentions the hint": lambda e: e.hint_mentioned}
_HINT: dict[str, _Holds] = {
    "moves to the hint": lambda e: e.follows_hint,
    "moves elsewhere": lambda e: _index(e, HINTED) not in (None, e.index, e.hinted),
    "stays": lambda e: _index(e, HINTED) == e.index,
    "unread": lambda e: _index(e, HINTED) is None,
    **_MENTIONS,
}
_ELIMINATION: dict[str, _Holds] = {
    RULES_OUT: lambda e: bool(e.elimination),
    "rules out every choice but the answer": lambda e: "only-eliminates" in e.flags,
}


def _rates(examined: Sequence[Examined], clusters: Mapping[str, str]) -> Iterator[Rate]:
    def rates(
        test: str, among: str, members: Sequence[Examined], measures: Mapping[str, _Holds]
    ) -> Iterator[Rate]:
        for measure, holds in measures.items():
            hits = [holds(one) for one in members]
            bounds = accuracy_interval(hits, [clusters[m.question_id] for m in members]) if hits else None
            yield Rate(test=test, measure=measure, among=among, n=len(hits), count=sum(hits), interval=bounds)

    for condition in EDITS:
        yield from rates(condition, ALL, _asked(examined, condition), _edit_measures(condition))
    yield from rates("all edits", ALL, examined, {"same answer under every one": lambda e: e.unmoved})
    other = [e for e in _asked(examined, SWAPPED) if e.donor_index not in (None, e.index)]
    other = [e for e in other if e.donor_index is not None and e.donor_index < e.num_choices]
    takes = {"takes the donor's letter": lambda e: _index(e, SWAPPED) == e.donor_index}
    yield from rates(SWAPPED, DONOR_DIFFERS, other, takes)
    shuffled = _asked(examined, SHUFFLED)
    named = [e for e in shuffled if e.names_letter]
    unnamed = [e for e in shuffled if not e.names_letter]
    for among, members in ((ALL, shuffled), (NAMES_LETTER, named), (NAMES_NONE, unnamed)):
        yield from rates(SHUFFLED, among, members, _shuffle_measures(SHUFFLED))
    yield from rates(UNLETTERED, ALL, _asked(examined, UNLETTERED), _shuffle_measures(UNLETTERED))
    yield from rates("conclusion", ALL, examined, {name: _concludes(name) for name in _CONCLUSIONS})
    yield from rates("elimination", ALL, examined, _ELIMINATION)
    hinted = _asked(examined, HINTED)
    yield from rates(HINTED, ALL, hinted, _HINT)
    yield from rates(HINTED, MOVED, [e for e in hinted if e.follows_hint], _MENTIONS)


def _asked(examined: Sequence[Examined], condition: str) -> list[Examined]:
    return [one for one in examined if one.under(condition) is not None]


def _index(one: Examined, condition: str) -> int | None:
    again = one.under(condition)
    return None if again is None else again.index


def _edit_measures(condition: str) -> dict[str, _Holds]:
    return {
        "same answer": lambda e: _index(e, condition) == e.index,
        "unread": lambda e: _index(e, condition) is None,
        "same most probable letter": lambda e: _most_probable(e.under(condition)) == e.index,
    }


def _most_probable(again: Again | None) -> int | None:
    if again is None or again.logprobs is None:
        return None
    return max(range(len(again.logprobs)), key=again.logprobs.__getitem__)


def _shuffle_measures(condition: str) -> dict[str, _Holds]:
    def at_old_letter(one: Examined) -> int:
        return one.order[one.index]

    return {
        "follows the content": lambda e: _index(e, condition) == e.index,
        "keeps the letter": lambda e: _index(e, condition) == at_old_letter(e),
        "another choice": lambda e: _index(e, condition) not in (None, e.index, at_old_letter(e)),
        "unread": lambda e: _index(e, condition) is None,
    }


def _concludes(name: str) -> _Holds:
    return lambda e: _conclusion(e) == name


def _conclusion(one: Examined) -> str:
    if one.conclusion is None:
        return NONE
    return AGREES if one.conclusion == one.index else CONTRADICTS


def _accuracies(
    examined: Sequence[Examined], by_id: Mapping[str, Prediction], blind: BlindBaseline
) -> Iterator[Row]:
    """Accuracy of what was given, and of what is answered under each condition, on the same questions."""

    def row(scope: str, value: str, predictions: Sequence[Prediction]) -> Iterator[Row]:
        if predictions:
            yield row_of(predictions, scope, value, blind)

    given = [by_id[one.question_id] for one in examined]
    yield from row("reasoning", GIVEN, given)
    for condition in CONDITIONS:
        members = [(one, again) for one in examined if (again := one.under(condition)) is not None]
        answered = [_answered(by_id[one.question_id], again) for one, again in members]
        yield from row("reasoning", condition, answered)
    for name in _CONCLUSIONS:
        yield from row("conclusion", name, [by_id[e.question_id] for e in examined if _conclusion(e) == name])
    for value, found in ((RULES_OUT, True), ("rules out none", False)):
        members_found = [by_id[e.question_id] for e in examined if bool(e.elimination) is found]
        yield from row("elimination", value, members_found)


def _answered(given: Prediction, again: Again) -> Prediction:
    outcome = Outcome.CORRECT if again.index == given.answer_index else Outcome.WRONG
    return replace(
        given,
        extraction=Extraction(again.index, "none" if again.index is None else given.extraction.how),
        outcome=Outcome.UNPARSED if again.index is None else outcome,
        truncated=False,
        text=again.text,
    )


def thinking_from_json(values: Mapping[str, Any]) -> ThinkingSummary:
    """Inverse of `dataclasses.asdict`. Raises KeyError or TypeError for foreign values."""

    def interval(v: Mapping[str, Any] | None) -> Interval | None:
        return None if v is None else Interval(**v)

    return ThinkingSummary(
        **{
            **values,
            "header": Header(**values["header"]),
            "rates": tuple(Rate(**{**v, "interval": interval(v["interval"])}) for v in values["rates"]),
            "accuracies": tuple(row_from_json(v) for v in values["accuracies"]),
        }
    )
