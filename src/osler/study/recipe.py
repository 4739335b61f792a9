"""What a study asks: which models are trained on what, and what all of them are tested on. TOML in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from osler.config import RECIPE_DIR, build, read_recipe, recipe_names, with_overrides
from osler.errors import BadInput
from osler.evaluate.server import SCHEME, Address, EndpointOptions
from osler.evaluate.variants import ABLATIONS
from osler.records import Modality, QuestionType

# Fields of EndpointOptions, and the options of `osler evaluate` that set them.
ENDPOINT_WORDS = {
    "concurrency": "--concurrency",
    "timeout_seconds": "--timeout",
    "attempts": "--attempts",
    "key_variable": "--key-variable",
    "limit_parameter": "--limit-parameter",
    "prices": "--prices",
}
RELEASED = "{released}"
STUDY_DIR = RECIPE_DIR / "studies"
Axis = Literal["modality", "question_type"]
AXES: Mapping[str, tuple[str, ...]] = {
    "modality": tuple(m.value for m in Modality if m is not Modality.UNKNOWN),
    "question_type": tuple(t.value for t in QuestionType if t is not QuestionType.UNKNOWN),
}


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """Where the questions come from, and who is on which side."""

    phantom_images: int = 0  # draw a phantom with so many images per modality; 0: questions from files
    phantom_seed: int = 2025
    splits: Literal["given", "image", "rebuilt"] = "given"  # as the files are (the papers'), or drawn anew
    source: str = ""  # for "image" and "rebuilt": one data set, split anew by image
    train: str = ""  # for "given": the training questions, a path or PATH#split
    test: str = ""  # for "given": the test questions
    without_test: bool = False  # for "given": train on nothing that the test shows, image or question
    images: str = ""  # where relative image paths start
    skip_bad: bool = False
    seed: int = 0  # of the drawn splits


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What a test asks beyond the questions as they are; words of `osler evaluate`.

    What a row cannot be asked is left out of its test: `thinking` where no reasoning stands before the
    answer, and whatever looks inside a model where that is behind a server.
    """

    ablate: tuple[str, ...] = ()
    rotate: bool = False
    thinking: bool = False
    confidence: bool = False
    samples: int = 0  # completions per question for their agreement; 0 = none


@dataclass(frozen=True, kw_only=True)
class RowSpec:
    """One kind of model: a row of the table, or as many rows as there are things to train on."""

    label: str
    template: str = ""  # "" = the training recipe's; a model that is not trained here must name one
    recipe: str = (
        ""  # training recipe; "{on}" is what is trained on, "{phantom}" the prefix; "" = not trained
    )
    overrides: tuple[str, ...] = ()  # "key=value" on that recipe
    model: str = ""  # of a row that is not trained: whatever `osler evaluate --model` takes
    train_questions: int = -1  # -1 = the study's
    seeds: tuple[int, ...] = ()  # empty = the study's
    scorer: str = "osler"
    endpoint: EndpointOptions | None = None  # how a model that is a server is asked; no part of a key
    evaluate: Passes | None = None  # None = the study's
    arguments: tuple[str, ...] = ()  # further options of `osler evaluate`, as on the command line


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    """One study, resolved."""

    title: str
    axis: Axis = "modality"
    train_on: tuple[str, ...] = ()
    test_on: tuple[str, ...] = ()
    rows: Mapping[str, RowSpec] = field(default_factory=dict)
    only: tuple[str, ...] = ()  # names of the rows to run; empty = all
    paper: str = ""  # whose published figures stand beside ours: "medvlm_r1" or "med_r1"
    seeds: tuple[int, ...] = (0,)
    model: str = ""  # start of every training, and the model of rows that are not trained; "" = the recipes'
    released: str = ""  # a published checkpoint, of the rows whose model is "{released}"
    train_questions: int = 0  # of each training, fewer where there are fewer; 0 = all
    test_questions: int = 0  # of each column; 0 = all
    max_completion_tokens: int = 256  # in the test
    batch_size: int = 64  # questions between two saves of a test
    evaluate: Passes = field(default_factory=Passes)  # of every row that has none of its own
    validate_every_questions: int = 0  # question visits between validations on every column; 0 = never
    validate_questions: int = 0  # of each column; 0 = all
    processes: int = 1  # of one training; more than one goes through torchrun
    overrides: tuple[str, ...] = ()  # "key=value" on every training recipe
    data: StudyData = field(default_factory=StudyData)

    @property
    def is_phantom(self) -> bool:
        return self.data.phantom_images > 0

    @property
    def chosen_rows(self) -> dict[str, RowSpec]:
        return {name: row for name, row in self.rows.items() if not self.only or name in self.only}

    def recipe_of(self, row: RowSpec, on: str) -> str:
        """The name of a row's training recipe where it trains on `on`."""
        return row.recipe.format(on=on, phantom="phantom_" if self.is_phantom else "")

    def seeds_of(self, row: RowSpec) -> tuple[int, ...]:
        return row.seeds or self.seeds

    def model_of(self, row: RowSpec) -> str:
        """What a row that is not trained here tests."""
        return row.model.replace(RELEASED, self.released) or self.model

    def num_train_questions(self, row: RowSpec) -> int:
        return self.train_questions if row.train_questions < 0 else row.train_questions


def study_names() -> list[str]:
    """Names of the studies that ship with the package."""
    return recipe_names(STUDY_DIR)


def load_study(recipe: str | Path, overrides: Sequence[str] = ()) -> StudyRecipe:
    """Read a study (a shipped name or a TOML path) and apply `key=value` overrides.

    Raises BadInput naming what is unknown, of the wrong type, or does not fit together.
    """
    values = with_overrides(read_recipe(str(recipe), STUDY_DIR), overrides)
    study: StudyRecipe = build(StudyRecipe, values, where=str(recipe))
    _check(study, str(recipe))
    data = study.data
    released = study.released
    return replace(
        study,
        released=_absolute(released) if Path(released).exists() else released,
        data=replace(
            data,
            source=_absolute(data.source),
            train=_absolute(data.train),
            test=_absolute(data.test),
            images=_absolute(data.images),
        ),
    )


def study_from_json(values: Mapping[str, Any]) -> StudyRecipe:
    """A resolved study as it was stored with its plan."""
    return build(StudyRecipe, values, where="study.json")


def _absolute(path: str) -> str:
    # Run folders hold these paths, and are read again from wherever somebody stands.
    return os.path.abspath(path) if path else ""


def _check(study: StudyRecipe, where: str) -> None:
    known = AXES[study.axis]
    data = study.data
    for name, values in (("train_on", study.train_on), ("test_on", study.test_on)):
        wrong = [v for v in values if v not in known]
        if wrong:
            raise BadInput(
                f"{where}: {name} {wrong[0]!r} is no {study.axis}; it is one of {', '.join(known)}"
            )
    unknown_rows = [name for name in study.only if name not in study.rows]
    checks = [
        (bool(study.test_on), "test_on names nothing to test on"),
        (bool(study.rows), "has no [rows.NAME]"),
        (not unknown_rows, f"only: no row {''.join(unknown_rows[:1])!r}; it has {', '.join(study.rows)}"),
        (bool(study.seeds), "seeds names no seed"),
        (len({*study.seeds}) == len(study.seeds), "seeds names one seed twice"),
        (study.processes >= 1, "processes must be at least 1"),
        (not (study.is_phantom and data.splits != "given"), "a phantom has its own splits; splits=given"),
        (
            study.is_phantom or data.splits != "given" or bool(data.train and data.test),
            "needs the questions: data.train=PATH data.test=PATH, or data.source=PATH with data.splits=image",
        ),
        (
            not data.without_test or (data.splits == "given" and not study.is_phantom),
            "data.without_test is for data.splits=given; other splits share no image anyway",
        ),
        (
            data.splits == "given" or bool(data.source),
            f"data.splits={data.splits} splits one data set anew: data.source=PATH",
        ),
    ]
    for holds, message in checks:
        if not holds:
            raise BadInput(f"study {where}: {message}")
    for name, row in study.rows.items():
        _check_row(study, name, row, where)


def _check_row(study: StudyRecipe, name: str, row: RowSpec, where: str) -> None:
    model = "" if row.recipe else study.model_of(row)
    served = model.startswith(SCHEME)
    checks = [
        (bool(row.recipe) != bool(row.template) or bool(row.recipe), "needs a template: it is not trained"),
        (not (row.recipe and row.model), "is trained by its recipe; model is for rows that are not"),
        (
            RELEASED not in row.model or bool(study.released),
            "is a published checkpoint, and nobody said where it is: released=FOLDER or a hub id",
        ),
        (bool(row.recipe or model), "needs a model, or the study does: model=NAME"),
        (not (row.recipe and not study.train_on), "is trained, and train_on names nothing to train on"),
        (name.replace("_", "").isalnum(), "must be named with letters, digits and _"),
        (served or row.endpoint is None, f"has an endpoint, and its model is no {SCHEME}URL#name"),
        (
            not any(word.startswith(tuple(ENDPOINT_WORDS.values())) for word in row.arguments),
            f"says how to ask a server among its arguments; write rows.{name}.endpoint = {{…}}",
        ),
    ]
    for holds, message in checks:
        if not holds:
            raise BadInput(f"study {where}: row {name} {message}")
    if served:
        Address.parse(model)
    _check_passes(study.evaluate if row.evaluate is None else row.evaluate, f"study {where}: row {name}")


def _check_passes(passes: Passes, where: str) -> None:
    unknown = [one for one in passes.ablate if one not in ABLATIONS]
    if unknown:
        raise BadInput(f"{where}: evaluate.ablate {unknown[0]!r}; it is any of {', '.join(ABLATIONS)}")
    if passes.samples < 0 or passes.samples == 1:
        raise BadInput(f"{where}: evaluate.samples = {passes.samples}: agreement needs at least 2")
