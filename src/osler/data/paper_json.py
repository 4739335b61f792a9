"""The two papers' question files.

Med-R1: a list of `{image: path, problem: "stem? A)one, B)two", solution: "<answer> B </answer>"}`; modality
and question type stand in the file name only (`labels.meaning_of_file_name`), the data set in the path
(`Images/<data set>/…`), an id nowhere.

MedVLM-R1's test file and HuatuoGPT-Vision's evaluation data, from which it was drawn: a list of
`{image: [path, …], question, options: [text, …], answer: text, dataset, subset}`, where `subset` is an
OmniMedVQA modality label. MedVLM-R1 adds `problem` ("stem\\nA) one\\nB) two") and `solution` (a bare letter).
"""

from __future__ import annotations

import re
from typing import Any

from osler.data.choices import cut_choices
from osler.data.labels import FileNameMeaning, find_modality
from osler.data.omnimedvqa import modality_label
from osler.data.rows import Draft, RowError, show, text_field
from osler.records import LETTERS, Modality

_SOLUTION = re.compile(r"\s*(?:<answer>)?\s*([A-Z])\s*(?:</answer>)?\s*\Z")
_DATASET = re.compile(r"(?:\A|/)Images/([^/]+)/")


def recognise_paper_row(row: dict[str, Any]) -> str:
    """ "med_r1", "medvlm_r1" or "huatuogpt_vision" by a row's keys, "" for none of them."""
    if "problem" in row and "solution" in row:
        return "medvlm_r1" if "options" in row or "subset" in row else "med_r1"
    if "question" in row and "options" in row and "answer" in row:
        return "huatuogpt_vision"
    return ""


def dataset_in_path(path: str) -> str:
    """The data set a path of OmniMedVQA's layout names, or "".

    >>> dataset_in_path("Images/Chest CT Scan/test/000143.png")
    'Chest CT Scan'
    """
    found = _DATASET.search(path)
    return found.group(1) if found else ""


def read_med_r1_row(row: dict[str, Any], row_id: str, meaning: FileNameMeaning) -> tuple[Draft, bool]:
    """One Med-R1 row as a draft, and whether its choices could be cut differently. Raises RowError."""
    images = _images(row, "image")
    if not images:
        raise RowError("missing_field", "has no `image`")
    stem, choices, ambiguous = _cut(row)
    draft = Draft(
        id=text_field(row, "id", required=False) or row_id,
        text=stem,
        choices=choices,
        answer_letter=_letter(row),
        images=images,
        modality=meaning.modality,
        question_type=meaning.question_type,
        dataset=dataset_in_path(images[0]),
        split=meaning.split,
    )
    return draft, ambiguous


def read_options_row(row: dict[str, Any], row_id: str) -> tuple[Draft, bool]:
    """One MedVLM-R1 or HuatuoGPT-Vision row as a draft, and whether its choices could be cut differently.

    Where a row has both `answer` and `solution` they must name the same choice. Raises RowError.
    """
    options = row.get("options")
    if options is None:
        stem, choices, ambiguous = _cut(row)
    elif isinstance(options, list) and all(_is_text(option) for option in options):
        stem, choices, ambiguous = text_field(row, "question"), [str(option) for option in options], False
    else:
        raise RowError("wrong_type", "`options` is not a list of texts")
    draft = Draft(
        id=text_field(row, "id", required=False) or row_id,
        text=stem,
        choices=choices,
        images=_images(row, "image"),
        modality=_subset(row),
        dataset=text_field(row, "dataset", required=False),
    )
    if row.get("answer") is not None:
        draft.answer = text_field(row, "answer")
    else:
        draft.answer_letter = _letter(row)
    if draft.answer is not None and row.get("solution") is not None:
        index = LETTERS.index(_letter(row))
        if index >= len(choices) or choices[index].strip() != draft.answer.strip():
            raise RowError("answer", f"`solution` {LETTERS[index]} is not `answer` {show(draft.answer)}")
    return draft, ambiguous


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _cut(row: dict[str, Any]) -> tuple[str, list[str], bool]:
    problem = text_field(row, "problem")
    cut = cut_choices(problem)
    if cut is None:
        raise RowError(
            "no_choices", f"no choices A), B), … found in {show(problem)}, or one of them is empty"
        )
    return cut.stem, list(cut.choices), cut.ambiguous


def _letter(row: dict[str, Any]) -> str:
    solution = text_field(row, "solution")
    found = _SOLUTION.match(solution)
    if found is None:
        raise RowError("answer", f"`solution` {show(solution)} is not one letter")
    return found.group(1)


def _images(row: dict[str, Any], key: str) -> list[str]:
    value = row.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(path, str) for path in value):
        return value
    raise RowError("wrong_type", f"`{key}` is neither a path nor a list of paths")


def _subset(row: dict[str, Any]) -> Modality:
    """OmniMedVQA's label must be known; the file's other data sets use `subset` for other things."""
    if row.get("dataset") == "OmniMedVQA":
        return modality_label(row, "subset")
    label = text_field(row, "subset", required=False)
    return (find_modality(label) if label else None) or Modality.UNKNOWN
