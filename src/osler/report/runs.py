"""Read run folders for the page: what was configured, measured, predicted and sampled."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.evaluate.looking_records import Looking, read_looking
from osler.evaluate.predictions import (
    QuestionText,
    StoredPredictions,
    read_predictions,
    read_questions,
)
from osler.evaluate.summary import Summary, read_summaries

_MARKERS = ("metrics.jsonl", "summary.json", "predictions")
_STUDY_DEPTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One test set of one run."""

    summary: Summary
    stored: StoredPredictions
    questions: Mapping[str, QuestionText]  # id -> text; empty where the side file is missing
    looking: Looking | None = None  # where variants of the questions were asked too


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run folder as read."""

    label: str
    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Mapping[str, tuple[tuple[float, float], ...]]  # name -> (step, value), finite, by step
    groups: tuple[Mapping[str, Any], ...]  # first and last lines of rollouts.jsonl
    evaluations: tuple[Evaluated, ...]
    validation: Mapping[str, Mapping[str, Any]]  # validation set -> n, chance, blind_accuracy
    notes: tuple[str, ...]  # what is missing or was dropped


def find_runs(paths: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """(label, folder) of every run: the paths themselves, or the run folders inside a study folder.

    Raises BadInput where a path holds no run, or where two runs would have the same label.
    """
    found: list[tuple[str, Path]] = []
    for given in paths:
        root = Path(given)
        if not root.is_dir():
            raise BadInput(f"{given}: no such folder; give a run folder, or a folder that holds run folders")
        if _is_run(root):
            found.append((root.resolve().name, root))
            continue
        inside = [(str(p.relative_to(root)), p) for p in _runs_inside(root, _STUDY_DEPTH)]
        if not inside:
            raise BadInput(
                f"{given}: not a run folder (none of {', '.join(_MARKERS)} in it) and none inside it"
            )
        found.extend(inside)
    return _distinct(found)


def _distinct(found: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    unique: dict[Path, str] = {}
    for label, path in found:
        unique.setdefault(path.resolve(), label)
    labels = list(unique.values())
    return [(label if labels.count(label) == 1 else str(path), path) for path, label in unique.items()]


def _is_run(path: Path) -> bool:
    return any((path / marker).exists() for marker in _MARKERS)


def _runs_inside(folder: Path, depth: int) -> Iterator[Path]:
    for child in sorted(p for p in folder.iterdir() if p.is_dir()):
        if _is_run(child):
            yield child
        elif depth > 1:
            yield from _runs_inside(child, depth - 1)


def read_run(label: str, path: Path) -> Run:
    """Read one run folder; what may be missing is noted, what is damaged raises BadInput."""
    notes: list[str] = []
    config = _object(path / "config.json", notes)
    environment = _object(path / "environment.json", notes)
    metrics = _metrics(path / "metrics.jsonl", notes)
    return Run(
        label=label,
        path=path,
        config=config,
        environment=environment,
        metrics=metrics,
        groups=_first_and_last(path / "rollouts.jsonl", notes),
        evaluations=tuple(_evaluations(path, notes)),
        validation=_object(path / "validation.json", notes) if (path / "validation.json").exists() else {},
        notes=tuple(notes),
    )


def _object(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.exists():
        notes.append(f"{path.name} is missing")
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot read: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}: not a JSON object")
    return values


def _lines(path: Path, notes: list[str]) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                notes.append(f"{path.name}: dropped a torn last line")
                return
            yield number, line


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{path}:{number}: not JSON; the file is damaged") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}:{number}: not a JSON object")
    return values


def _metrics(path: Path, notes: list[str]) -> Mapping[str, tuple[tuple[float, float], ...]]:
    if not path.exists():
        return {}
    series: dict[str, dict[float, float]] = {}
    for number, line in _lines(path, notes):
        row = _parse(path, number, line)
        step = row.get("step")
        if not isinstance(step, (int, float)):
            raise BadInput(f'{path}:{number}: no "step"')
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                series.setdefault(name, {})[float(step)] = float(value)
    return {name: tuple(sorted(points.items())) for name, points in series.items()}


def _first_and_last(path: Path, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    if not path.exists():
        return ()
    first: tuple[int, bytes] | None = None
    last: tuple[int, bytes] | None = None
    for numbered in _lines(path, notes):
        first, last = first or numbered, numbered
    kept = [pair for pair in (first, last) if pair is not None]
    return tuple(_parse(path, *pair) for pair in dict.fromkeys(kept))


def _evaluations(path: Path, notes: list[str]) -> Iterator[Evaluated]:
    summaries = {s.header.name: s for s in read_summaries(path)}
    stored = {p.stem: p for p in sorted((path / "predictions").glob("*.jsonl"))}
    for name in stored.keys() - summaries.keys():
        notes.append(f"predictions/{name}.jsonl has no entry in summary.json: evaluation not finished")
    looked = read_looking(path)
    for name, summary in summaries.items():
        if name not in stored:
            raise BadInput(
                f"{path}: summary.json names test set {name!r}, predictions/{name}.jsonl is missing"
            )
        yield Evaluated(
            summary=summary,
            stored=read_predictions(stored[name]),
            questions=_questions(path / "questions" / f"{name}.jsonl", notes),
            looking=looked.get(name),
        )


def _questions(path: Path, notes: list[str]) -> Mapping[str, QuestionText]:
    if path.exists():
        return read_questions(path)
    notes.append(f"questions/{path.name} is missing: no examples from this test set")
    return {}
