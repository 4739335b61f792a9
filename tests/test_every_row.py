"""Every row of every data set: its right answer, written in a template, extracts to itself and earns all.

And the next letter, written just as well, earns the form alone. The real files are skipped where they are
not at hand; the phantom's questions are always there.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from osler.answers import extract_answer
from osler.data.load import load_questions
from osler.phantom.questions import draw_questions
from osler.prompts import Template, get_template
from osler.records import LETTERS, Completion, Modality, Question
from osler.rewards import Rubric, build_rubric

SHARED = Path(__file__).resolve().parents[2] / "shared"
MINI = SHARED / "omnimedvqa_mini"
REAL = SHARED / "omnimedvqa_questions"

OURS = ("think", "nothink", "think_after", "plain")
OUR_REWARDS = {"format": 1.0, "accuracy": 1.0}
PAPERS = {
    "medvlm_r1_complex": {"medvlm_r1_format": 1.0, "medvlm_r1_accuracy": 1.0},
    "med_r1_think": {"med_r1_format": 1.0, "med_r1_accuracy": 1.0},
}
SAMPLE = 5_000


def unzip(name: str, to: Path) -> Path:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} (the papers' question files) is not here")
    with zipfile.ZipFile(REAL / name) as archive:
        archive.extractall(to)
    return to


def phantom_questions() -> list[Question]:
    modalities = [modality for modality in Modality if modality is not Modality.UNKNOWN]
    return [q for modality in modalities for q in draw_questions(modality, 100, 0, "train")[1]]


@pytest.fixture(scope="module", params=["native", "med_r1", "medvlm_r1", "mini", "mini_med_r1", "phantom"])
def questions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Question]:
    name = request.param
    if name == "phantom":
        return phantom_questions()
    if name.startswith("mini"):
        if not MINI.is_dir():
            pytest.skip(f"{MINI} (real images) is not here")
        paths = [MINI] if name == "mini" else [MINI / "med_r1_train.json", MINI / "med_r1_test.json"]
        return [q for path in paths for q in load_questions(path).questions]
    folder = tmp_path_factory.mktemp(name)
    if name == "native":
        path = unzip("open_access_questions.zip", folder)
    elif name == "med_r1":
        path = unzip("med_r1_modality_splits.zip", folder) / "modality"
    else:
        if not REAL.is_dir():
            pytest.skip(f"{REAL} (the papers' question files) is not here")
        path = REAL / "medvlm_r1_test_sample.json"
    return load_questions(path, no_images=True).questions


def graded(
    question: Question, letter: str, template: Template, rubric: Rubric
) -> tuple[int | None, str, float]:
    """The choice read, how, and the total reward of one letter written in a template."""
    text = template.write(letter, thinking="The texture speaks for it." if template.thinks else "")
    completion = Completion(text=text, token_ids=(1, 2), sampled_logprobs=(-0.1, -0.1), finish_reason="stop")
    extraction = extract_answer(text, question.choices)
    return extraction.index, extraction.how, rubric.score(completion, extraction, question, template).total


@pytest.mark.parametrize("name", OURS)
def test_the_right_answer_earns_all(questions: Sequence[Question], name: str) -> None:
    template, rubric = get_template(name), build_rubric(OUR_REWARDS)
    failed = [
        q.source or q.id
        for q in questions
        if graded(q, q.answer_letter, template, rubric) != (q.answer_index, "exact", 2.0)
    ]
    assert len(questions) >= 60
    assert not failed, f"{len(failed)} of {len(questions)}: {failed[:5]}"


def test_the_next_letter_earns_the_form_alone(questions: Sequence[Question]) -> None:
    template, rubric = get_template("nothink"), build_rubric(OUR_REWARDS)
    for question in questions:
        wrong = (question.answer_index + 1) % len(question.choices)
        assert graded(question, LETTERS[wrong], template, rubric) == (wrong, "exact", 1.0), question.source


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_rules_agree_on_well_formed_answers(questions: Sequence[Question], name: str) -> None:
    template, rubric = get_template(name), build_rubric(PAPERS[name])
    sample = random.Random(0).sample(list(questions), min(SAMPLE, len(questions)))
    failed = [
        q.source or q.id
        for q in sample
        if graded(q, q.answer_letter, template, rubric) != (q.answer_index, "exact", 2.0)
    ]
    assert not failed, f"{len(failed)} of {len(sample)}: {failed[:5]}"


def test_the_right_answer_in_words_is_read_as_itself(questions: Sequence[Question]) -> None:
    failed = [
        q.source or q.id
        for q in questions
        if extract_answer(f"<answer>{q.answer}</answer>", q.choices).index != q.answer_index
    ]
    assert not failed, f"{len(failed)} of {len(questions)}: {failed[:5]}"
