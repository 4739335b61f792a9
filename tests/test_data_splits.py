"""Splits: nothing that belongs together is ever torn apart, and the draw depends on seed and content only."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components as scipy_components

from osler.data.splits import connected_components, parse_fractions, split_questions
from osler.errors import BadInput
from osler.records import Modality, Question, QuestionType


def question(number: int, images: tuple[str, ...] = (), **fields: object) -> Question:
    return Question(
        id=f"q{number:04d}", text="?", choices=("a", "b"), answer_index=0, images=images, **fields
    )  # type: ignore[arg-type]


incidence = st.lists(st.lists(st.integers(0, 30).map(lambda n: f"i{n}"), max_size=4), max_size=40)


@given(keys=incidence)
def test_components_are_scipys(keys: list[list[str]]) -> None:
    found = connected_components(keys)
    names = sorted({key for own in keys for key in own})
    size = len(keys) + len(names)
    edges = [(row, len(keys) + names.index(key)) for row, own in enumerate(keys) for key in own]
    rows, columns = ([], []) if not edges else zip(*edges, strict=True)
    graph = csr_array((np.ones(len(edges)), (list(rows), list(columns))), shape=(size, size))
    _, labels = scipy_components(graph, directed=False)
    expected: dict[int, list[int]] = {}
    for row in range(len(keys)):
        expected.setdefault(int(labels[row]), []).append(row)
    assert found == list(expected.values())


@settings(deadline=None)
@given(
    keys=incidence, subjects=st.lists(st.integers(0, 5), min_size=40, max_size=40), seed=st.integers(0, 99)
)
def test_no_image_and_no_subject_stands_in_two_splits(
    keys: list[list[str]], subjects: list[int], seed: int
) -> None:
    questions = [
        question(i, tuple(own), subject_id=f"s{subjects[i]}" if subjects[i] else "", modality=Modality.CT)
        for i, own in enumerate(keys)
    ]
    for by in ("image", "group"):
        if by == "group" and not any(q.subject_id for q in questions):
            continue
        result = split_questions(questions, by, seed=seed, by_content=False)
        assert [q.id for q in result.questions] == [q.id for q in questions]
        homes: dict[str, set[str]] = {}
        for q in result.questions:
            for unit in (*q.images, *([q.subject_id] if by == "group" and q.subject_id else [])):
                homes.setdefault(unit, set()).add(q.split)
        assert all(len(splits) == 1 for splits in homes.values())
        assert sum(result.counts.values()) == len(questions)


def mixed(num: int = 600) -> list[Question]:
    rng = random.Random(0)
    modalities = (Modality.CT, Modality.MRI, Modality.OCT)
    made = []
    for n in range(num):
        modality = modalities[n % 3]
        made.append(question(n, (f"{modality}/{rng.randrange(num // 6 + 1)}.png",), modality=modality))
    return made


def test_order_does_not_matter_and_the_seed_does() -> None:
    questions = mixed()
    split_of = {q.id: q.split for q in split_questions(questions, "image", by_content=False).questions}
    shuffled = random.Random(1).sample(questions, len(questions))
    assert {q.id: q.split for q in split_questions(shuffled, "image", by_content=False).questions} == split_of
    other = split_questions(questions, "image", seed=1, by_content=False).questions
    assert sum(q.split != split_of[q.id] for q in other) > 100


def test_fractions_hold_inside_every_modality() -> None:
    result = split_questions(mixed(3000), "image", by_content=False)
    by_modality = Counter((q.modality, q.split) for q in result.questions)
    for modality in (Modality.CT, Modality.MRI, Modality.OCT):
        for split, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
            assert abs(by_modality[modality, split] / 1000 - share) < 0.015
    assert sum(result.counts.values()) == 3000


def test_the_draw_is_not_the_order_of_the_images() -> None:
    questions = [question(n, (f"{n:04d}.png",)) for n in range(2000)]
    result = split_questions(questions, "image", fractions={"train": 0.5, "test": 0.5}, by_content=False)
    taken = np.array([q.split == "train" for q in result.questions])
    # Independent of position: halves alike, and neighbours alike no more often than a coin.
    assert abs(taken[:1000].mean() - 0.5) < 0.05
    assert abs((taken[1:] == taken[:-1]).mean() - 0.5) < 0.05


def test_copies_under_two_names_share_a_split_by_content_only(tmp_path: Path) -> None:
    questions = []
    for n in range(60):
        for copy in ("", " - Copy"):
            path = tmp_path / f"{n}{copy}.png"
            path.write_bytes(f"pixels {n}".encode())
            questions.append(question(len(questions), (str(path),)))
    by_content = split_questions(questions, "image")
    pairs = [
        (a.split, b.split) for a, b in zip(by_content.questions[::2], by_content.questions[1::2], strict=True)
    ]
    assert all(a == b for a, b in pairs)
    assert by_content.num_units == 60
    assert "SHA-256" in by_content.unit
    by_path = split_questions(questions, "image", by_content=False)
    assert by_path.num_units == 120
    assert "path" in by_path.unit


def test_a_question_with_two_images_ties_both_together() -> None:
    chain = [question(n, (f"{n}.png", f"{n + 1}.png")) for n in range(50)]
    result = split_questions(chain, "image", by_content=False)
    assert result.num_units == 1
    assert set(result.counts) == {"train"}


def test_group_split_counts_questions_without_a_subject() -> None:
    questions = [question(n, (f"{n}.png",), subject_id=f"s{n // 10}" if n < 90 else "") for n in range(100)]
    result = split_questions(questions, "group", by_content=False)
    assert result.num_units == 19
    assert "10 questions name no subject" in result.unit
    with pytest.raises(BadInput, match="no question names a subject"):
        split_questions(mixed(9), "group", by_content=False)


def test_split_by_label() -> None:
    questions = [
        question(0, modality=Modality.CT, question_type=QuestionType.LESION_GRADING),
        question(1, modality=Modality.MRI),
    ]
    assert split_questions(questions, "modality").counts == {"ct": 1, "mri": 1}
    assert split_questions(questions, "question_type").counts == {"lesion_grading": 1, "unknown": 1}
    with pytest.raises(BadInput, match="the source names no question_type"):
        split_questions(questions[1:], "question_type")


def test_unknown_kind_and_bad_fractions() -> None:
    with pytest.raises(BadInput, match="one of image, group, modality, question_type"):
        split_questions(mixed(3), "patient")
    for fractions in ({"train": 0.5}, {"train": 1.5, "test": -0.5}, {}, {"train": float("nan")}):
        with pytest.raises(BadInput, match="sum to 1"):
            split_questions(mixed(3), "image", fractions=fractions, by_content=False)


def test_fractions_of_the_command_line() -> None:
    assert parse_fractions("a=0.25, b=0.75") == {"a": 0.25, "b": 0.75}
    for text in ("", "a", "a=x", "a=0.5,a=0.5", "=1", "a=0.5,b=0.6"):
        with pytest.raises(BadInput):
            parse_fractions(text)
