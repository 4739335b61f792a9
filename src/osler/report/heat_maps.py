"""Train x test as coloured tables: the model, the blind baseline of the same training set, the difference.

Colour only repeats what the cell prints. One hue from light to dark for accuracies, two hues for
differences: told apart in every common form of colour blindness, and in grey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from osler.evaluate.predictions import QuestionText
from osler.evaluate.printed import percent, percent_range, points, points_range
from osler.evaluate.stats import accuracy_interval, paired_cluster_bootstrap
from osler.evaluate.summary import cluster_of
from osler.records import LETTERS, Prediction
from osler.report.examples import visible
from osler.study.effects import value_of
from osler.study.results import Line, StudyResults

ITEMS_SHOWN = 6
_STEPS = 10  # colours from 0 to 1, and from -_REACH to _REACH
_REACH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """One cell, every number as printed."""

    text: str
    interval: str
    n: str
    css_class: str
    link: str = ""  # id of its items on this page


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Rows x columns; None where there is no question, or no result yet."""

    title: str
    rows: tuple[tuple[str, tuple[HeatCell | None, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a cell, and what came of it."""

    question: str
    said: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Some questions of one cell, and where all of them are."""

    id: str
    title: str
    shown: tuple[Item, ...]
    count: int
    file: str  # from the study's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatGroup:
    """The three maps of one kind of model, with the items behind the first."""

    title: str
    corner: str  # what the rows are
    maps: tuple[HeatMap, ...]
    items: tuple[Items, ...]


def heat_group(
    results: StudyResults,
    title: str,
    key: str,
    rows: Sequence[tuple[str, Sequence[Line]]],
    texts: Callable[[Line], dict[str, QuestionText]],
) -> HeatGroup:
    """Maps of `rows` (name, lines of one training set: its seeds) over the study's columns."""
    maps: dict[str, list[tuple[str, tuple[HeatCell | None, ...]]]] = {name: [] for name in _MAPS}
    items = []
    for number, (name, lines) in enumerate(rows):
        cells = [_answers(results, lines, column) for column in results.columns]
        ids = [f"items-{key}-{number}-{i}" for i in range(len(cells))]
        maps["model"].append((name, tuple(map(_model_cell, cells, ids))))
        maps["blind"].append((name, tuple(map(_blind_cell, cells))))
        maps["over"].append((name, tuple(map(_over_cell, cells))))
        for column, found, one in zip(results.columns, cells, ids, strict=True):
            if found:
                items.append(_items(results, one, f"{name} → {column.replace('_', ' ')}", found, texts))
    shown = tuple(
        HeatMap(title=_MAPS[name], rows=tuple(found))
        for name, found in maps.items()
        if any(cell for _, row in found for cell in row)
    )
    corner = "trained on" if len(results.trained_on) > 1 else "model"
    return HeatGroup(title=title, corner=corner, maps=shown, items=tuple(items))


_MAPS = {
    "model": "model, accuracy %",
    "blind": "blind baseline, fitted on the same training questions, accuracy %",
    "over": "model minus blind baseline, points",
}
_Answers = list[tuple[Line, Prediction]]


def _answers(results: StudyResults, lines: Sequence[Line], column: str) -> _Answers:
    return [(line, p) for line in lines for p in line.predictions if value_of(results, p) == column]


def _model_cell(found: _Answers, link: str) -> HeatCell | None:
    if not found:
        return None
    correct = [p.correct for _, p in found]
    bounds = accuracy_interval(correct, _clusters(found))
    share = float(np.mean(correct))
    return HeatCell(
        text=percent(share),
        interval=percent_range(bounds),
        n=f"{len(found):,}",
        css_class=_sequential(share),
        link=link,
    )


def _blind(found: _Answers) -> list[bool] | None:
    if not found or any(not line.on or p.question_id not in line.blind for line, p in found):
        return None
    return [line.blind[p.question_id] for line, p in found]


def _blind_cell(found: _Answers) -> HeatCell | None:
    blind = _blind(found)
    if blind is None:
        return None
    bounds, share = accuracy_interval(blind, _clusters(found)), float(np.mean(blind))
    return HeatCell(
        text=percent(share), interval=percent_range(bounds), n=f"{len(found):,}", css_class=_sequential(share)
    )


def _over_cell(found: _Answers) -> HeatCell | None:
    blind = _blind(found)
    if blind is None:
        return None
    seen = [p.correct for _, p in found]
    bounds = paired_cluster_bootstrap(blind, seen, _clusters(found))
    gain = float(np.mean(seen)) - float(np.mean(blind))
    return HeatCell(
        text=points(gain), interval=points_range(bounds), n=f"{len(found):,}", css_class=_diverging(gain)
    )


def _clusters(found: _Answers) -> list[str]:
    return [cluster_of(p) for _, p in found]


def _sequential(share: float) -> str:
    return f"s{min(_STEPS, max(0, round(_STEPS * share)))}"


def _diverging(gain: float) -> str:
    return f"d{min(_STEPS, max(0, round(_STEPS * (gain + _REACH) / (2 * _REACH))))}"


def _items(
    results: StudyResults,
    id: str,
    title: str,
    found: _Answers,
    texts: Callable[[Line], dict[str, QuestionText]],
) -> Items:
    line = found[0][0]
    own = [p for other, p in found if other is line]
    ordered = sorted(own, key=lambda p: hashlib.sha256(p.question_id.encode()).digest())
    known = texts(line)
    predictions = line.folder / "predictions" / f"{line.header.name}.jsonl"
    return Items(
        id=id,
        title=title,
        shown=tuple(_item(p, known.get(p.question_id)) for p in ordered[:ITEMS_SHOWN]),
        count=len(own),
        file=predictions.relative_to(results.folder).as_posix(),
    )


def _item(prediction: Prediction, text: QuestionText | None) -> Item:
    index, outcome = prediction.extraction.index, prediction.outcome

    def shown(which: int) -> str:
        choice = f" {visible(text.choices[which])}" if text is not None and which < len(text.choices) else ""
        return f"{LETTERS[which]}){choice}"

    said = "nothing readable" if index is None else shown(index)
    return Item(
        question=visible(prediction.question_id if text is None else text.text),
        said=said if prediction.correct else f"{said}; right: {shown(prediction.answer_index)}",
        outcome="error" if outcome is None else outcome.value,
    )
