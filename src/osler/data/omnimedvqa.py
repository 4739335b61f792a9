"""OmniMedVQA's own layout: `QA_information/*/*.json` beside `Images/`.

A row has `dataset, question_id, question_type, question, gt_answer` (the text of the right option),
`image_path, option_A … option_D, modality_type`. Tolerated, because the released files have it: two- and
three-option rows lack `option_C` / `option_D`, one row of `Chest CT Scan.json` has `modality` instead of
`modality_type`, the OCT label has no closing bracket. More options than D are read too. A label outside
the eight modalities and five question types is an error that names the row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from osler.data.labels import (
    MODALITY_LABELS,
    QUESTION_TYPE_LABELS,
    find_modality,
    find_question_type,
    nearest_label,
)
from osler.data.rows import Draft, RowError, show, text_field
from osler.records import LETTERS, Modality, QuestionType

_OPTION_KEYS = tuple(f"option_{letter}" for letter in LETTERS)


def is_omnimedvqa_row(row: dict[str, Any]) -> bool:
    """Whether a row has this format's keys."""
    return "gt_answer" in row or any(key in row for key in _OPTION_KEYS[:2])


def question_files(root: Path) -> list[Path]:
    """The JSON files of both access folders, sorted; hidden files (`._…` of macOS archives) left out."""
    files = (root / "QA_information").rglob("*.json")
    return sorted(f for f in files if not f.name.startswith("."))


def images_root_of(file: Path) -> Path:
    """Where the image paths of one question file start: beside `QA_information`, else the file's folder."""
    for folder in file.parents:
        if folder.name == "QA_information":
            return folder.parent
    return file.parent


def read_row(row: dict[str, Any]) -> Draft:
    """One row as a draft. Raises RowError."""
    return Draft(
        id=text_field(row, "question_id"),
        text=text_field(row, "question"),
        choices=_options(row),
        answer=text_field(row, "gt_answer"),
        images=[text_field(row, "image_path")],
        modality=modality_label(row, "modality_type" if row.get("modality_type") is not None else "modality"),
        question_type=_question_type(row),
        dataset=text_field(row, "dataset", required=False),
        split=text_field(row, "split", required=False),
        subject_id=text_field(row, "subject_id", required=False),
    )


def _options(row: dict[str, Any]) -> list[str]:
    """The options up to the last one present; one missing in between is an error, not a shift."""
    present = [row.get(key) is not None for key in _OPTION_KEYS]
    count = len(present) - present[::-1].index(True) if any(present) else 0
    for key, there in zip(_OPTION_KEYS[:count], present[:count], strict=True):
        if not there:
            raise RowError("missing_field", f"has no `{key}` but a later option")
    return [text_field(row, key) for key in _OPTION_KEYS[:count]]


def modality_label(row: dict[str, Any], key: str) -> Modality:
    """The modality that the label under `key` names. Raises RowError for an unknown label."""
    label = text_field(row, key)
    modality = find_modality(label)
    if modality is None:
        nearest = nearest_label(label, list(MODALITY_LABELS.values()))
        raise RowError(
            "unknown_label", f'`{key}` {show(label)} is no modality known here (nearest: "{nearest}")'
        )
    return modality


def _question_type(row: dict[str, Any]) -> QuestionType:
    label = text_field(row, "question_type")
    question_type = find_question_type(label)
    if question_type is None:
        nearest = nearest_label(label, list(QUESTION_TYPE_LABELS.values()))
        raise RowError(
            "unknown_label", f'`question_type` {show(label)} is no type known here (nearest: "{nearest}")'
        )
    return question_type
