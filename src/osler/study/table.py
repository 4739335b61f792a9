"""A study on the terminal: its plan, and its table."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.printed import NONE, percent, percent_range
from osler.evaluate.stats import Interval
from osler.study.conduct import Conducted, shown_time
from osler.study.results import Line, StudyResults

_SHORT = {"modality_recognition": "modality", "anatomy_identification": "anatomy"}
_SHORT |= {"disease_diagnosis": "disease", "lesion_grading": "grading"}
_SHORT |= {"other_biological_attributes": "attributes", "ultrasound": "US"}
_SHORT |= {"dermoscopy": "derm", "microscopy": "micro"}
_WIDE = 3  # columns whose cells have room for everything in one line of 80 characters


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
    is_wide = len(results.columns) > _WIDE
    padding = (0, 0, 0, 1) if is_wide else (0, 1)
    table = Table(title=escape(results.study.title), box=SIMPLE_HEAD, pad_edge=False, padding=padding)
    table.caption = "accuracy in % (95 % interval); unparsed counts as wrong; – no question, or not run"
    table.add_column("model\nn" if is_wide else "model", overflow="fold", min_width=12)
    for column in results.columns:
        n = max((line.cells[column].row.n for line in results.lines if column in line.cells), default=0)
        name = f"{_SHORT.get(column, column)}\n{n if is_wide else f'n = {n}'}"
        table.add_column(name, justify="right", no_wrap=True)
    for line in results.lines:
        table.add_row(escape(line.name), *[_cell(line, c, is_wide) for c in results.columns])
    table.add_section()
    first = results.lines[0]
    chances = [percent(first.cells[c].row.chance) if c in first.cells else NONE for c in results.columns]
    table.add_row("chance", *chances)
    for on, line in blind_lines(results).items():
        name = f"blind baseline ({on.replace('_', ' ')})" if on else "blind baseline"
        table.add_row(name, *[_blind(line, c, is_wide) for c in results.columns])
    return table


def blind_lines(results: StudyResults) -> dict[str, Line]:
    """For every training set a line that holds its blind baseline; models trained on it share it.

    Where nothing was trained, what the first line was put beside, under "".
    """
    trained: dict[str, Line] = {}
    for line in results.lines:
        if line.on:
            trained.setdefault(line.on, line)
    return trained or {"": results.lines[0]}


def _cell(line: Line, column: str, is_wide: bool) -> str:
    if column not in line.cells:
        return NONE
    row = line.cells[column].row
    return _with_interval(row.accuracy, row.interval, is_wide)


def _blind(line: Line, column: str, is_wide: bool) -> str:
    if column not in line.cells:
        return NONE
    row = line.cells[column].row
    return _with_interval(row.blind_accuracy, row.blind_interval, is_wide)


def _with_interval(accuracy: float | None, interval: Interval | None, is_wide: bool) -> str:
    """In one line, or in a wide table in two, the interval in whole points."""
    if interval is None:
        return NONE
    if not is_wide:
        return f"{percent(accuracy)} [dim]({percent_range(interval)})[/dim]"
    return f"{percent(accuracy)}\n[dim]{100 * interval.low:.0f}–{100 * interval.high:.0f}[/dim]"
