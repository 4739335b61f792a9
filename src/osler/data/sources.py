"""Which files under a path hold questions, in which format, and where their images are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osler.data import omnimedvqa, paper_json
from osler.data.folder import QUESTIONS_FILE
from osler.data.json_files import iterate_json_lines, read_json_list
from osler.data.labels import FileNameMeaning, meaning_of_file_name
from osler.errors import BadInput
from osler.records import Modality, QuestionType

PARTS = ("train", "validation", "test")
_ROWS_TO_RECOGNISE = 20


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """One question file, how to read it, and where its images are."""

    path: Path
    format: str  # "omnimedvqa", "med_r1", "medvlm_r1", "huatuogpt_vision" or "osler"
    images_root: Path
    shown: str  # how messages name the file: relative to the path the user gave
    part: str = ""  # "train", "validation" or "test" by the folder it lies in
    rows: list[Any] | None = None  # already read, where reading was needed to recognise it

    def meaning(self, num_rows: int) -> FileNameMeaning:
        """What the name says about the questions (Med-R1's files only)."""
        return meaning_of_file_name(self.path.name, num_rows)


def find_question_files(root: Path) -> list[QuestionFile]:
    """The question files under a path, recognised by content, in a fixed order.

    Raises BadInput where there is none, where formats mix, and where both families of Med-R1's files (by
    modality, by question type) lie together: they are two splits of the same questions.
    """
    if not root.exists():
        raise BadInput(f"{root}: no such file or folder; check the path")
    if root.is_file():
        return [_recognise(root, root.parent)]
    files = _files_of_folder(root)
    formats = list(dict.fromkeys(file.format for file in files))
    if len(formats) > 1:
        raise BadInput(f"{root}: holds two formats, {formats[0]} and {formats[1]}; read them one by one")
    if formats == ["med_r1"]:
        _refuse_both_families(root, files)
    return files


def _files_of_folder(root: Path) -> list[QuestionFile]:
    if _is_data_set(root):
        return _files_of_data_set(root)
    parts = [part for part in PARTS if _is_data_set(root / part)]
    if parts:
        return [
            replace(file, shown=f"{part}/{file.shown}", part=part)
            for part in parts
            for file in _files_of_data_set(root / part)
        ]
    paths = sorted(path for path in root.rglob("*.json") if not path.name.startswith("."))
    if not paths:
        raise BadInput(f"{root}: holds no questions (no QA_information/, no {QUESTIONS_FILE}, no *.json)")
    return [_recognise(path, root) for path in paths]


def _is_data_set(path: Path) -> bool:
    return (path / "QA_information").is_dir() or (path / QUESTIONS_FILE).is_file()


def _files_of_data_set(root: Path) -> list[QuestionFile]:
    if (root / QUESTIONS_FILE).is_file():
        return [QuestionFile(root / QUESTIONS_FILE, "osler", root, QUESTIONS_FILE)]
    paths = omnimedvqa.question_files(root)
    if not paths:
        raise BadInput(f"{root}: QA_information/ holds no *.json; unpack the question files there")
    return [QuestionFile(path, "omnimedvqa", root, path.relative_to(root).as_posix()) for path in paths]


def _recognise(path: Path, root: Path) -> QuestionFile:
    shown = path.relative_to(root).as_posix()
    if path.suffix.lower() == ".jsonl":
        return QuestionFile(path, "osler", path.parent, shown)
    if path.suffix.lower() != ".json":
        raise BadInput(f"{path}: not a format read here; give a JSON question file or a folder of them")
    rows = read_json_list(path)
    for row in rows[:_ROWS_TO_RECOGNISE]:
        if not isinstance(row, dict):
            continue
        if omnimedvqa.is_omnimedvqa_row(row):
            return QuestionFile(path, "omnimedvqa", omnimedvqa.images_root_of(path), shown, rows=rows)
        paper_format = paper_json.recognise_paper_row(row)
        if paper_format:
            return QuestionFile(path, paper_format, path.parent, shown, rows=rows)
    raise BadInput(
        f"{path}: no row has the keys of OmniMedVQA, Med-R1, MedVLM-R1 or HuatuoGPT-Vision; "
        "give a question file"
    )


def _refuse_both_families(root: Path, files: list[QuestionFile]) -> None:
    meanings = [file.meaning(len(file.rows or ())) for file in files]
    by_modality = any(meaning.modality is not Modality.UNKNOWN for meaning in meanings)
    by_type = any(meaning.question_type is not QuestionType.UNKNOWN for meaning in meanings)
    if by_modality and by_type:
        raise BadInput(
            f"{root}: holds Med-R1's files by modality and by question type, two splits of the same "
            "questions; give one of the two folders"
        )


def iterate_rows(file: QuestionFile) -> list[tuple[int, Any]]:
    """Row number (from 1; the line number of a .jsonl) and value, or `JsonFault`, of every row."""
    if file.format == "osler":
        return list(iterate_json_lines(file.path))
    rows = read_json_list(file.path) if file.rows is None else file.rows
    return list(enumerate(rows, start=1))
