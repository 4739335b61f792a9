"""`osler audit`: from two data paths to one report; no model, no torch."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.audit.baselines import answer_from_text, by_modality
from osler.audit.findings import CHECKS, Finding, worst_first
from osler.audit.leakage import ImageFacts, Progress, find_overlaps, read_images
from osler.audit.repair_effect import RepairRow, repair_effect
from osler.audit.scopes import Asked, Cell, CurvePoint, Scope
from osler.data.load import LoadResult, load_questions, path_and_split
from osler.data.repair_record import read_repair
from osler.errors import BadInput
from osler.records import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """Everything that an audit found; all shares from 0 to 1."""

    train: str
    test: str
    images_read: int  # files; 0 where none was at hand
    image_problems: tuple[str, ...]
    notes: tuple[str, ...]
    scopes: tuple[Scope, ...]
    findings: tuple[Finding, ...]  # worst first
    matrix: tuple[Cell, ...]
    curves: tuple[CurvePoint, ...]
    repair: tuple[RepairRow, ...]  # empty unless both parts were repaired

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values, titles and advice of the checks included."""
        return {**asdict(self), "checks": {name: asdict(check) for name, check in CHECKS.items()}}


def audit(
    train: str,
    test: str,
    *,
    images_root: str | None = None,
    no_images: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Audit the test questions of one path against the training questions of another.

    Images are used where their files are found. `workers` processes share the work (default: one per core
    that this process may use); their number changes nothing. `progress` is called with images read and images
    in all. Raises BadInput as `load_questions` does.
    """
    if os.path.abspath(train) == os.path.abspath(test):
        raise BadInput(f"{test}: TRAIN and TEST are the same; name two parts, as in DATA#train DATA#test")
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    loaded = [_load(path, images_root, no_images, skip_bad) for path in (train, test)]
    seen, asked = loaded[0].questions, loaded[1].questions
    images = read_images([*seen, *asked], workers, progress)
    part = Asked(asked, [_cluster(question, images) for question in asked], by_modality(seen))
    answers = answer_from_text(part.train, by_modality(asked), workers)
    findings = [*part.overlaps(find_overlaps(seen, asked, images)), *part.rules(answers)]
    return AuditReport(
        train=train,
        test=test,
        images_read=images.num_read,
        image_problems=images.unreadable,
        notes=tuple(_notes(loaded, images)),
        scopes=part.scopes,
        findings=tuple(worst_first(findings)),
        matrix=tuple(part.matrix(answers)),
        curves=tuple(part.curves(answers)),
        repair=_repair(train, test, seen, asked, workers),
    )


def _load(path: str, images_root: str | None, no_images: bool, skip_bad: bool) -> LoadResult:
    return load_questions(
        path, images_root=images_root, no_images=no_images, missing_ok=True, skip_bad=skip_bad
    )


def _cluster(question: Question, images: ImageFacts) -> Hashable:
    return question.subject_id or tuple(images.keys[path] for path in question.images) or question.id


def _notes(loaded: Sequence[LoadResult], images: ImageFacts) -> Iterator[str]:
    if not images.num_read:
        yield "No image file was at hand: images are compared by path, and near copies were not looked for."
    elif missing := len(images.keys) - images.num_read - len(images.unreadable):
        yield f"{missing:,} image files are missing: those images are compared by path alone."
    for name, part in zip(("TRAIN", "TEST"), loaded, strict=True):
        if part.bad:
            yield f"{name}: {len(part.bad):,} bad rows were left out, the first: {part.bad[0]}"


def _repair(
    train: str, test: str, seen: Sequence[Question], asked: Sequence[Question], workers: int
) -> tuple[RepairRow, ...]:
    records = [read_repair(*path_and_split(path)) for path in (train, test)]
    if records[0] is None or records[1] is None:
        return ()
    return repair_effect(seen, asked, records[0], records[1], workers)
