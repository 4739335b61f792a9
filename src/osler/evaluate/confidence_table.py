"""Confidence for the terminal and the page: one row per number, one column per kind of confidence."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.confidence import Applied, Confidence, Estimate, Reading
from osler.evaluate.printed import NONE, percent, percent_range, printable


def print_confidence(found: Confidence, console: Console) -> None:
    """Print every number of a test set's confidence, and what was done with a threshold."""
    title = (
        f"Confidence; in % unless said; chance {percent(found.chance)}, blind {percent(found.blind_accuracy)}"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for reading in found.readings:
        table.add_column(escape(printable(reading.source)), justify="right", overflow="fold")
    for name, cells in confidence_rows(found):
        table.add_row(name, *cells)
    console.print(table)
    for line in confidence_sentences(found):
        console.print(escape(printable(line)), highlight=False)


def confidence_rows(found: Confidence) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(what, one printed value per reading)."""
    readings = found.readings
    yield "accuracy, all questions", tuple(_share(r.accuracy) for r in readings)
    yield "with a confidence, of n", tuple(f"{r.num_with} of {r.n}" for r in readings)
    yield "mean confidence", tuple(percent(r.mean_confidence) for r in readings)
    yield "calibration error (ECE)", tuple(_share(r.error) for r in readings)
    yield "ECE of a calibrated model: mean, 95 % below", tuple(map(_by_chance, readings))
    yield "Brier score (0 to 1)", tuple(_number(r.brier) for r in readings)
    yield "AUROC of being right (0 to 1)", tuple(_number(r.auroc) for r in readings)
    yield "log loss, nats", tuple(NONE if r.log_loss is None else f"{r.log_loss:.3f}" for r in readings)
    yield "area under risk-coverage (AURC)", tuple(_share(r.aurc) for r in readings)
    yield (
        "AURC in random order / of an oracle",
        tuple(f"{percent(r.aurc_random)} / {percent(r.aurc_oracle)}" for r in readings),
    )
    for number, (coverage, _) in enumerate(readings[0].at_coverage):
        cells = tuple(_share(r.at_coverage[number][1]) for r in readings)
        yield f"accuracy at {100 * coverage:g} % coverage", cells


def confidence_sentences(found: Confidence) -> Iterator[str]:
    """What stands below the table."""
    yield f"Calibration: {found.calibration}."
    if found.num_fitted_on:
        yield (
            f"{found.num_fitted_on} of these questions are among those the calibration was fitted on: "
            "the calibrated numbers are no test of it."
        )
    refused = dict.fromkeys(r.error_refused for r in found.readings if r.error_refused)
    yield from (f"ECE {reason}." for reason in refused)
    for reading in found.readings:
        yield from (f"{reading.source}: {note}." for note in reading.notes)
    if found.threshold is not None:
        yield threshold_sentence(found.threshold)


def threshold_sentence(applied: Applied) -> str:
    wanted = f"Threshold for a risk of {percent(applied.wanted_risk)} %"
    if applied.least_confidence is None:
        return f"{wanted}: none was shown on the validation questions; nothing is answered."
    answered = f"{applied.num_answered} answered ({percent(applied.coverage)} %)"
    risk = "" if applied.risk is None else f", risk among them {_share(applied.risk)} %"
    return f"{wanted}: confidence of at least {percent(applied.least_confidence)} %; {answered}{risk}."


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    bounds = "" if estimate.interval is None else f" ({percent_range(estimate.interval)})"
    return f"{percent(estimate.value)}{bounds}"


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    bounds = estimate.interval
    return f"{estimate.value:.3f}" + ("" if bounds is None else f" ({bounds.low:.3f}–{bounds.high:.3f})")


def _by_chance(reading: Reading) -> str:
    if reading.error_if_calibrated is None:
        return NONE
    mean, high = reading.error_if_calibrated
    return f"{percent(mean)}, {percent(high)}"
