"""The section that compares two runs: what `osler compare` prints, with cards of what changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.evaluate.compare import Change, Comparison, Contrast, in_order_of_hash
from osler.evaluate.compare_table import blind_sentences, blind_text, sentences, warnings
from osler.evaluate.printed import NONE, p_value, percent, percent_range, points, points_range
from osler.evaluate.stats import Interval
from osler.report.examples import Card, cards_about
from osler.report.runs import Evaluated, Run

CARDS_PER_SIDE = 8
LISTED_PER_SIDE = 200
_MIDDLE, _HALF = 50.0, 48.0  # of the drawing, in percent: a bound at its end is drawn whole


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceStrip:
    """Positions of the marks of one line, in percent of the drawing's width."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceLine:
    """One group of questions, every number as printed."""

    name: str
    n: str
    accuracy_a: str
    interval_a: str
    accuracy_b: str
    interval_b: str
    chance: str
    blind: str
    difference: str
    interval: str
    strip: DifferenceStrip
    p: str
    holm_p: str
    detectable: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One question that changed, and where to look at it."""

    question: str
    a: str
    b: str
    card: str  # id of its card on this page, "" where there is none
    where: str  # file:line of both answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The gained or the lost questions of one test set."""

    title: str
    count: int
    listed: tuple[Listed, ...]
    cards: tuple[tuple[str, Card], ...]  # (id on this page, card)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSection:
    """One test set of two runs."""

    title: str
    a: str
    b: str
    warnings: tuple[str, ...]
    table: tuple[tuple[str, str], tuple[str, str]]  # rows: a right, a not right; columns: b right, b not
    sentences: tuple[str, ...]
    lines: tuple[DifferenceLine, ...]
    grid: tuple[tuple[float, str], ...]  # (position, label in points) of the strips' scale
    notes: tuple[str, ...]
    changes: tuple[Changes, ...]


def comparison_sections(
    comparisons: Sequence[Comparison], runs: Sequence[Run]
) -> tuple[ComparisonSection, ...]:
    """One section per test set; `runs` are those of the page, the two that were compared among them."""
    return tuple(_section(number, one, runs) for number, one in enumerate(comparisons, start=1))


def _section(number: int, comparison: Comparison, runs: Sequence[Run]) -> ComparisonSection:
    contrasts = (comparison.overall, *comparison.groups)
    reach = difference_reach([one.interval for one in contrasts])
    one = comparison.overall.table
    names = dict.fromkeys(header.name for header in comparison.headers)
    a, b = (_label(path, runs) for path in comparison.files)
    return ComparisonSection(
        title=" and ".join(names),
        a=a,
        b=b,
        warnings=tuple(warnings(comparison)),
        table=((str(one.both), str(one.only_a)), (str(one.only_b), str(one.neither))),
        sentences=tuple(sentences(comparison)),
        lines=tuple(_line(contrast, reach) for contrast in contrasts),
        grid=tuple(difference_grid(reach)),
        notes=tuple(blind_sentences(comparison)),
        changes=tuple(
            _changes(f"c{number}-{word.lower()}", f"{word}: only {side} is right", found, comparison, runs)
            for word, side, found in (("Gained", b, comparison.gained), ("Lost", a, comparison.lost))
            if found
        ),
    )


def _line(one: Contrast, reach: float) -> DifferenceLine:
    value = one.value if one.scope == "dataset" else one.value.replace("_", " ")
    return DifferenceLine(
        name=value or "all questions",
        n=str(one.a.n),
        accuracy_a=percent(one.a.accuracy),
        interval_a=percent_range(one.a.interval),
        accuracy_b=percent(one.b.accuracy),
        interval_b=percent_range(one.b.interval),
        chance=percent(one.a.chance),
        blind=blind_text(one),
        difference=points(one.difference),
        interval=points_range(one.interval),
        strip=difference_strip(one.difference, one.interval, reach),
        p=p_value(one.cluster_p),
        holm_p=p_value(one.holm_p),
        detectable="none" if one.detectable is None else f"{100 * one.detectable:.1f}",
        verdict="" if one.verdict is None else one.verdict.value,
    )


def difference_reach(intervals: Sequence[Interval]) -> float:
    """The end of the scale: the widest bound, rounded up to 10 points."""
    widest = max(abs(bound) for one in intervals for bound in (one.low, one.high))
    return min(1.0, math.ceil(10 * widest) / 10 or 0.1)


def difference_grid(reach: float) -> Iterator[tuple[float, str]]:
    """(position, label in points) of the marks of a scale that ends at plus and minus `reach`."""
    for quarter in (-1, -0.5, 0, 0.5, 1):
        yield _MIDDLE + _HALF * quarter, f"{100 * quarter * reach:+g}".replace("-", "−")


def difference_strip(difference: float, interval: Interval, reach: float) -> DifferenceStrip:
    """Where the marks of a difference stand on that scale."""

    def place(value: float) -> float:
        return round(_MIDDLE + _HALF * value / reach, 2)

    return DifferenceStrip(difference=place(difference), low=place(interval.low), high=place(interval.high))


def _changes(
    key: str, title: str, found: Sequence[Change], comparison: Comparison, runs: Sequence[Run]
) -> Changes:
    ordered = in_order_of_hash(found)
    cards = cards_about(list(_evaluated(comparison, runs)), [c.question_id for c in ordered[:CARDS_PER_SIDE]])
    ids = {question_id: f"{key}-{number}" for number, question_id in enumerate(cards, start=1)}
    file_a, file_b = (Path(path).name for path in comparison.files)
    return Changes(
        title=title,
        count=len(found),
        listed=tuple(
            Listed(
                question=f"{change.question_id}: {change.text}" if change.text else change.question_id,
                a=change.a,
                b=change.b,
                card=ids.get(change.question_id, ""),
                where=f"{file_a}:{change.line_a}, {file_b}:{change.line_b}",
            )
            for change in ordered[:LISTED_PER_SIDE]
        ),
        cards=tuple((ids[question_id], card) for question_id, card in cards.items()),
    )


def _evaluated(comparison: Comparison, runs: Sequence[Run]) -> Iterator[tuple[Run, Evaluated]]:
    for path, header in zip(comparison.files, comparison.headers, strict=True):
        for run in runs:
            if run.path.resolve() == Path(path).resolve().parent.parent:
                yield from ((run, e) for e in run.evaluations if e.summary.header.name == header.name)


def _label(path: str, runs: Sequence[Run]) -> str:
    folder = Path(path).resolve().parent.parent
    return next((run.label for run in runs if run.path.resolve() == folder), NONE)
