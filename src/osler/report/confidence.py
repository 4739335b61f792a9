"""The section on confidence: its numbers, a reliability diagram of each kind, and risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from osler.errors import BadInput
from osler.evaluate.confidence import Confidence, Reading, ReliabilityBin, confidence_from_json
from osler.evaluate.confidence_table import confidence_rows, confidence_sentences
from osler.evaluate.printed import percent, percent_range
from osler.evaluate.summary import read_findings
from osler.report.curves import INK, SERIES, Level, Panel, draw_panel, dress, figure_svg
from osler.report.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class BinLine:
    """One bin of a reliability diagram, as printed."""

    n: str
    range: str
    confidence: str
    accuracy: str
    interval: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """One diagram and the numbers behind it."""

    panel: Panel
    bins: tuple[BinLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSection:
    """One test set of one run."""

    title: str
    run: str
    sources: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    sentences: tuple[str, ...]
    chance: str
    blind: str
    risk: Panel
    reliabilities: tuple[Reliability, ...]


def confidence_sections(runs: Sequence[Run]) -> tuple[ConfidenceSection, ...]:
    """One section per run and test set with a confidence. Raises BadInput for one that cannot be read."""
    sections = []
    for number, run in enumerate(runs, start=1):
        for name, values in read_findings(run.path, "confidence").items():
            try:
                found = confidence_from_json(values)
            except (KeyError, TypeError, ValueError) as error:
                where = f"{run.path}/summary.json: confidence of {name}"
                raise BadInput(f"{where}: cannot be read ({error!r}); evaluate again") from error
            sections.append(_section(f"sure{number}-{name}", name, run.label, found))
    return tuple(sections)


def _section(key: str, title: str, run: str, found: Confidence) -> ConfidenceSection:
    return ConfidenceSection(
        title=title,
        run=run,
        sources=tuple(reading.source for reading in found.readings),
        rows=tuple(confidence_rows(found)),
        sentences=tuple(confidence_sentences(found)),
        chance=percent(found.chance),
        blind=percent(found.blind_accuracy),
        risk=_risk_panel(key, found.readings),
        reliabilities=tuple(
            Reliability(
                panel=_reliability_panel(f"{key}-{n}", n, reading), bins=tuple(map(_bin_line, reading.bins))
            )
            for n, reading in enumerate(found.readings)
            if reading.bins
        ),
    )


def _risk_panel(key: str, readings: Sequence[Reading]) -> Panel:
    """Risk against coverage, in percent; the oracle and random order belong to the first reading."""
    lines = {r.source: [(100 * x, 100 * y) for x, y in r.curve] for r in readings}
    first = readings[0]
    lines["oracle"] = [(100 * x, 100 * y) for x, y in _oracle(first.accuracy.value)]
    return draw_panel(
        "Risk against coverage",
        "coverage: share of questions answered, %",
        lines,
        key,
        note="share of wrong answers among the most confident, %; first to last value",
        smooth=False,
        levels=[Level("random order", 100 * first.aurc_random)],
    )


def _oracle(accuracy: float) -> list[tuple[float, float]]:
    """(coverage, risk) of the best order: every right answer first."""
    steps = [accuracy + (1 - accuracy) * i / 50 for i in range(51)]
    return [(0.0, 0.0), *((x, (x - accuracy) / x if x else 0.0) for x in steps)]


def _reliability_panel(key: str, number: int, reading: Reading) -> Panel:
    """Accuracy against mean confidence of each bin, with intervals; the diagonal is calibrated."""
    figure = Figure(figsize=(4.9, 3.6), dpi=72)
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.115, 0.1, 0.865, 0.86))
    axes.plot([0, 100], [0, 100], color=INK, lw=0.9, dashes=(2, 2))
    color = SERIES[number % len(SERIES)]
    for one in reading.bins:
        x = 100 * one.confidence
        axes.plot([x, x], [100 * one.interval.low, 100 * one.interval.high], color=color, lw=1.6)
        axes.plot([x], [100 * one.accuracy], color=color, marker="o", ms=5)
    dress(axes, fraction=False, log_x=False)
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    return Panel(
        title=f"Reliability: {reading.source}",
        x_label="mean confidence of a bin, %",
        svg=figure_svg(figure, f"Reliability of {reading.source}", key),
        legend=(),
        note="accuracy of each bin, %, with 95 % interval; dashed: calibrated",
    )


def _bin_line(one: ReliabilityBin) -> BinLine:
    return BinLine(
        n=str(one.n),
        range=f"{percent(one.low)}–{percent(one.high)}",
        confidence=percent(one.confidence),
        accuracy=percent(one.accuracy),
        interval=percent_range(one.interval),
    )
