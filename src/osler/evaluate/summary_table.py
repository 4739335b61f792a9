"""A summary as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.printed import NONE, percent, percent_range, printable
from osler.evaluate.summary import Macro, Row, Summary

_ERRORS_SHOWN = 5


def print_summary(summary: Summary, console: Console) -> None:
    """Print every group with accuracy, interval, n, chance and blind baseline, and what else is to know."""
    console.print(_table(summary))
    row = summary.overall
    interval = f" ({percent_range(row.parsed_interval)})" if row.parsed_interval else ""
    counts = [(row.num_truncated, "truncated"), (row.outcomes.get("refused", 0), "refused")]
    said = [
        f"Parsed: {row.num_parsed} of {row.n} ({percent(row.parse_rate)} %), accuracy among them "
        f"{percent(row.parsed_accuracy)} %{interval}.",
        "; ".join(f"{n} {word}" for n, word in counts) + f"; {len(summary.errors)} failed technically.",
        f"95 % interval: {', else '.join(_methods(summary))}, by {summary.cluster_unit}.",
        f"Blind baseline (a text model that sees no image): {summary.blind_source}.",
    ]
    for line in said:
        console.print(escape(line), highlight=False)
    for question_id, error in list(summary.errors.items())[:_ERRORS_SHOWN]:
        console.print(f"[red]failed[/red] {escape(printable(f'{question_id}: {error}'))}")
    if len(summary.errors) > _ERRORS_SHOWN:
        console.print(f"[red]failed[/red] … and {len(summary.errors) - _ERRORS_SHOWN} more, in summary.json")
    console.print("For research only, not a medical device.")


def _methods(summary: Summary) -> list[str]:
    return list(dict.fromkeys(row.interval.method for row in (summary.overall, *summary.groups)))


def _table(summary: Summary) -> Table:
    header = summary.header
    title = f"{header.name}: {header.model}, {header.template}, scorer {header.scorer}; in %"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold", min_width=14)
    for name in ("n", "accuracy (95 %)", "chance", "blind", "parsed", "among\nparsed"):
        table.add_column(name, justify="right", no_wrap=True)
    scope = ""
    for row in (summary.overall, *summary.groups):
        if row.scope != scope:
            table.add_section()
            scope = row.scope
        _add_row(table, row)
        last_of_scope = row is summary.overall or row is [g for g in summary.groups if g.scope == scope][-1]
        for macro in summary.macro:
            if macro.scope == scope and last_of_scope:
                _add_macro(table, macro)
    return table


def _add_row(table: Table, row: Row) -> None:
    table.add_row(
        escape(printable(row.value if row.scope == "dataset" else row.value.replace("_", " ")))
        or "all questions",
        str(row.n),
        f"{percent(row.accuracy)} ({percent_range(row.interval)})",
        percent(row.chance),
        percent(row.blind_accuracy),
        percent(row.parse_rate),
        percent(row.parsed_accuracy),
    )


def _add_macro(table: Table, macro: Macro) -> None:
    table.add_row(
        f"mean of {macro.num_groups} (macro)",
        "",
        f"{percent(macro.accuracy)} ({percent_range(macro.interval)})",
        percent(macro.chance),
        percent(macro.blind_accuracy),
        NONE,
        NONE,
    )
