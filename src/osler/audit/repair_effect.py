"""What a repair changed: the blind baseline on the questions as they were and as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osler.audit.baselines import Accuracy, accuracy_of, by_modality
from osler.audit.blind import fit_blind
from osler.data.rebuild import UNBALANCED
from osler.data.repair_record import RepairRecord
from osler.processes import spread
from osler.records import Modality, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRow:
    """One modality before and after."""

    modality: str
    num_train_before: int
    num_train: int
    num_test_before: int
    num_test: int
    unbalanced: int  # test questions kept without balance
    dropped: Mapping[str, int]  # reason -> questions of both parts
    before: Accuracy  # fitted and tested on the questions as they were
    original_fit: Accuracy  # fitted on the questions as they were, tested on the repaired ones
    refit: Accuracy  # fitted and tested on the repaired ones


@dataclass(frozen=True, slots=True)
class _Job:
    modality: Modality
    train: tuple[Question, ...]
    train_before: tuple[Question, ...]
    test: tuple[Question, ...]
    test_before: tuple[Question, ...]


def repair_effect(
    train: Sequence[Question],
    test: Sequence[Question],
    train_record: RepairRecord,
    test_record: RepairRecord,
    workers: int,
) -> tuple[RepairRow, ...]:
    """One row for every modality that has training and test questions after the repair."""
    parts = [by_modality(q) for q in (train, train_record.before, test, test_record.before)]
    both = [modality for modality in parts[0] if modality in parts[2]]
    jobs = [_Job(modality, *(part[modality] for part in parts)) for modality in both]
    rows = []
    for job, (before, original_fit, refit) in zip(jobs, spread(_measure, jobs, workers), strict=True):
        reasons = {**train_record.reasons, **test_record.reasons}
        dropped = Counter(reasons[q.id] for q in (*job.train_before, *job.test_before) if q.id in reasons)
        rules = test_record.rules
        rows.append(
            RepairRow(
                modality=job.modality.value,
                num_train_before=len(job.train_before),
                num_train=len(job.train),
                num_test_before=len(job.test_before),
                num_test=len(job.test),
                unbalanced=sum(rules[question.id] == UNBALANCED for question in job.test),
                dropped=dict(sorted(dropped.items())),
                before=before,
                original_fit=original_fit,
                refit=refit,
            )
        )
    return tuple(rows)


def _measure(job: _Job) -> tuple[Accuracy, Accuracy, Accuracy]:
    original, refitted = fit_blind(job.train_before), fit_blind(job.train)
    return (
        _accuracy(original.predict(job.test_before), job.test_before),
        _accuracy(original.predict(job.test), job.test),
        _accuracy(refitted.predict(job.test), job.test),
    )


def _accuracy(chosen: NDArray[np.int64], questions: Sequence[Question]) -> Accuracy:
    return accuracy_of(chosen, questions, [q.subject_id or q.images or q.id for q in questions])
