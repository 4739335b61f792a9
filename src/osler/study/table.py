"""A study on the terminal: its plan, and its table."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.printed import NONE, percent, percent_range
from osler.study.conduct import Conducted, shown_time
from osler.study.results import Line, StudyResults

_SHORT = {"modality_recognition": "modality", "anatomy_identification": "anatomy"}
_SHORT |= {"disease_diagnosis": "disease", "lesion_grading": "grading"}
_SHORT |= {"other_biological_attributes": "attributes"}


def print_plan(found: Conducted, console: Console) -> None:
    """Every job with its state and time, and how long all of it takes here."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("job", "kind", "needs", "time", "how known"):
        table.add_column(name, justify="right" if name == "time" else "left", overflow="fold")
    times = found.estimates()
    for job in found.plan.jobs:
        one = times[job.name]
        took = NONE if one.how == "done" and not one.seconds else shown_time(one.seconds)
        table.add_row(job.name, job.kind, ", ".join(job.parents), took, one.how)
    console.print(table)
    counts = Counter(one.how for one in times.values())
    states = ", ".join(f"{count} {how}" for how, count in counts.items())
    console.print(f"{len(found.plan.jobs)} jobs: {states}", highlight=False)
    console.print(
        f"to do: about {shown_time(found.seconds_left())} with {found.slots} at a time ({found.device}); "
        "predicted times are a rough guess until a like job was measured here",
        highlight=False,
        soft_wrap=True,
    )


def print_study(found: Conducted, console: Console) -> None:
    """The table, what is missing from it, and where the page is."""
    results = found.results
    if results is not None and results.lines:
        console.print(result_table(results))
    for name in found.failed:
        console.print(f"failed: {name}; log: {found.store.log(_job(found, name))}", soft_wrap=True)
    for name, needed in found.blocked.items():
        console.print(f"not run: {name} needs {needed}", highlight=False)
    if results is not None and results.study.is_phantom:
        console.print("Phantom images drawn by a program: no medical performance.")
    console.print("Research use only, not a medical device.")
    if found.report is not None:
        console.print(f"report: {found.report}", highlight=False, soft_wrap=True)


def _job(found: Conducted, name: str):  # type: ignore[no-untyped-def]
    return next(job for job in found.plan.jobs if job.name == name)


def result_table(results: StudyResults) -> Table:
    """Accuracy in % with 95 % interval; chance and blind baseline of each training set below."""
    table = Table(title=escape(results.study.title), box=SIMPLE_HEAD, pad_edge=False)
    table.caption = "accuracy in % (95 % interval); unparsed counts as wrong; – no question, or not run"
    table.add_column("model", overflow="fold")
    for column in results.columns:
        n = max((line.cells[column].row.n for line in results.lines if column in line.cells), default=0)
        table.add_column(f"{_SHORT.get(column, column)}\nn = {n}", justify="right", no_wrap=True)
    for line in results.lines:
        table.add_row(escape(line.name), *[_cell(line, column) for column in results.columns])
    table.add_section()
    first = results.lines[0]
    chances = [percent(first.cells[c].row.chance) if c in first.cells else NONE for c in results.columns]
    table.add_row("chance", *chances)
    for on, line in blind_lines(results).items():
        name = f"blind baseline ({on.replace('_', ' ')})" if on else "blind baseline"
        table.add_row(name, *[_blind(line, column) for column in results.columns])
    return table


def blind_lines(results: StudyResults) -> dict[str, Line]:
    """For every training set a line that holds its blind baseline; models trained on it share it."""
    found: dict[str, Line] = {}
    for line in results.lines:
        if line.on:
            found.setdefault(line.on, line)
    return found


def _cell(line: Line, column: str) -> str:
    if column not in line.cells:
        return NONE
    row = line.cells[column].row
    return f"{percent(row.accuracy)} [dim]({percent_range(row.interval)})[/dim]"


def _blind(line: Line, column: str) -> str:
    if column not in line.cells or line.cells[column].row.blind_interval is None:
        return NONE
    row = line.cells[column].row
    return f"{percent(row.blind_accuracy)} [dim]({percent_range(row.blind_interval)})[/dim]"
