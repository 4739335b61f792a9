"""What the interventions show, for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.printed import NONE, percent, percent_range
from osler.evaluate.summary import Row
from osler.evaluate.thinking.rates import (
    ALL,
    DONOR_DIFFERS,
    GIVEN,
    MOVED,
    NAMES_LETTER,
    NAMES_NONE,
    Rate,
    ThinkingSummary,
)
from osler.evaluate.thinking.records import EDITS, HINTED, SHUFFLED, SWAPPED, UNLETTERED

WORDS = {
    GIVEN: "as given",
    "kept": "kept",
    "cut75": "first 75 % kept",
    "cut50": "first 50 % kept",
    "cut25": "first 25 % kept",
    "emptied": "emptied",
    "swapped": "another question's",
    "shuffled": "choices shuffled",
    "unlettered": "shuffled, letters out",
    "hinted": "wrong hint, anew",
}
DECORATION = (
    "An answer that stays the same whatever is done to the reasoning does not come from it; one that changes "
    "need not come from it either. No rate here is a score."
)


def print_thinking(summary: ThinkingSummary, console: Console) -> None:
    """Print every rate with n and interval, every accuracy beside chance and blind baseline."""
    left_out = ", ".join(f"{n} {why}" for why, n in summary.left_out.items())
    examined = f"{summary.num_examined} of {summary.num_questions} examined"
    console.print(escape(f"Is the thinking real? {examined}{f' ({left_out})' if left_out else ''}."))
    if not summary.num_examined:
        return
    for table in (_edits(summary), _shares(summary), _accuracies(summary)):
        console.print(table)
    for line in notes(summary):
        console.print(escape(line), highlight=False)


def notes(summary: ThinkingSummary) -> list[str]:
    """What has to be said beside the numbers."""
    methods = list(dict.fromkeys(r.interval.method for r in summary.rates if r.interval is not None))
    said = [
        f"95 % interval: {', else '.join(methods)}, by {summary.cluster_unit}.",
        f'The hint, in the question: "{summary.hint}"; never the right choice, never the one given before.',
        DECORATION,
    ]
    if summary.header.settings.get("temperature"):
        said.insert(1, "The given answers were drawn at random, those after an edit are greedy.")
    if summary.num_failed:
        said.append(f"{summary.num_failed} answers failed technically and are left out of their condition.")
    return said


def shown(rate: Rate) -> str:
    """
    >>> shown(Rate(test="t", measure="m", among="all", n=0, count=0, interval=None))
    '–'
    """
    return NONE if rate.share is None else f"{percent(rate.share)} ({percent_range(rate.interval)})"


def _edits(summary: ThinkingSummary) -> Table:
    table = _empty("Edited reasoning, in %", "n", "same answer (95 %)", "same likely letter", "unread")
    for condition in EDITS:
        same = summary.rate(condition, "same answer")
        table.add_row(
            WORDS[condition],
            str(same.n),
            shown(same),
            percent(summary.rate(condition, "same most probable letter").share),
            percent(summary.rate(condition, "unread").share),
        )
    return table


def _shares(summary: ThinkingSummary) -> Table:
    table = _empty("Shares, in %", "n", "share (95 %)")
    for title, rates in share_groups(summary):
        table.add_section()
        table.add_row(f"[bold]{escape(title)}[/bold]")
        for rate in rates:
            table.add_row(escape(f"  {rate.measure}"), str(rate.n), shown(rate))
    return table


def _accuracies(summary: ThinkingSummary) -> Table:
    table = _empty("Accuracy of these answers, in %", "n", "accuracy (95 %)", "chance", "blind")
    scope = ""
    for row in summary.accuracies:
        if row.scope != scope:
            table.add_section()
            scope = row.scope
        table.add_row(
            escape(name_of(row)),
            str(row.n),
            f"{percent(row.accuracy)} ({percent_range(row.interval)})",
            percent(row.chance),
            percent(row.blind_accuracy),
        )
    return table


def name_of(row: Row) -> str:
    """The questions, or the condition, of an accuracy in words."""
    return WORDS[row.value] if row.scope == "reasoning" else f"{row.scope}: {row.value}"


def _empty(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold", min_width=20)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def share_groups(summary: ThinkingSummary) -> list[tuple[str, list[Rate]]]:
    """Everything but the edits' own rows, under headings; groups without a question are left out."""

    def found(test: str, among: str = ALL) -> list[Rate]:
        return [r for r in summary.rates if (r.test, r.among) == (test, among)]

    groups = [
        ("However it is cut, emptied or swapped", found("all edits")),
        ("Another question's reasoning, which led to another letter", found(SWAPPED, DONOR_DIFFERS)),
        ("Choices shuffled, reasoning kept: it names a letter", found(SHUFFLED, NAMES_LETTER)),
        ("Choices shuffled, reasoning kept: it names no letter", found(SHUFFLED, NAMES_NONE)),
        ("Choices shuffled, its letters taken out", found(UNLETTERED)),
        ("What the reasoning concludes", found("conclusion")),
        ("Elimination", found("elimination")),
        ("A wrong hint in the question", found(HINTED)),
        ("Answers that moved to the hint", found(HINTED, MOVED)),
    ]
    return [(title, rates) for title, rates in groups if rates and rates[0].n]
