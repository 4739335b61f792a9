"""Reasoning sorted into kinds: every count again from how the answers were made, and who gets a card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finished_study import CHOICES, PER_COLUMN, SAID, finished_plan, write_study
from osler.evaluate.predictions import PredictionWriter, read_predictions
from osler.evaluate.recorded_confidence import recorded_confidence
from osler.evaluate.thinking.edits import find_trace, reasoning_in
from osler.evaluate.thinking.kinds import KINDS, traced
from osler.prompts import TEMPLATES
from osler.records import Extraction, Modality, Outcome, Prediction, QuestionType
from osler.report.gallery import CARDS_PER_KIND, Gallery, galleries
from osler.report.page import write_report
from osler.report.runs import read_run
from osler.report.study_page import write_study_page
from osler.study.results import Line, StudyResults, read_results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, finished_plan("seeds=[0, 1]"))
    return read_results(folder)


def lines_of(results: StudyResults, row: str) -> list[Line]:
    return [line for line in results.lines if line.row == row]


def gallery_of(lines: Sequence[Line]) -> list[Gallery]:
    runs = [read_run(line.name, line.folder) for line in lines]
    return galleries([("row", [(run, e) for run in runs for e in run.evaluations])])


def prediction(text: str, index: int | None, **changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "question_id": "q",
        "text": text,
        "extraction": Extraction(index, "none" if index is None else "exact"),
        "outcome": Outcome.UNPARSED if index is None else Outcome.WRONG if index else Outcome.CORRECT,
        "answer_index": 0,
        "num_choices": 4,
        "image_digest": "d",
        "modality": Modality.CT,
        "question_type": QuestionType.UNKNOWN,
        "dataset": "d",
    }
    return Prediction(**{**values, **changes})


@pytest.mark.parametrize(
    ("body", "index", "confidence", "kinds"),
    [
        ("Shows wart.", 0, None, {"right"}),
        ("Shows wart (A).", 1, 0.9, {"wrong", "wrong-and-confident", "another-choice"}),
        ("Shows xanthoma.", 1, 0.89, {"wrong"}),
        ("The answer is C.", 0, 0.99, {"right", "another-choice"}),
        ("It is not zoster.", 0, None, {"right", "elimination", "no-conclusion"}),
        ("By elimination the answer is B.", 1, None, {"wrong", "elimination"}),
        ("Hard to say.", 1, 1.0, {"wrong", "wrong-and-confident", "no-conclusion"}),
    ],
)
def test_kinds(body: str, index: int, confidence: float | None, kinds: set[str]) -> None:
    for text in (f"<think>{body}</think><answer>x</answer>", f"<answer>x</answer><think>{body}</think>"):
        found = traced(prediction(text, index), CHOICES, confidence)
        assert found is not None and found.body == body and set(found.kinds) == kinds <= set(KINDS)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>A</answer>",
        "<think> </think><answer>A</answer>",
        "<think>one</think><think>two</think>A",
        "<think>it never ends",
    ],
)
def test_no_kind_without_one_piece_of_reasoning(text: str) -> None:
    assert reasoning_in(text) is None and traced(prediction(text, 0), CHOICES, None) is None


def test_no_kind_without_an_answer() -> None:
    text = "<think>Shows wart.</think>"
    assert traced(prediction(text, None), CHOICES, None) is None
    assert traced(prediction(text, 0, error="no image", outcome=None), CHOICES, None) is None


def test_reasoning_is_what_its_examination_sees() -> None:
    for body in ("Shows gas (B).", "一 <answer>A</answer> 二", "a\nb"):
        text = f"  <think>{body}</think> <answer>B</answer>"
        trace = find_trace(text, TEMPLATES["think"])
        assert trace is not None and trace.body == reasoning_in(text) == body


def test_every_share_is_counted_again(results: StudyResults) -> None:
    lines = lines_of(results, "grpo_think")
    (found,) = gallery_of(lines)
    shares = {share.kind: share for share in found.shares}
    answers = [(i % PER_COLUMN, i, p) for line in lines for i, p in enumerate(line.predictions)]
    n = 4 * 2 * PER_COLUMN  # two training sets with two seeds, on two columns
    assert len(answers) == n and found.with_reasoning.startswith(f"{n} of {n} answers")
    expected = {
        "right": sum(p.correct for _, _, p in answers),
        "wrong": sum(not p.correct for _, _, p in answers),
        "wrong-and-confident": sum(not p.correct and i % 3 == 0 for _, i, p in answers),
        "another-choice": sum(SAID[i % 4] == SAID[1] for i, _, _ in answers),
        "elimination": sum(SAID[i % 4] == SAID[2] for i, _, _ in answers),
        "no-conclusion": sum(SAID[i % 4] in SAID[2:] for i, _, _ in answers),
    }
    assert {kind: share.count for kind, share in shares.items()} == {
        kind: f"{count} of {n}" for kind, count in expected.items()
    }
    for kind, count in expected.items():
        assert shares[kind].share == f"{100 * count / n:.1f}"
    assert found.confidence == "probability of the letter, not calibrated"


def test_cards_are_the_first_of_their_kind_by_a_hash(results: StudyResults) -> None:
    lines = lines_of(results, "grpo_think")
    (found,) = gallery_of(lines)
    ordered = sorted(
        (
            hashlib.sha256(f"0:{line.question_digests[p.question_id]}\x1f{line.name}".encode()).digest(),
            line.name,
            p,
            i,
        )
        for line in lines
        for i, p in enumerate(line.predictions)
    )
    holds = {
        "right": lambda p, i: p.correct,
        "wrong-and-confident": lambda p, i: not p.correct and i % 3 == 0,
        "another-choice": lambda p, i: SAID[i % 4] == SAID[1],
        "elimination": lambda p, i: SAID[i % 4] == SAID[2],
    }
    for kind, holds_for in holds.items():
        first = [(name, p.question_id) for _, name, p, i in ordered if holds_for(p, i)][:CARDS_PER_KIND]
        cards = [c.card for c in found.cards if kind in c.chosen_for]
        assert {(c.replies[0].model, c.question.split()[-1].rstrip("?")) for c in cards} == set(first)
        assert next(s.shown for s in found.shares if s.kind == kind) == len(first)
    assert [card.card.number for card in found.cards] == list(range(1, len(found.cards) + 1))
    assert gallery_of(lines) == [found]


def test_what_was_not_measured_is_not_said(results: StudyResults) -> None:
    (found,) = gallery_of(lines_of(results, "zero_shot_think"))
    assert found.confidence == "" and "wrong-and-confident" not in {s.kind for s in found.shares}
    assert {kind for card in found.cards for kind in card.chosen_for} >= {"right", "wrong"}
    assert gallery_of(lines_of(results, "grpo_nothink")) == []


def test_confidence_is_of_the_answer_that_was_given(tmp_path: Path, results: StudyResults) -> None:
    line = lines_of(results, "grpo_think")[0]
    recorded = recorded_confidence(line.folder, line.header.name, line.predictions)
    assert recorded.by_id[line.predictions[0].question_id] == pytest.approx(0.95)
    other = [replace(p, text=p.text + " ") for p in line.predictions]
    assert recorded_confidence(line.folder, line.header.name, other).by_id == {}
    assert recorded_confidence(tmp_path, line.header.name, line.predictions).source == ""


def test_agreement_is_the_share_of_samples_that_answer_the_same(
    tmp_path: Path, results: StudyResults
) -> None:
    line = lines_of(results, "sft")[0]
    greedy = [replace(p, question_id=f"q{i}", extraction=Extraction(1, "exact")) for i, p in
              enumerate(line.predictions[:3])]  # fmt: skip
    drawn = [(1, 1, 0), (1, 0, None), (1, 1, 1), (1, 0, 2)]  # by sample: what each question got
    for number, answers in enumerate(drawn, start=1):
        path = tmp_path / f"variants/sample-{number}/predictions/phantom-test.jsonl"
        with PredictionWriter(path, line.header, print) as writer:
            kept = answers if number < 4 else answers[:2]
            for p, index in zip(greedy, kept, strict=False):
                writer.append([(replace(p, extraction=Extraction(index, "exact")), "")])
    found = recorded_confidence(tmp_path, "phantom-test", greedy)
    assert found.source == "agreement of 4 samples"
    assert found.by_id == {"q0": 1.0, "q1": 0.5}  # the fourth sample never came to the last question


def test_both_pages_show_it_once(results: StudyResults, tmp_path: Path) -> None:
    page = write_study_page(results.folder, tmp_path / "study.html").path.read_text(encoding="utf-8")
    section = page.split('<section id="gallery">', 1)[1].split("</section>", 1)[0]
    assert section.count("<h3") == 2 and "GRPO, no-think" not in section
    assert "settles on C) yolk sac, read from “Shows yolk sac.”" in section
    assert "rules out D) zoster" in section and "confidence in B) xanthoma: 95.0 %" in section
    assert "not measured here" in section and "&lt;b&gt;What is" in section
    run = lines_of(results, "grpo_think")[0].folder
    page = write_report([run], tmp_path / "run.html").path.read_text(encoding="utf-8")
    assert page.count('<section id="gallery">') == 1
    assert read_predictions(run / "predictions/phantom-test.jsonl").predictions
