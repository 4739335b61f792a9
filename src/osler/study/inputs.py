"""What a study rests on and does not make itself: questions from files, and the weights to start from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.costs.shape import ModelShape, model_shape
from osler.data.digest import questions_digest, questions_signature
from osler.data.load import load_questions
from osler.data.without import LeftOut, as_shown, leave_out
from osler.errors import BadInput
from osler.evaluate.server import KEY_VARIABLE, SCHEME
from osler.phantom.benchmark import DRAWING_VERSION, draw_parts
from osler.records import Modality, Question
from osler.study.recipe import AXES, StudyRecipe
from osler.study.store import read_object
from osler.tracking import write_json

MAX_SHARED = 0.01  # share of the test questions that may be training questions too


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Digests and counts; the counts are by value of the study's axis."""

    digests: Mapping[str, str]  # path as the recipe has it -> content digest
    train_counts: Mapping[str, int]
    test_counts: Mapping[str, int]
    models: Mapping[str, str]  # model as named -> digest of its weights, or its name
    shapes: Mapping[str, ModelShape]  # of those whose sizes are known
    left_out: LeftOut | None = None  # training questions that the test shows, where they are left out
    exact: bool = True  # False where the questions are still to be split: the counts are of all of them


def read_inputs(study: StudyRecipe, models: Iterable[str], cache: Path) -> Inputs:
    """Read and check everything that can be checked before the first job. Digests are kept in `cache`.

    Raises BadInput for questions that cannot be read, that do not name the study's axis, or that stand on
    both sides.
    """
    _check_keys(study)
    models = list(dict.fromkeys(models))
    digests, train, test, left_out = (
        _phantom_questions(study) if study.is_phantom else _questions_of_files(study, cache)
    )
    return Inputs(
        digests=digests,
        train_counts=_counts(study, train),
        test_counts=_counts(study, test),
        left_out=left_out,
        exact=study.data.splits == "given",
        models={model: _identity(model) for model in models},
        shapes={model: shape for model in models if (shape := _shape(model)) is not None},
    )


def phantom_modalities(study: StudyRecipe) -> tuple[Modality, ...]:
    """Those that the study needs, in their own order."""
    wanted = {*study.train_on, *study.test_on} if study.axis == "modality" else {*AXES["modality"]}
    return tuple(Modality(value) for value in AXES["modality"] if value in wanted)


def phantom_identity(study: StudyRecipe) -> dict[str, Any]:
    """What decides every byte of the phantom."""
    return {
        "drawing": DRAWING_VERSION,
        "images": study.data.phantom_images,
        "seed": study.data.phantom_seed,
        "modalities": [m.value for m in phantom_modalities(study)],
    }


def axis_of(study: StudyRecipe, question: Question) -> str:
    """The question's value on the study's axis."""
    return question.modality.value if study.axis == "modality" else question.question_type.value


# digests, train, test, what was left out of train
_Found = tuple[dict[str, str], Sequence[Question], Sequence[Question], LeftOut | None]


def _phantom_questions(study: StudyRecipe) -> _Found:
    data = study.data
    parts = draw_parts(data.phantom_images, data.phantom_seed, modalities=phantom_modalities(study))
    train, test = ([q for p in parts if p.name == name for q in p.questions] for name in ("train", "test"))
    return {}, train, test, None


def _questions_of_files(study: StudyRecipe, cache: Path) -> _Found:
    data, kept = study.data, _Digests(cache)
    paths = (data.train, data.test) if data.splits == "given" else (data.source,)
    loaded = {path: _load(path, study) for path in paths}
    for path, questions in loaded.items():
        _check_axis(study, path, questions)
    train, test = loaded[paths[0]], loaded[paths[-1]]
    left_out = None
    if data.without_test:
        train, left_out = leave_out(train, test)
    if data.splits == "given":
        _check_disjoint(study, train, test)
    return {path: kept.digest(path, found) for path, found in loaded.items()}, train, test, left_out


def _counts(study: StudyRecipe, questions: Sequence[Question]) -> dict[str, int]:
    return dict(Counter(axis_of(study, question) for question in questions))


def _load(path: str, study: StudyRecipe) -> tuple[Question, ...]:
    data = study.data
    return load_questions(path, images_root=data.images or None, skip_bad=data.skip_bad).questions


def _check_keys(study: StudyRecipe) -> None:
    """Refuse a server's row whose key is named and not there, before anything else is run."""
    for name, row in study.chosen_rows.items():
        # The name is not repeated: somebody may have written the key itself in its place.
        if row.endpoint is not None and row.endpoint.key_variable != KEY_VARIABLE and not row.endpoint.key:
            raise BadInput(
                f"row {name}: the environment variable that endpoint.key_variable names is not set here"
            )


def _check_axis(study: StudyRecipe, path: str, questions: Sequence[Question]) -> None:
    unknown = sum(axis_of(study, q) == "unknown" for q in questions)
    if unknown == len(questions):
        raise BadInput(
            f"{path}: no question names its {study.axis}, and this study trains and tests by {study.axis}; "
            "Med-R1's files by modality and by question type are two splits of the same questions: give "
            f"those by {study.axis}, or data that names it"
        )


def _check_disjoint(study: StudyRecipe, train: Sequence[Question], test: Sequence[Question]) -> None:
    """Refuse a test whose questions are trained on, as where one split family meets the other."""
    trained = {as_shown(q) for q in train if axis_of(study, q) in study.train_on}
    shared = sum(as_shown(q) in trained for q in test)
    if shared > MAX_SHARED * len(test):
        raise BadInput(
            f"{study.data.test}: {shared:,} of {len(test):,} test questions are training questions in "
            f"{study.data.train}; give files of one split family, leave them out of the training "
            "(data.without_test=true), or split anew: data.splits=image data.source=PATH"
        )


def _identity(model: str) -> str:
    if model.startswith(SCHEME):
        return model
    from osler.policy.load import checkpoint_folder, model_digest

    name, _, revision = model.partition("@")
    try:
        return model_digest(checkpoint_folder(name, revision))
    except (BadInput, OSError):
        if Path(name).exists() or name.count("/") != 1:
            raise
        return model  # on the hub and not here yet: it stands by its name


def _shape(model: str) -> ModelShape | None:
    if model.startswith(SCHEME):
        return None
    from osler.policy.load import checkpoint_folder

    name, _, revision = model.partition("@")
    try:
        return model_shape(json.loads((checkpoint_folder(name, revision) / "config.json").read_text("utf-8")))
    except (BadInput, OSError):
        return None  # only times are predicted from it


class _Digests:
    """Content digests that are computed once, as long as no file changes."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.known = read_object(cache) or {}

    def digest(self, path: str, questions: Sequence[Question]) -> str:
        signature = questions_signature(questions)
        found = self.known.get(path, {})
        if found.get("signature") != signature:
            found = {"signature": signature, "digest": questions_digest(questions)}
            self.known = {**self.known, path: found}
            write_json(self.cache, self.known)
        return str(found["digest"])
