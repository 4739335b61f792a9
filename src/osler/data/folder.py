"""Osler's own format: a folder with `questions.jsonl` and `images/<digest>.<ext>`.

One JSON object per line:

    {"id": "q1", "text": "Is a lesion visible?", "choices": ["Yes", "No"], "answer_index": 0,
     "images": ["images/ab12.png"], "modality": "ultrasound", "question_type": "disease_diagnosis",
     "dataset": "BUSI", "split": "train", "subject_id": "p017"}

Only `text`, `choices` and the answer are required. The answer is `answer_index` (from 0), or for files
written by hand `answer` (the text of the right choice) or `answer_letter`; where more than one is given
they must agree. `split` is any name; the parts of a data set stand in one file and are told apart by it.
Image paths are relative to the folder. Unknown keys are left alone: `subject_column` can name one of them
as the patient, specimen or other group.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from osler.data.images import image_digest, image_facts
from osler.data.labels import nearest_label
from osler.data.rows import Draft, RowError, show, text_field
from osler.errors import BadInput
from osler.records import LETTERS, Modality, Question, QuestionType

QUESTIONS_FILE = "questions.jsonl"
IMAGES_FOLDER = "images"

Progress = Callable[[int, int], None]  # done, total


def read_row(row: dict[str, Any], row_id: str) -> Draft:
    """One line of `questions.jsonl` as a draft. Raises RowError."""
    choices = row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise RowError("wrong_type", "`choices` is not a list of texts")
    images = row.get("images", [])
    if not isinstance(images, list) or not all(isinstance(path, str) for path in images):
        raise RowError("wrong_type", "`images` is not a list of paths")
    draft = Draft(
        id=text_field(row, "id", required=False) or row_id,
        text=text_field(row, "text"),
        choices=choices,
        images=images,
        modality=Modality(_member(row, "modality", [m.value for m in Modality])),
        question_type=QuestionType(_member(row, "question_type", [t.value for t in QuestionType])),
        dataset=text_field(row, "dataset", required=False),
        split=text_field(row, "split", required=False),
        subject_id=text_field(row, "subject_id", required=False),
    )
    _set_answer(draft, row)
    return draft


def _member(row: dict[str, Any], key: str, values: list[str]) -> str:
    value = text_field(row, key, required=False) or "unknown"
    if value not in values:
        nearest = nearest_label(value, values)
        raise RowError("unknown_label", f'`{key}` {show(value)} is not known here (nearest: "{nearest}")')
    return value


def _set_answer(draft: Draft, row: dict[str, Any]) -> None:
    """Set the first form of the answer that the row has, once all forms agree."""
    index, letter, answer = (row.get(key) for key in ("answer_index", "answer_letter", "answer"))
    if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
        raise RowError("wrong_type", "`answer_index` is not a whole number")
    if letter is not None and not isinstance(letter, str):
        raise RowError("wrong_type", "`answer_letter` is not a text")
    if answer is not None and not isinstance(answer, str):
        raise RowError("wrong_type", "`answer` is not a text")
    if index is not None:
        draft.answer_index = index
    elif letter is not None:
        draft.answer_letter = letter
    elif answer is not None:
        draft.answer = answer
    else:
        raise RowError("missing_field", "has no `answer_index`, `answer_letter` or `answer`")
    if index is not None and letter is not None and LETTERS[index : index + 1] != letter:
        raise RowError("answer", f"`answer_letter` {show(letter)} is not `answer_index` {index}")
    if answer is not None and draft.answer is None:
        position = index if index is not None else LETTERS.find(str(letter))
        if not 0 <= position < len(draft.choices) or draft.choices[position].strip() != answer.strip():
            raise RowError("answer", f"`answer` {show(answer)} is not the choice that the row points to")


def question_to_row(question: Question, images: Sequence[str]) -> dict[str, Any]:
    """A question as one JSON object of `questions.jsonl`, with these image paths."""
    return {
        "id": question.id,
        "text": question.text,
        "choices": list(question.choices),
        "answer_index": question.answer_index,
        "images": list(images),
        "modality": question.modality.value,
        "question_type": question.question_type.value,
        "dataset": question.dataset,
        "split": question.split,
        "subject_id": question.subject_id,
    }


def write_folder(
    questions: Sequence[Question],
    out_dir: str | os.PathLike[str],
    *,
    copy_images: bool = True,
    progress: Progress | None = None,
    extra_keys: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write questions as our own folder; it appears complete or not at all.

    `extra_keys` (question id -> keys and values) go into the rows as they are, where readers leave them
    alone; `extra_files` (name -> text) stand beside `questions.jsonl`.

    Images are copied byte for byte (metadata included) under the digest of their content, so the same file
    under two names is written once and a name cannot give an answer away. With `copy_images=False` the
    paths are written as they are. Raises BadInput where `out_dir` exists and holds anything, where there
    is nothing to write, and for an image that cannot be opened.
    """
    out = Path(out_dir)
    if not questions:
        raise BadInput(f"{out}: there are no questions to write")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: exists already; name a new folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    try:
        names = _copy_images(questions, partial, progress) if copy_images else {}
        with open(partial / QUESTIONS_FILE, "w", encoding="utf-8", newline="\n") as file:
            for question in questions:
                row = question_to_row(question, [names.get(path, path) for path in question.images])
                row |= extra_keys.get(question.id, {})
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, text in extra_files.items():
            (partial / name).write_text(text, encoding="utf-8")
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _copy_images(questions: Sequence[Question], folder: Path, progress: Progress | None) -> dict[str, str]:
    """Copy every distinct image; the new relative path of each old one."""
    paths = list(dict.fromkeys(path for question in questions for path in question.images))
    (folder / IMAGES_FOLDER).mkdir()
    names: dict[str, str] = {}
    for done, path in enumerate(paths, start=1):
        name = f"{IMAGES_FOLDER}/{image_digest([path])}.{image_facts(path).extension}"
        if not (folder / name).exists():
            shutil.copyfile(path, folder / name)
        names[path] = name
        if progress is not None:
            progress(done, len(paths))
    return names
