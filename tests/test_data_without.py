"""Training without what a test shows: against the slow way, every pair of files compared."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from osler.config import DataConfig
from osler.data.folder import write_folder
from osler.data.without import LeftOut, leave_out
from osler.errors import BadInput
from osler.records import Question
from osler.train.run import training_questions


def files(folder: Path, contents: list[bytes]) -> list[str]:
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def ask(number: int, *images: str, text: str = "") -> Question:
    text = text or f"What is {number}?"
    return Question(id=f"q{number}", text=text, choices=("x", "y"), answer_index=0, images=images)


def test_files_with_the_same_bytes_and_the_same_questions_go(tmp_path: Path) -> None:
    rng = random.Random(0)
    contents = [rng.randbytes(rng.choice([3, 4])) for _ in range(40)]  # many of the same size
    train = files(tmp_path / "train", contents)
    test = files(tmp_path / "test", [*contents[:5], *[rng.randbytes(4) for _ in range(20)]])
    questions = [ask(i, path, train[(i + 1) % 40]) for i, path in enumerate(train)]
    held_back = [ask(100 + i, path) for i, path in enumerate(test)]
    kept, left_out = leave_out(questions, held_back)
    held = [Path(path).read_bytes() for path in test]
    slow = [q for q in questions if not any(Path(p).read_bytes() in held for p in q.images)]
    assert list(kept) == slow and left_out == LeftOut(40 - len(slow), 0) and left_out.total >= 6


def test_the_same_question_about_a_file_of_the_same_name_goes(tmp_path: Path) -> None:
    train, test = files(tmp_path / "a", [b"encoded", b"other"]), files(tmp_path / "b", [b"encoded anew"])
    same, other_stem, other_name = (
        ask(0, train[0], text="Which?"),
        ask(1, train[0], text="Why?"),
        ask(2, train[1], text="Which?"),
    )
    kept, left_out = leave_out([same, other_stem, other_name], [ask(9, test[0], text="Which?")])
    assert kept == (other_stem, other_name) and left_out == LeftOut(0, 1)
    turned = Question(id="t", text="Which?", choices=("y", "x"), answer_index=1, images=(test[0],))
    assert leave_out([same], [turned])[0] == ()
    with pytest.raises(BadInput, match="cannot be read"):
        leave_out([same], [ask(9, str(tmp_path / "gone.png"))])


def test_a_training_leaves_them_out_before_it_draws(tmp_path: Path) -> None:
    write_folder([ask(i) for i in range(20)], tmp_path / "train")
    write_folder([ask(i) for i in range(0, 20, 2)], tmp_path / "test")
    said: list[str] = []
    data = DataConfig(train=str(tmp_path / "train"), without=str(tmp_path / "test"), num_questions=8)
    found = training_questions(data, said.append)
    assert len(found) == 8 and all(int(q.id[1:]) % 2 for q in found)
    assert "10 training questions left out: 0 show an image of it, 10 more ask a question of it" in said[0]
    write_folder([ask(i) for i in range(20)], tmp_path / "all")
    with pytest.raises(BadInput, match="every question shares"):
        training_questions(DataConfig(train=str(tmp_path / "train"), without=str(tmp_path / "all")))
