"""Validation accuracy against what training cost so far: steps, tokens, seconds; one line per row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from osler.report.curves import SERIES, Panel, draw_panel
from osler.report.runs import read_run
from osler.study.effects import lines_of
from osler.study.results import StudyResults

Metrics = Mapping[str, tuple[tuple[float, float], ...]]
_VALIDATION = "eval/accuracy/"
_AXES = {"steps": "optimizer steps", "tokens": "completion tokens trained on", "seconds": "seconds of steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One validation, and what had been spent by then."""

    accuracy: float  # mean over the validation sets, fraction of 1
    steps: float
    tokens: float
    seconds: float


def cost_panels(results: StudyResults) -> list[Panel]:
    """A panel per cost, of the first training set and seed of each row; none where fewer than two rows
    were validated on the way.
    """
    found: dict[str, tuple[Reached, ...]] = {}
    for row, spec in results.study.chosen_rows.items():
        training = next((line.training for line in lines_of(results, row) if line.training is not None), None)
        way = () if training is None else reached(read_run(row, training.folder).metrics)
        if way:
            found[spec.label] = way
    if len(found) < 2:
        return []
    names = list(found)[: len(SERIES)]
    return [
        draw_panel(
            f"Validation accuracy against {label}",
            label,
            {name: [(getattr(one, cost), one.accuracy) for one in found[name]] for name in names},
            f"cost-{cost}",
            note="mean over the validation sets; unparsed counts as wrong; no smoothing",
            fraction=True,
            smooth=False,
        )
        for cost, label in _AXES.items()
    ]


def reached(metrics: Metrics) -> tuple[Reached, ...]:
    """Every step at which all validation sets were asked, with the costs summed up to it."""
    sets = [dict(points) for name, points in metrics.items() if name.startswith(_VALIDATION)]
    seconds = dict(metrics.get("time/step", ()))
    rates = dict(metrics.get("throughput/tokens_per_second", ()))
    steps = sorted(seconds)
    spent = list(accumulate((seconds[step] for step in steps), initial=0.0))
    written = list(accumulate((seconds[step] * rates.get(step, 0.0) for step in steps), initial=0.0))
    asked = sorted(set.intersection(*map(set, sets))) if sets else []
    return tuple(
        Reached(
            accuracy=fmean(one[step] for one in sets),
            steps=step,
            tokens=written[bisect_right(steps, step)],
            seconds=spent[bisect_right(steps, step)],
        )
        for step in asked
    )
