"""How far text alone goes: every reader and the blind baseline, modality by modality.

Each training modality is fitted on its own. The readers answer the test questions of the same modality; the
blind baseline answers those of every modality (the cross-modality matrix), and is fitted again on the first
100, 300, … training questions, in an order that depends on their ids alone (the learning curve).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from osler.audit.blind import fit_blind
from osler.audit.readers import READERS
from osler.evaluate.stats import Interval, accuracy_interval, chance_level
from osler.processes import spread
from osler.records import Modality, Question

BLIND = "blind_baseline"
CURVE_SIZES = (100, 300, 600, 1500, 3000)
# Below this many questions in all, starting processes costs more than they save.
_ALONE = 4000

ByModality = Mapping[Modality, Sequence[Question]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An accuracy with what belongs beside it; from 0 to 1."""

    share: float
    interval: Interval
    n: int
    chance: float


def accuracy_of(
    chosen: NDArray[np.int64], questions: Sequence[Question], clusters: Sequence[Hashable]
) -> Accuracy:
    """Accuracy of chosen positions [n]; the interval counts the clusters (images or subjects) [n]."""
    right = chosen == np.array([question.answer_index for question in questions])
    return Accuracy(
        share=float(right.mean()),
        interval=accuracy_interval(right, clusters),
        n=len(questions),
        chance=chance_level([len(question.choices) for question in questions]),
    )


@dataclass(frozen=True, slots=True)
class TextAnswers:
    """What text-only rules fitted on one training modality answer; every array holds positions, [n] each."""

    modality: Modality
    num_train: int
    own: Mapping[str, NDArray[np.int64]]  # rule -> answers to the test questions of the same modality
    evidence: Mapping[str, tuple[str, ...]]  # rule -> what decided most of its right answers
    across: Mapping[Modality, NDArray[np.int64]]  # test modality -> answers of the blind baseline
    curve: Mapping[int, NDArray[np.int64]]  # training questions -> its answers to the same modality


@dataclass(frozen=True, slots=True)
class _Job:
    modality: Modality
    train: tuple[Question, ...]
    test: Mapping[Modality, tuple[Question, ...]]


def by_modality(questions: Sequence[Question]) -> dict[Modality, tuple[Question, ...]]:
    """The questions of each modality, in the order of the enumeration."""
    found: dict[Modality, list[Question]] = {}
    for question in questions:
        found.setdefault(question.modality, []).append(question)
    return {modality: tuple(found[modality]) for modality in Modality if modality in found}


def answer_from_text(train: ByModality, test: ByModality, workers: int) -> dict[Modality, TextAnswers]:
    """Fit on every training modality and answer; the number of processes changes nothing.

    Raises BadInput as `fit_blind` does.
    """
    asked = {modality: tuple(questions) for modality, questions in test.items()}
    jobs = [_Job(modality, tuple(questions), asked) for modality, questions in train.items()]
    jobs.sort(key=lambda job: -len(job.train))  # the longest first: nothing waits for it at the end
    num_questions = sum(map(len, train.values())) + sum(map(len, test.values()))
    answers = spread(_answer, jobs, workers if num_questions > _ALONE else 1)
    found = {one.modality: one for one in answers}
    return {modality: found[modality] for modality in train}


def _answer(job: _Job) -> TextAnswers:
    model = fit_blind(job.train)
    across = {modality: model.predict(questions) for modality, questions in job.test.items()}
    same = job.test.get(job.modality, ())
    own, evidence = {}, {}
    for name, reader in [(rule.name, rule.fit(job.train)) for rule in READERS] if same else []:
        own[name] = reader.predict(same)
        evidence[name] = reader.evidence(same, own[name])
    if same:
        own[BLIND] = across[job.modality]
    drawn = sorted(job.train, key=lambda q: blake2b(q.id.encode()).digest())
    sizes = [size for size in CURVE_SIZES if size < len(drawn)] if same else []
    curve = {size: fit_blind(drawn[:size]).predict(same) for size in sizes}
    return TextAnswers(job.modality, len(job.train), own, evidence, across, curve)
