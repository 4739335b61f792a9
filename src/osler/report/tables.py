"""The numbers of the page as printable lines: one block per test set, one line per model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osler.evaluate.predictions import Header
from osler.evaluate.printed import NONE, percent, percent_range, points
from osler.evaluate.scoring import DEFAULT_SCORER
from osler.evaluate.stats import Interval
from osler.evaluate.summary import Macro, Row, Summary
from osler.records import Modality
from osler.report.runs import Run

# The strip leaves room for marks at its ends: a value of 0 or 1 is drawn whole.
_STRIP_START, _STRIP_LENGTH = 2.0, 96.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Positions of the marks of one line, in percent of the drawing's width."""

    accuracy: float
    low: float
    high: float
    chance: float
    blind: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model on one group of questions, every number as printed."""

    model: str
    template: str
    accuracy: str
    interval: str
    strip: Strip
    n: str
    chance: str
    blind: str
    blind_interval: str
    over_blind: str
    parsed: str
    parsed_accuracy: str
    parsed_interval: str
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One table: a test set, or one group of its questions."""

    title: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Models x groups of questions: the shape of the papers' tables."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Line | None, ...]], ...]  # model, template, one cell per column


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSet:
    """All tables of one test set."""

    name: str
    by_modality: Matrix | None  # None where there is one modality
    overall: Block
    groups: tuple[Block, ...]
    failed: tuple[tuple[str, str, str], ...]  # model, question id, what went wrong


def asked_how(header: Header) -> str:
    """The template, and the scorer where it is not ours."""
    return header.template if header.scorer == DEFAULT_SCORER else f"{header.template}, {header.scorer}"


def test_sets(runs: Sequence[Run]) -> list[TestSet]:
    """Every test set that any run was evaluated on, in the order of first appearance."""
    names = dict.fromkeys(e.summary.header.name for run in runs for e in run.evaluations)
    return [_test_set(name, runs) for name in names]


def _test_set(name: str, runs: Sequence[Run]) -> TestSet:
    found = [(r.label, e.summary) for r in runs for e in r.evaluations if e.summary.header.name == name]
    lines = [line_of(label, s, s.overall) for label, s in found]
    asked = {
        frozenset(e.stored.question_digests.items())
        for r in runs
        for e in r.evaluations
        if e.summary.header.name == name
    }
    differ = ("These models were not asked the same questions: their rows are not comparable.",)
    return TestSet(
        name=name,
        by_modality=_by_modality(name, found),
        overall=Block(
            title=f"{name}, all questions",
            lines=tuple(lines),
            notes=(*(differ if len(asked) > 1 else ()), *_notes(found)),
        ),
        groups=tuple(_group_blocks(found)),
        failed=tuple((label, i, text) for label, s in found for i, text in s.errors.items()),
    )


def overview(runs: Sequence[Run]) -> Matrix | None:
    """Every model on every test set; None where there is one test set only."""
    names = dict.fromkeys(e.summary.header.name for run in runs for e in run.evaluations)
    if len(names) < 2:
        return None
    rows = []
    for run in runs:
        by_name = {e.summary.header.name: e.summary for e in run.evaluations}
        cells = [line_of(run.label, by_name[n], by_name[n].overall) if n in by_name else None for n in names]
        templates = dict.fromkeys(asked_how(s.header) for s in by_name.values())
        if by_name:
            rows.append((run.label, ", ".join(templates), tuple(cells)))
    return Matrix(title="all test sets", columns=tuple(names), rows=tuple(rows))


def _by_modality(name: str, found: Sequence[tuple[str, Summary]]) -> Matrix | None:
    present = {g.value for _, s in found for g in s.groups if g.scope == "modality"}
    values = [m.value for m in Modality if m.value in present]
    if not values:
        return None
    rows = []
    for label, summary in found:
        groups = {g.value: g for g in summary.groups if g.scope == "modality"}
        cells = [line_of(label, summary, groups[v]) if v in groups else None for v in values]
        cells.append(line_of(label, summary, summary.overall))
        rows.append((label, asked_how(summary.header), tuple(cells)))
    return Matrix(title=f"{name} by modality", columns=(*values, "all"), rows=tuple(rows))


def _group_blocks(found: Sequence[tuple[str, Summary]]) -> Iterator[Block]:
    for scope in ("modality", "question_type", "dataset"):
        word = scope.replace("_", " ").replace("dataset", "data set")
        macros = [(label, s, m) for label, s in found for m in s.macro if m.scope == scope]
        if macros:
            yield Block(
                title=f"mean over {max(m.num_groups for _, _, m in macros)} {word} accuracies (macro)",
                lines=tuple(_macro_line(label, s, m) for label, s, m in macros),
                notes=(),
            )
        values = dict.fromkeys(g.value for _, s in found for g in s.groups if g.scope == scope)
        for value in values:
            rows = [(la, s, g) for la, s in found for g in s.groups if (g.scope, g.value) == (scope, value)]
            yield Block(
                title=f"{word}: {value.replace('_', ' ') if scope != 'dataset' else value}",
                lines=tuple(line_of(label, s, g) for label, s, g in rows),
                notes=(),
            )


def _notes(found: Sequence[tuple[str, Summary]]) -> Iterator[str]:
    methods = dict.fromkeys(f"{s.overall.interval.method} by {s.cluster_unit}" for _, s in found)
    yield f"95 % interval: {'; '.join(methods)}."
    sources: dict[str, list[str]] = {}
    for label, summary in found:
        sources.setdefault(summary.blind_source, []).append(label)
    for source, labels in sources.items():
        who = "" if len(sources) == 1 else f" ({', '.join(labels)})"
        yield f"Blind baseline{who}: {source}."


def line_of(label: str, summary: Summary, row: Row) -> Line:
    """One model on one group of questions."""
    failed = row.outcomes.get("error", 0)
    refused = row.outcomes.get("refused", 0)
    trouble = [(row.num_truncated, "truncated"), (refused, "refused"), (failed, "failed")]
    return Line(
        model=label,
        template=asked_how(summary.header),
        accuracy=percent(row.accuracy),
        interval=percent_range(row.interval),
        strip=strip_of(row.accuracy, row.interval, row.chance, row.blind_accuracy),
        n=str(row.n),
        chance=percent(row.chance),
        blind=percent(row.blind_accuracy) + _blind_n(row),
        blind_interval=percent_range(row.blind_interval) if row.blind_interval else "",
        over_blind=_difference(row.accuracy, row.blind_accuracy),
        parsed=percent(row.parse_rate),
        parsed_accuracy=percent(row.parsed_accuracy),
        parsed_interval=percent_range(row.parsed_interval) if row.parsed_interval else "",
        trouble=", ".join(f"{count} {word}" for count, word in trouble if count) or "none",
    )


def _macro_line(label: str, summary: Summary, macro: Macro) -> Line:
    return Line(
        model=label,
        template=asked_how(summary.header),
        accuracy=percent(macro.accuracy),
        interval=percent_range(macro.interval),
        strip=strip_of(macro.accuracy, macro.interval, macro.chance, macro.blind_accuracy),
        n=str(summary.overall.n),
        chance=percent(macro.chance),
        blind=percent(macro.blind_accuracy),
        blind_interval="",
        over_blind=_difference(macro.accuracy, macro.blind_accuracy),
        parsed="–",
        parsed_accuracy="–",
        parsed_interval="",
        trouble="–",
    )


def _blind_n(row: Row) -> str:
    return f" (n {row.blind_n})" if 0 < row.blind_n < row.n else ""


def _difference(accuracy: float, blind: float | None) -> str:
    return NONE if blind is None else points(accuracy - blind)


def strip_of(accuracy: float, interval: Interval, chance: float, blind: float | None) -> Strip:
    """Where the marks of these fractions stand."""
    return Strip(
        accuracy=strip_place(accuracy),
        low=strip_place(interval.low),
        high=strip_place(interval.high),
        chance=strip_place(chance),
        blind=None if blind is None else strip_place(blind),
    )


def strip_place(value: float) -> float:
    """Where a fraction of 1 stands on a strip, in percent of its width."""
    return round(_STRIP_START + _STRIP_LENGTH * value, 2)


def strip_grid() -> tuple[tuple[float, str], ...]:
    """(position, label) of the quarter marks of a strip."""
    return tuple((_STRIP_START + _STRIP_LENGTH * q, f"{100 * q:g}") for q in (0, 0.25, 0.5, 0.75, 1.0))


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as dotted names and printed values."""
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat += flatten(value, name + ".")
        else:
            flat.append((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return flat
