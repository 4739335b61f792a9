"""The one entrance for questions: a path, recognised by what it holds, becomes checked `Question` records.

Formats: an OmniMedVQA root (`QA_information/`), our own folder (`questions.jsonl`), a Med-R1, MedVLM-R1,
HuatuoGPT-Vision or OmniMedVQA JSON file, a folder (searched to the bottom) of such files of one format,
and a folder whose `train/`, `validation/` and `test/` are data sets of the first two kinds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osler.data import folder, omnimedvqa, paper_json
from osler.data.json_files import JsonFault
from osler.data.labels import FileNameMeaning
from osler.data.rows import BadRow, Draft, RowError, RowReader, text_field
from osler.data.sources import QuestionFile, find_question_files, iterate_rows
from osler.errors import BadInput
from osler.records import Modality, Question

_BAD_ROWS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a path held.

    >>> LoadResult(questions=(), bad=(), warnings={"equal_choices": 8}, format="omnimedvqa").images_checked
    True
    """

    questions: tuple[Question, ...]
    bad: tuple[BadRow, ...]  # empty unless bad rows were to be skipped
    warnings: Mapping[str, int]  # kind -> number of questions, all splits; `rows` explains the kinds
    format: str  # "omnimedvqa", "med_r1", "medvlm_r1", "huatuogpt_vision" or "osler"
    files: tuple[str, ...] = ()  # question files read, relative to the path given
    warning_examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # kind -> first rows
    missing_images: tuple[str, ...] = ()  # absolute paths
    images_checked: bool = True  # False with `no_images`
    num_rows: int = 0  # rows read, good and bad, of all splits


def load_questions(
    path: str | os.PathLike[str],
    *,
    images_root: str | os.PathLike[str] | None = None,
    no_images: bool = False,
    missing_ok: bool = False,
    modality: Modality | str | None = None,
    skip_bad: bool = False,
    split: str | None = None,
    subject_column: str | None = None,
) -> LoadResult:
    """Read and check every question under `path`; "PATH#split" names one split of it.

    - `images_root`: where relative image paths start. Default: the OmniMedVQA root, our own folder, else
      the folder of the question file. Image paths come out absolute.
    - `no_images`: look no image up; paths stay as the files write them.
    - `missing_ok`: a question whose image is not there is kept, its path as the file writes it.
    - `modality`: for questions whose source does not say; where it says otherwise the row is bad.
    - `skip_bad`: leave bad rows out and list them, instead of raising.
    - `split`: keep the questions of one split only (the field `split`, the ending `_train.json` of Med-R1's
      files, or the folder `train/`).
    - `subject_column`: the key of the source's rows that names patient, specimen or group; it fills
      `subject_id`, and a row without it is bad.

    Raises BadInput for a path that holds no known format, a file that is no JSON, bad rows (unless
    skipped), and where no question is left.
    """
    root, split = path_and_split(path, split)
    if images_root is not None and not Path(images_root).is_dir():
        raise BadInput(f"{images_root}: no such folder to look for images in; check --images")
    reader = RowReader(no_images=no_images, missing_ok=missing_ok, modality=parse_modality(modality))
    files = _keep_part(root, find_question_files(root), split)
    stems = Counter(file.path.stem for file in files)
    for file in files:
        # Two files of one name would give the same ids, so those carry their folder.
        prefix = file.path.stem if stems[file.path.stem] == 1 else os.path.splitext(file.shown)[0]
        _read_file(reader, file, prefix, images_root, subject_column)
    if reader.bad and not (skip_bad and reader.questions):
        raise BadInput(_describe_bad_rows(root, reader))
    return LoadResult(
        questions=_keep_split(root, tuple(reader.questions), split),
        bad=tuple(reader.bad),
        warnings=dict(reader.warnings),
        format=files[0].format,
        files=tuple(file.shown for file in files),
        warning_examples={kind: tuple(rows) for kind, rows in reader.examples.items()},
        missing_images=tuple(reader.missing_images),
        images_checked=not no_images,
        num_rows=reader.num_rows,
    )


def path_and_split(path: str | os.PathLike[str], split: str | None = None) -> tuple[Path, str | None]:
    """What "PATH#split" names, unless a file of that very name exists.

    >>> path_and_split("data/mine#train")
    (PosixPath('data/mine'), 'train')
    """
    if split is None and "#" in str(path) and not Path(path).exists():
        before, _, split = str(path).rpartition("#")
        return Path(before), split
    return Path(path), split


def parse_modality(modality: Modality | str | None) -> Modality | None:
    """A modality by its name. Raises BadInput naming the eight."""
    known = [m.value for m in Modality if m is not Modality.UNKNOWN]
    if modality is None or modality in known:
        return None if modality is None else Modality(modality)
    raise BadInput(f"modality {str(modality)!r} is not known; it is one of {', '.join(known)}")


def _read_file(
    reader: RowReader,
    file: QuestionFile,
    id_prefix: str,
    images_root: str | os.PathLike[str] | None,
    subject_column: str | None,
) -> None:
    rows = iterate_rows(file)
    meaning = file.meaning(len(rows))
    root = os.path.abspath(file.images_root if images_root is None else images_root)
    for number, row in rows:
        try:
            draft, ambiguous = _draft(file.format, row, f"{id_prefix}_{number:05d}", meaning)
            if file.part:
                draft.split = file.part
            if subject_column is not None:
                draft.subject_id = text_field(row, subject_column)
        except RowError as error:
            reader.reject(file.shown, number, error)
            continue
        if reader.accept(draft, file.shown, number, root) and ambiguous:
            reader.warn("ambiguous_choices", f"{file.shown} row {number}")


def _draft(file_format: str, row: Any, row_id: str, meaning: FileNameMeaning) -> tuple[Draft, bool]:
    """One row of a format as a draft, and whether its choices could be cut differently."""
    if isinstance(row, JsonFault):
        raise RowError("not_json", row.reason)
    if not isinstance(row, dict):
        raise RowError("wrong_type", "is not a JSON object")
    if file_format == "omnimedvqa":
        return omnimedvqa.read_row(row), False
    if file_format == "osler":
        return folder.read_row(row, row_id), False
    if file_format == "med_r1":
        return paper_json.read_med_r1_row(row, row_id, meaning)
    return paper_json.read_options_row(row, row_id)


def _keep_part(root: Path, files: list[QuestionFile], split: str | None) -> list[QuestionFile]:
    """The files of one part, where parts are folders; other parts are then not even read."""
    parts = list(dict.fromkeys(file.part for file in files if file.part))
    if split is None or not parts:
        return files
    if split not in parts:
        raise BadInput(f"{root}: has no split {split!r}; it has {', '.join(parts)}")
    return [file for file in files if file.part == split]


def _keep_split(root: Path, questions: tuple[Question, ...], split: str | None) -> tuple[Question, ...]:
    if not questions:
        raise BadInput(f"{root}: holds no questions; give a file or folder that does")
    if split is None:
        return questions
    kept = tuple(question for question in questions if question.split == split)
    if not kept:
        there = sorted({question.split for question in questions if question.split})
        having = f"it has {', '.join(there)}" if there else "its questions name no split"
        raise BadInput(f"{root}: has no split {split!r}; {having}")
    return kept


def _describe_bad_rows(root: Path, reader: RowReader) -> str:
    shown = "; ".join(str(row) for row in reader.bad[:_BAD_ROWS_SHOWN])
    more = len(reader.bad) - _BAD_ROWS_SHOWN
    rest = f"; and {more:,} more" if more > 0 else ""
    advice = "fix them or pass --skip-bad to leave them out"
    if any(row.kind == "missing_image" for row in reader.bad):
        advice += "; images elsewhere: --images ROOT (data.images in a recipe); text alone: --no-images"
    return f"{root}: {len(reader.bad):,} of {reader.num_rows:,} rows are bad: {shown}{rest}; {advice}"
