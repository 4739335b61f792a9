"""What a study's tests found beyond accuracy: what each model owes to the image, and what servers took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.evaluate.looking_records import Effect, Looking
from osler.evaluate.printed import NONE, p_value, percent, percent_range, points, points_range
from osler.report.runs import Run
from osler.study.results import Line, Served, StudyResults


@dataclass(frozen=True, slots=True, kw_only=True)
class LookCell:
    """One variant of the questions, as printed."""

    accuracy: str
    interval: str
    lost: str  # points against the same questions as they are
    lost_interval: str
    n: str
    chance: str
    blind: str
    holm_p: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookMatrix:
    """Models x variants; None where a variant was not asked."""

    variants: tuple[str, ...]
    rows: tuple[tuple[str, str, str, tuple[LookCell | None, ...]], ...]  # name, accuracy, interval, cells


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedText:
    """One server, as printed."""

    name: str
    address: str
    called_itself: str
    answers: str
    unanswered: str
    prompt_tokens: str
    completion_tokens: str
    cost: str
    failed_requests: str


def look_matrix(results: StudyResults, runs: Mapping[Path, Run]) -> LookMatrix | None:
    """Every model that was asked variants of the questions; None where none was."""
    found = [(line, looking) for line in results.lines if (looking := _looking(line, runs)) is not None]
    variants = dict.fromkeys(e.variant for _, looking in found for e in _overall(looking))
    if not variants:
        return None
    rows = []
    for line, looking in found:
        by_variant = {e.variant: e for e in _overall(looking)}
        whole = line.summary.overall
        cells = tuple(_cell(by_variant.get(name)) for name in variants)
        rows.append((line.name, percent(whole.accuracy), percent_range(whole.interval), cells))
    return LookMatrix(variants=tuple(variants), rows=tuple(rows))


def _looking(line: Line, runs: Mapping[Path, Run]) -> Looking | None:
    return next((e.looking for e in runs[line.folder].evaluations), None)


def _overall(looking: Looking) -> Sequence[Effect]:
    return [e for e in looking.effects if e.scope == "overall"]


def _cell(effect: Effect | None) -> LookCell | None:
    if effect is None:
        return None
    row = effect.changed
    return LookCell(
        accuracy=percent(row.accuracy),
        interval=percent_range(row.interval),
        lost=points(effect.difference),
        lost_interval=points_range(effect.interval),
        n=f"{row.n:,}",
        chance=percent(row.chance),
        blind=percent(row.blind_accuracy),
        holm_p=p_value(effect.holm_p),
    )


def served_texts(results: StudyResults) -> list[ServedText]:
    """Every model behind a server."""
    return [_served(line.name, line.served) for line in results.lines if line.served is not None]


def _served(name: str, one: Served) -> ServedText:
    counted = one.answers - one.uncounted
    of = f" (of {counted:,} answers)" if one.uncounted else ""
    return ServedText(
        name=name,
        address=one.address,
        called_itself=_counts(one.names),
        answers=f"{one.answers:,}",
        unanswered=f"{one.unanswered:,}",
        prompt_tokens=f"{one.prompt_tokens:,}{of}" if counted else NONE,
        completion_tokens=f"{one.completion_tokens:,}{of}" if counted else NONE,
        cost=NONE if one.cost is None or one.uncounted else f"{one.cost:,.2f}",
        failed_requests=_counts(one.failed_requests) or "none",
    )


def _counts(found: Mapping[str, int]) -> str:
    return "; ".join(f"{name or 'nothing'} ({count:,})" for name, count in found.items())
