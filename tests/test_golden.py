"""The golden corpus: completions written by hand, with what a careful reader takes from them, and why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from osler.answers import extract_answer, outcome_of
from osler.records import LETTERS

CORPUS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden_completions.jsonl").read_text(encoding="utf-8").splitlines()
]
FAMILIES = sorted({case["family"] for case in CORPUS})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_completion_is_read_as_a_careful_reader_would(family: str) -> None:
    for case in (c for c in CORPUS if c["family"] == family):
        found = extract_answer(case["text"], case["choices"])
        outcome = outcome_of(found, case["answer"], case["truncated"], case["text"])
        assert (found.index, outcome) == (case["index"], case["outcome"]), (case["text"], case["why"], found)


def test_what_was_read_is_the_letter_or_the_text_of_the_choice() -> None:
    for case in CORPUS:
        found = extract_answer(case["text"], case["choices"])
        if found.index is None:
            assert (found.how, found.span) == ("none", None)
            continue
        assert found.span is not None
        shown = case["text"][slice(*found.span)].casefold()
        letter = LETTERS[found.index].casefold()
        # "ｂ" is a full-width b; "É" may be written as two signs.
        names = {letter, chr(ord(letter) + 0xFEE0), case["choices"][found.index].casefold(), "panchement"}
        assert any(name in shown for name in names), case["text"]


def test_reasoning_before_a_completion_changes_nothing() -> None:
    """The reasoning says A; whatever was read, or was not, stays."""
    for case in CORPUS:
        if "think" in case["text"].lower():
            continue
        found = extract_answer(f"<think>The answer is A.</think>\n{case['text']}", case["choices"])
        assert found.index == case["index"], case["text"]


def test_the_corpus_is_large_varied_and_without_repetition() -> None:
    assert len(CORPUS) >= 700 and len(FAMILIES) >= 30
    assert len({(c["text"], tuple(c["choices"]), c["truncated"]) for c in CORPUS}) == len(CORPUS)
    outcomes = Counter(case["outcome"] for case in CORPUS)
    assert outcomes["unparsed"] > 200 and outcomes["correct"] > 200
    assert min(outcomes[name] for name in ("wrong", "truncated", "refused")) >= 10
    for case in CORPUS:
        assert case["why"] and 0 <= case["answer"] < len(case["choices"])
        assert case["index"] is None or 0 <= case["index"] < len(case["choices"])


@pytest.mark.parametrize(
    "text",
    [
        *("", "none of the above", "It is not normal, B or D", "abnormal", "normal findings, nothing"),
        *("<answer>B</answer>", "b", "The answer is not A", "A fracture is seen", "Abnormal"),
        *("<answer>B) Kidney</answer>", "<answer>\nB\n</answer>", "<answer>CT</answer>", "B)"),
    ],
)
def test_what_other_evaluators_stumble_over_is_in_the_corpus(text: str) -> None:
    """Fed to their extractors: MedEvalKit @9b12e3b, VLMEvalKit @134b4ea, both papers' scripts."""
    assert any(case["text"] == text for case in CORPUS)
