"""The page of an audit: findings, where they hold, the blind baseline across modalities, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osler.audit.baselines import BLIND, Accuracy
from osler.audit.findings import (
    ABOVE_CHANCE_FAULT,
    ABOVE_CHANCE_WARNING,
    CHECKS,
    MIN_QUESTIONS,
    Finding,
    Level,
    level_of,
)
from osler.audit.perceptual import NEAR_BITS, NUM_BITS
from osler.audit.repair_effect import RepairRow
from osler.audit.run import AuditReport
from osler.audit.scopes import ALL
from osler.audit.table import by_check, share_text
from osler.data.rebuild import REASONS
from osler.evaluate.printed import NONE, percent, percent_range, points
from osler.report.curves import Level as Mark
from osler.report.curves import Panel, draw_panel
from osler.report.rendering import render, write_whole
from osler.report.tables import strip_grid

_REASON_WORDS = {
    "one_answer": "one answer only",
    "yes_no": "yes/no skew",
    "surplus": "too frequent an answer",
}


_GRID = strip_grid()
_LEFT, _RIGHT = _GRID[0][0], _GRID[-1][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Positions of the marks of one strip, in percent of the drawing's width."""

    share: float
    low: float
    high: float
    chance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLine:
    """One check, every number as printed."""

    key: str
    level: str
    title: str
    share: str
    interval: str
    marks: Marks
    n: str
    chance: str
    threshold: str
    worst: str
    advice: str
    evidence: tuple[str, ...]
    evidence_of: str  # modality that it is taken from, "" for all


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCell:
    """One number of a grid, with the level that colours it."""

    text: str
    interval: str
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Rows x columns of numbers; None where nothing was measured."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[GridCell | None, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairLine:
    """One modality before and after the repair, as printed; pairs are a number and its detail."""

    modality: str
    kept_train: tuple[str, str]
    kept_test: tuple[str, str]
    before: tuple[str, str]
    chance_before: str
    original_fit: tuple[str, str]
    refit: tuple[str, str]
    chance: str
    over_chance: str
    n: str
    unbalanced: str
    dropped: tuple[str, ...]  # in the order of REASONS


def write_audit_page(report: AuditReport, out: Path) -> Path:
    """Write the page of `report` to `out`, one self-contained file."""
    lines = [_line(*found) for found in by_check(report)]
    counts = {level: sum(line.level == level for line in lines) for level in Level}
    values = {
        "report": report,
        "whole": report.scopes[0],
        "counts": {level.value: count for level, count in counts.items()},
        "lines": lines,
        "quarters": _GRID,
        "grid": _by_scope(report),
        "matrix": _matrix(report),
        "chances": [(scope.name, percent(scope.chance), f"{scope.num_test:,}") for scope in report.scopes],
        "panels": _panels(report),
        "repair": [_repair_line(row) for row in report.repair],
        "reasons": [(_REASON_WORDS[reason], text) for reason, text in REASONS.items()],
        "limits": {
            "warning": percent(ABOVE_CHANCE_WARNING),
            "fault": percent(ABOVE_CHANCE_FAULT),
            "least": MIN_QUESTIONS,
            "near": NEAR_BITS,
            "bits": NUM_BITS,
        },
        "methods": "; ".join(dict.fromkeys(f.interval.method for f in report.findings)),
    }
    return write_whole(render("audit.html.j2", ("style.css", "audit.css"), values), out)


def _line(level: Level, whole: Finding, worst: Finding) -> CheckLine:
    check = CHECKS[whole.check]
    shown = worst if worst.evidence else whole
    limits = [f"{100 * limit:g}" for limit in (check.warning, check.fault) if limit is not None]
    threshold = f"chance +{' / +'.join(limits)}" if check.is_accuracy else " / ".join(limits)
    return CheckLine(
        key=whole.check,
        level=level.value,
        title=check.title,
        share=share_text(whole.share),
        interval=percent_range(whole.interval),
        marks=_marks(whole),
        n=f"{whole.n:,}",
        chance=percent(whole.chance),
        threshold=threshold or NONE,
        worst=NONE if worst.scope == ALL else f"{worst.scope} {share_text(worst.share)}",
        advice=check.advice,
        evidence=shown.evidence,
        evidence_of="" if shown.scope == ALL else shown.scope,
    )


def _marks(finding: Finding) -> Marks:
    def place(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * value, 2)

    return Marks(
        share=place(finding.share),
        low=place(finding.interval.low),
        high=place(finding.interval.high),
        chance=None if finding.chance is None else place(finding.chance),
    )


def _by_scope(report: AuditReport) -> Grid | None:
    """Checks x modalities; None where there is one modality."""
    columns = tuple(scope.name for scope in report.scopes)
    if len(columns) < 2:
        return None
    found = {(finding.check, finding.scope): finding for finding in report.findings}
    rows = []
    for check in CHECKS:
        cells = tuple(_cell(found.get((check, column))) for column in columns)
        if any(cells):
            rows.append((CHECKS[check].title, cells))
    return Grid(corner="check, %", columns=columns, rows=tuple(rows))


def _cell(finding: Finding | None) -> GridCell | None:
    if finding is None:
        return None
    return GridCell(
        text=share_text(finding.share), interval=percent_range(finding.interval), level=finding.level.value
    )


def _matrix(report: AuditReport) -> Grid | None:
    """Training modalities x test modalities of the blind baseline."""
    if not report.matrix:
        return None
    columns = tuple(dict.fromkeys(cell.test for cell in report.matrix))
    found = {(cell.train, cell.test): cell.accuracy for cell in report.matrix}
    rows = dict.fromkeys(cell.train for cell in report.matrix)
    return Grid(
        corner="fitted on",
        columns=columns,
        rows=tuple((row, tuple(_accuracy_cell(found[row, column]) for column in columns)) for row in rows),
    )


def _accuracy_cell(accuracy: Accuracy) -> GridCell:
    level, _ = level_of(CHECKS[BLIND], accuracy.interval.low - accuracy.chance)
    return GridCell(
        text=percent(accuracy.share), interval=percent_range(accuracy.interval), level=level.value
    )


def _panels(report: AuditReport) -> list[tuple[Panel, tuple[tuple[str, str, str], ...]]]:
    """One learning curve per modality, with its numbers: training questions, accuracy, interval."""
    panels = []
    for modality in dict.fromkeys(point.modality for point in report.curves):
        points_of = [point for point in report.curves if point.modality == modality]
        last = points_of[-1].accuracy
        panel = draw_panel(
            modality,
            "training questions",
            {"blind baseline": [(float(p.num_train), p.accuracy.share) for p in points_of]},
            "curve",
            note=f"n {last.n:,}, chance {percent(last.chance)} %",
            fraction=True,
            smooth=False,
            levels=[Mark("chance", last.chance)],
            log_x=True,
        )
        numbers = tuple(
            (f"{p.num_train:,}", percent(p.accuracy.share), percent_range(p.accuracy.interval))
            for p in points_of
        )
        panels.append((panel, numbers))
    return panels


def _repair_line(row: RepairRow) -> RepairLine:
    return RepairLine(
        modality=row.modality,
        kept_train=_kept(row.num_train, row.num_train_before),
        kept_test=_kept(row.num_test, row.num_test_before),
        before=_with_range(row.before),
        chance_before=percent(row.before.chance),
        original_fit=_with_range(row.original_fit),
        refit=_with_range(row.refit),
        chance=percent(row.refit.chance),
        over_chance=points(row.refit.share - row.refit.chance),
        n=f"{row.num_test:,}",
        unbalanced=f"{row.unbalanced:,}",
        dropped=tuple(f"{row.dropped.get(reason, 0):,}" for reason in REASONS),
    )


def _kept(now: int, before: int) -> tuple[str, str]:
    return percent(now / before), f"{now:,} of {before:,}"


def _with_range(accuracy: Accuracy) -> tuple[str, str]:
    return percent(accuracy.share), percent_range(accuracy.interval)
