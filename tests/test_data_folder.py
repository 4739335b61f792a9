"""Our own folder: what is written is read back the same, completely or not at all; and convert."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.data import folder
from osler.data.convert import convert
from osler.data.folder import write_folder
from osler.data.images import image_digest
from osler.data.load import load_questions
from osler.errors import BadInput
from osler.records import Modality, Question, QuestionType


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    source = tmp_path / "source"
    source.mkdir()
    for n in range(4):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(source / f"gold answer {n}.png")
    shutil.copy(source / "gold answer 0.png", source / "copy of 0.PNG")
    names = ["gold answer 0", "gold answer 1", "gold answer 2", "gold answer 3"]
    made = [
        Question(
            id=f"q{n}",
            text=f"Line one\nline two, ünicode {n}?",
            choices=("Cyst, left", "B) none", "Fat"),
            answer_index=n % 3,
            images=(str(source / f"{name}.png"),),
            modality=Modality.FUNDUS,
            question_type=QuestionType.LESION_GRADING,
            dataset="Some set",
            split="train" if n else "test",
            subject_id=f"p{n}",
        )
        for n, name in enumerate(names)
    ]
    two = replace(made[0], id="q4", images=(str(source / "copy of 0.PNG"), made[1].images[0]))
    return [*made, two, Question(id="q5", text="No image?", choices=("Yes", "No"), answer_index=1)]


def without_place(question: Question) -> Question:
    return replace(question, images=(), source="")


def test_round_trip(tmp_path: Path, questions: list[Question]) -> None:
    out = write_folder(questions, tmp_path / "new" / "out")
    loaded = load_questions(out)
    assert loaded.format == "osler"
    assert [without_place(q) for q in loaded.questions] == [without_place(q) for q in questions]
    for before, after in zip(questions, loaded.questions, strict=True):
        assert image_digest(before.images) == image_digest(after.images)
        assert all(Path(path).parent == out / "images" for path in after.images)
    # Four contents under five names; a name can give an answer away, a digest cannot.
    written = sorted(path.name for path in (out / "images").iterdir())
    assert written == sorted(f"{image_digest([q.images[0]])}.png" for q in questions[:4])
    assert load_questions(out, split="test").questions[0].id == "q0"
    assert load_questions(out / "questions.jsonl").questions == loaded.questions


def test_writing_twice_gives_the_same_bytes(tmp_path: Path, questions: list[Question]) -> None:
    first = write_folder(questions, tmp_path / "a")
    second = write_folder(load_questions(first).questions, tmp_path / "b")
    assert (first / "questions.jsonl").read_bytes() == (second / "questions.jsonl").read_bytes()


def test_a_moved_folder_still_reads(tmp_path: Path, questions: list[Question]) -> None:
    out = write_folder(questions, tmp_path / "out")
    moved = out.rename(tmp_path / "moved")
    assert all(Path(path).is_file() for q in load_questions(moved).questions for path in q.images)


def test_without_copying_the_paths_stay(tmp_path: Path, questions: list[Question]) -> None:
    out = write_folder(questions, tmp_path / "out", copy_images=False)
    assert [q.images for q in load_questions(out).questions] == [q.images for q in questions]
    assert not (out / "images").exists()


def test_nothing_is_left_behind_when_writing_fails(
    tmp_path: Path, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    damaged = tmp_path / "source" / "damaged.png"
    damaged.write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"damaged.png"):
        write_folder([*questions, replace(questions[0], id="x", images=(str(damaged),))], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_folder(questions, tmp_path / "out")
    monkeypatch.setattr(folder.os, "fsync", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_folder(questions, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_folder_is_never_overwritten(tmp_path: Path, questions: list[Question]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(BadInput, match="exists already"):
            write_folder(questions, tmp_path / name)
    (tmp_path / "empty").mkdir()
    write_folder(questions, tmp_path / "empty")
    with pytest.raises(BadInput, match="no questions to write"):
        write_folder([], tmp_path / "none")


def test_progress_counts_images(tmp_path: Path, questions: list[Question]) -> None:
    seen: list[tuple[int, int]] = []
    write_folder(questions, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ({"answer_index": 1}, 1),
        ({"answer_letter": "B"}, 1),
        ({"answer": "No"}, 1),
        ({"answer": " No "}, 1),
        ({"answer_index": 1, "answer_letter": "B", "answer": "No"}, 1),
    ],
)
def test_answers_written_by_hand(tmp_path: Path, fields: dict[str, Any], index: int) -> None:
    (tmp_path / "questions.jsonl").write_text(json.dumps({"text": "Q?", "choices": ["Yes", "No"]} | fields))
    loaded = load_questions(tmp_path)
    assert loaded.questions[0].answer_index == index
    assert loaded.warnings == {"unknown_modality": 1, "unknown_question_type": 1, "no_image": 1}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "has no `answer_index`, `answer_letter` or `answer`"),
        ({"answer_index": 2}, "none of the 2 choices"),
        ({"answer_index": -1}, "none of the 2 choices"),
        ({"answer_index": True}, "not a whole number"),
        ({"answer_letter": "b"}, "none of the 2 choices"),
        ({"answer_letter": "AB"}, "none of the 2 choices"),
        ({"answer_letter": ""}, "none of the 2 choices"),
        ({"answer": "Maybe"}, "none of the choices"),
        ({"answer_index": 0, "answer_letter": "B"}, "is not `answer_index` 0"),
        ({"answer_index": 0, "answer": "No"}, "not the choice that the row points to"),
        ({"answer_letter": "A", "answer": "No"}, "not the choice that the row points to"),
        ({"answer_index": 0, "modality": "CT scan"}, '`modality` "CT scan" is not known here'),
        ({"answer_index": 0, "choices": "Yes, No"}, "`choices` is not a list of texts"),
        ({"answer_index": 0, "images": "a.png"}, "`images` is not a list of paths"),
        ({"answer_index": 0, "text": None}, "has no `text`"),
        ({"answer_index": 0, "id": " "}, "the id is empty"),
    ],
)
def test_bad_rows_of_our_own(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    row = {"text": "Q?", "choices": ["Yes", "No"]} | fields
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadInput, match=r"questions.jsonl row 1") as raised:
        load_questions(tmp_path)
    assert reason in str(raised.value)


# --- convert ------------------------------------------------------------------------------------------


def test_convert_by_image(tmp_path: Path, questions: list[Question]) -> None:
    source = write_folder(questions, tmp_path / "first")
    result = convert(source, tmp_path / "out", split="image", fractions={"train": 0.5, "test": 0.5}, seed=3)
    loaded = load_questions(tmp_path / "out")
    assert result.num_questions == len(loaded.questions) == 6
    assert result.num_images == 4
    assert result.splits == {"test": 2, "train": 4}
    assert "SHA-256" in result.unit
    homes: dict[str, set[str]] = {}
    for question in loaded.questions:
        for path in question.images:
            homes.setdefault(path, set()).add(question.split)
    assert all(len(splits) == 1 for splits in homes.values())
    parts = [load_questions(tmp_path / "out", split=name).questions for name in ("train", "test")]
    assert {q.id for part in parts for q in part} == {q.id for q in questions}
    json.dumps(result.to_json())


def test_convert_without_images_goes_by_path_and_says_so(tmp_path: Path, questions: list[Question]) -> None:
    source = write_folder(questions, tmp_path / "first")
    result = convert(source, tmp_path / "out", split="image", no_images=True)
    assert "path" in result.unit
    assert result.num_images == 0
    assert not (tmp_path / "out" / "images").exists()
    before = load_questions(source, no_images=True).questions
    after = load_questions(tmp_path / "out", no_images=True).questions
    assert [q.images for q in after] == [q.images for q in before]


def test_convert_keeps_splits_unless_told(tmp_path: Path, questions: list[Question]) -> None:
    source = write_folder(questions, tmp_path / "first")
    assert convert(source, tmp_path / "out").splits == {"": 1, "test": 2, "train": 3}
    assert convert(source, tmp_path / "by type", split="question_type").splits == {
        "lesion_grading": 5,
        "unknown": 1,
    }


def test_convert_checks_its_arguments_before_it_reads(tmp_path: Path, questions: list[Question]) -> None:
    source = write_folder(questions, tmp_path / "first")
    with pytest.raises(BadInput, match="one of image, group"):
        convert(source, tmp_path / "out", split="patient")
    with pytest.raises(BadInput, match="sum to 1"):
        convert(source, tmp_path / "out", split="image", fractions={"train": 0.4})
    with pytest.raises(BadInput, match="exists already"):
        convert(source, source)
    assert not (tmp_path / "out").exists()
