"""An audit as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.audit.findings import CHECKS, Finding, Level, worst_first
from osler.audit.repair_effect import RepairRow
from osler.audit.run import AuditReport
from osler.audit.scopes import ALL
from osler.evaluate.printed import percent, percent_range, printable

_COLOURS = {Level.FAULT: "red", Level.WARNING: "yellow", Level.OK: "green", Level.NOTE: "dim"}


def print_audit(report: AuditReport, console: Console) -> None:
    """Print one line per check, the worst first, and where it is worst."""
    whole = report.scopes[0]
    console.print(
        f"{whole.num_test:,} test questions against {whole.num_train:,} training questions; "
        f"{report.images_read:,} image files read; chance {percent(whole.chance)} %"
    )
    console.print(_table(report))
    console.print(
        "% of the test questions, with 95 % interval; chance for rules that answer; worst modality."
    )
    if report.repair:
        console.print(_repair_table(report.repair))
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for problem in report.image_problems[:5]:
        console.print(f"[red]bad image[/red] {escape(printable(problem))}")
    advice = dict.fromkeys(
        CHECKS[f.check].advice for f in report.findings if f.level in (Level.FAULT, Level.WARNING)
    )
    for line in advice:
        console.print(f"to do: {line}", markup=False, highlight=False, soft_wrap=True)


def by_check(report: AuditReport) -> list[tuple[Level, Finding, Finding]]:
    """(worst level, finding of the widest scope, finding of the worst modality) per check, worst first."""
    groups: dict[str, list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault(finding.check, []).append(finding)
    lines = []
    for found in groups.values():
        whole = next((f for f in found if f.scope == ALL), found[0])
        worst = max(worst_first(found), key=lambda f: (-list(Level).index(f.level), _height(f)))
        lines.append((worst.level, whole, worst))
    order = list(Level)
    return sorted(lines, key=lambda line: (order.index(line[0]), list(CHECKS).index(line[1].check)))


def share_text(share: float) -> str:
    """A share in %, never 0.0 where there is one.

    >>> share_text(1 / 17662), share_text(0.0), share_text(0.1084)
    ('<0.1', '0.0', '10.8')
    """
    return "<0.1" if 0 < share < 0.0005 else percent(share)


def _height(finding: Finding) -> float:
    """How high a share is, for an accuracy above chance."""
    return finding.share - (finding.chance or 0.0)


def _table(report: AuditReport) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    table.add_column("test questions", no_wrap=True)
    for head in ("%", "interval", "n", "chance"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("worst", no_wrap=True)
    for level, whole, worst in by_check(report):
        where = "" if worst.scope == ALL else f"{worst.scope} {share_text(worst.share)}"
        table.add_row(
            f"[{_COLOURS[level]}]{level.value}[/]",
            whole.check.replace("_", " "),
            share_text(whole.share),
            percent_range(whole.interval),
            f"{whole.n:,}",
            percent(whole.chance),
            where,
        )
    return table


def _repair_table(rows: Sequence[RepairRow]) -> Table:
    table = Table(
        title="Blind baseline before and after the repair, %",
        box=SIMPLE_HEAD,
        show_edge=False,
        title_justify="left",
        padding=0,
    )
    table.add_column("modality", no_wrap=True)
    for head in ("kept", "before", "chance", "original fit", "refit", "above chance"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        kept = (row.num_train + row.num_test) / (row.num_train_before + row.num_test_before)
        table.add_row(
            row.modality,
            percent(kept),
            percent(row.before.share),
            percent(row.refit.chance),
            percent(row.original_fit.share),
            f"{percent(row.refit.share)} ({percent_range(row.refit.interval)})",
            f"{100 * (row.refit.share - row.refit.chance):+.1f}",
        )
    return table
