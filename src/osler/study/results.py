"""What a study found so far, read from its folder: one line per model, one cell per column."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osler.evaluate.predictions import Header, read_predictions
from osler.evaluate.summary import Row, Summary, read_summaries
from osler.records import Prediction
from osler.study.graph import Job, job_from_json
from osler.study.recipe import RowSpec, StudyRecipe, study_from_json
from osler.study.store import Failure, Store, read_object, read_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model on one column."""

    row: Row
    num_tokens: float | None  # mean per completion, end token included; None where not all were counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a model cost to train; None where its log does not say."""

    folder: Path
    num_questions: int
    steps: int
    question_visits: int
    tokens: float | None  # completion tokens, all steps
    seconds: float | None  # of its steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server said of itself, and what it was asked for."""

    address: str
    names: Mapping[str, int]  # model and fingerprint as it states them -> answers
    answers: int
    unanswered: int  # questions without one, counted as not correct
    uncounted: int  # answers whose tokens it did not count
    prompt_tokens: int
    completion_tokens: int
    failed_requests: Mapping[str, int]  # reason -> requests
    cost: float | None  # by the recipe's prices; None where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model of the table: a row, what it was trained on, and the seed."""

    row: str
    label: str
    on: str  # what it was trained on; "" for a model that was not trained here
    seed: int | None
    template: str
    folder: Path  # of its evaluation
    header: Header
    summary: Summary
    cells: Mapping[str, Cell]  # by column; a column without questions has none
    predictions: tuple[Prediction, ...]
    question_digests: Mapping[str, str]  # question id -> what was asked
    blind: Mapping[str, bool]  # question id -> whether the blind baseline was right
    training: Training | None
    served: Served | None = None  # of a model behind a server

    @property
    def name(self) -> str:
        """The label, and what tells it from its neighbours."""
        parts = [self.on.replace("_", " ")] if self.on else []
        parts += [f"seed {self.seed}"] if self.seed is not None else []
        return f"{self.label} ({', '.join(parts)})" if parts else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """A study as far as it got."""

    folder: Path
    study: StudyRecipe
    jobs: tuple[Job, ...]
    lines: tuple[Line, ...]
    unfinished: tuple[str, ...]  # names of jobs that are not done
    failures: Mapping[str, Failure]
    untrained: tuple[str, ...]
    untested: tuple[str, ...]
    left_out: str  # training questions that the test shows, in words; "" where nobody asked
    digests: Mapping[str, str]  # of question files and weights, as named

    @property
    def trained_on(self) -> tuple[str, ...]:
        """What rows are trained on, without the values that no question was found for."""
        return tuple(v for v in self.study.train_on if v not in self.untrained)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.study.test_on


def read_results(folder: Path) -> StudyResults:
    """Read a study folder. Raises BadInput where it is none, or a result in it is damaged."""
    values = read_plan(folder)
    study = study_from_json(values["recipe"])
    jobs = tuple(job_from_json(job) for job in values["jobs"])
    store = Store(folder)
    done = {job.name: job for job in jobs if store.is_done(job)}
    lines = [_line(study, store, job, done) for job in done.values() if job.kind == "evaluate"]
    failures = {job.name: store.failure(job) for job in jobs if job.name not in done}
    return StudyResults(
        folder=folder,
        study=study,
        jobs=jobs,
        lines=tuple(_sorted(study, lines)),
        unfinished=tuple(job.name for job in jobs if job.name not in done),
        failures={name: failure for name, failure in failures.items() if failure is not None},
        untrained=tuple(values["untrained"]),
        untested=tuple(values["untested"]),
        left_out=values["left_out"],
        digests=values["digests"],
    )


def _sorted(study: StudyRecipe, lines: Sequence[Line]) -> list[Line]:
    rows, train_on = list(study.rows), ["", *study.train_on]
    return sorted(lines, key=lambda line: (rows.index(line.row), train_on.index(line.on), line.seed or 0))


def _line(study: StudyRecipe, store: Store, job: Job, done: Mapping[str, Job]) -> Line:
    folder = store.result(job)
    (summary,) = read_summaries(folder)
    stored = read_predictions(folder / "predictions" / f"{summary.header.name}.jsonl")
    blind = json.loads((folder / "blind" / f"{summary.header.name}.json").read_text(encoding="utf-8"))
    facts = job.facts
    return Line(
        row=facts["row"],
        label=study.rows[facts["row"]].label,
        on=facts["on"],
        seed=facts["seed"],
        template=facts["template"],
        folder=folder,
        header=summary.header,
        summary=summary,
        cells=_cells(study, stored.predictions, summary),
        predictions=stored.predictions,
        question_digests=stored.question_digests,
        blind=blind["correct"],
        training=_training(store.result(done[facts["train"]])) if facts["train"] else None,
        served=_served(folder / "endpoint" / f"{summary.header.name}.json", study.rows[facts["row"]]),
    )


def _served(path: Path, row: RowSpec) -> Served | None:
    facts = read_object(path)
    if facts is None:
        return None
    prompt, completion = facts["prompt_tokens"], facts["completion_tokens"]
    return Served(
        address=f"{facts['url']}#{facts['model']}",
        names=facts["served"],
        answers=facts["answers"],
        unanswered=facts["unanswered"],
        uncounted=facts["answers_without_token_counts"],
        prompt_tokens=prompt,
        completion_tokens=completion,
        failed_requests=facts["failed_requests"],
        cost=None if row.endpoint is None else row.endpoint.cost(prompt, completion),
    )


def _cells(study: StudyRecipe, stored: Sequence[Prediction], summary: Summary) -> dict[str, Cell]:
    found = {row.value: row for row in summary.groups if row.scope == study.axis}
    answers: dict[str, list[Prediction]] = {}
    for p in stored:
        value = p.modality.value if study.axis == "modality" else p.question_type.value
        answers.setdefault(value, []).append(p)
    if len(answers) == 1:  # a summary lists groups only where there are two or more
        found = {next(iter(answers)): summary.overall}
    return {
        value: Cell(row=found[value], num_tokens=mean_tokens(answers[value]))
        for value in study.test_on
        if value in found
    }


def mean_tokens(answers: Sequence[Prediction]) -> float | None:
    """Per completion, end token included; None where a server did not count those of every answer."""
    written = [p for p in answers if not p.error]
    if not written or any(p.text and not p.num_tokens for p in written):
        return None
    return sum(p.num_tokens for p in written) / len(written)


def _training(folder: Path) -> Training:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["training"]
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    seconds = tokens = 0.0
    with (folder / "metrics.jsonl").open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            step_seconds = record.get("time/step", 0.0)
            seconds += step_seconds
            tokens += step_seconds * record.get("throughput/tokens_per_second", 0.0)
    return Training(
        folder=folder,
        num_questions=environment["num_questions"],
        steps=summary["steps"],
        question_visits=summary["question_visits"],
        tokens=tokens or None,
        seconds=seconds or None,
    )


def results_to_json(results: StudyResults) -> dict[str, Any]:
    """The table as plain JSON values."""
    return {
        "title": results.study.title,
        "table": [
            {
                "row": line.row,
                "label": line.label,
                "on": line.on,
                "seed": line.seed,
                "cells": {
                    value: {**asdict(cell.row), "num_tokens": cell.num_tokens}
                    for value, cell in line.cells.items()
                },
                **({} if line.served is None else {"server": asdict(line.served)}),
            }
            for line in results.lines
        ],
        "unfinished": list(results.unfinished),
        "empty": {"trained_on": list(results.untrained), "tested_on": list(results.untested)},
    }
