"""Scorers: the papers' rules against their own expressions, the letters against the slow way."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osler.answers import extract_answer
from osler.errors import BadInput
from osler.evaluate.predictions import read_predictions
from osler.evaluate.replies import EngineModel
from osler.evaluate.runner import evaluate
from osler.evaluate.scoring import (
    READERS,
    SCORERS,
    check_scorer,
    read_logprobs,
    scored_name,
)
from osler.policy.load import load_policy
from osler.prompts import TEMPLATES
from osler.records import LETTERS, Outcome, Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling
from test_numerics import naive_logprobs

CORPUS = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden_completions.jsonl").read_text(encoding="utf-8").splitlines()
]
CHOICES = ("Fracture", "Kidney", "Normal", "CT")


def released_medvlm_r1(text: str, gold: str, prompt_type: str) -> bool:
    """The comparison of test_qwen2vl_med.py, with its own expression."""
    if prompt_type == "simple":
        return text == gold
    match = re.search(r"<answer>\s*([A-Z])\s*</answer>", text)
    return match is not None and match.group(1) == gold


def released_med_r1(text: str, gold: str, script: str) -> bool:
    """The comparison of test_qwen2vl_vqa.py, _zero_shot.py and test_qwen2_5vl_vqa_nothink.py."""
    match = re.search(r"<answer>\s*(\w+)\s*</answer>", text)
    if script == "zero_shot" or (script == "nothink" and "answer" not in text):
        return text == gold
    return match is not None and match.group(1) == gold


@pytest.mark.parametrize(
    ("scorer", "released", "template", "script"),
    [
        ("paper-strict:medvlm_r1", released_medvlm_r1, "medvlm_r1_complex_eval", "complex"),
        ("paper-strict:medvlm_r1", released_medvlm_r1, "medvlm_r1_simple", "simple"),
        ("paper-strict:med_r1", released_med_r1, "med_r1_think_eval", "think"),
        ("paper-strict:med_r1", released_med_r1, "med_r1_nothink_eval", "nothink"),
        ("paper-strict:med_r1", released_med_r1, "med_r1_zero_shot", "zero_shot"),
    ],
)
def test_the_papers_rules_are_theirs_on_every_golden_completion(
    scorer: str, released: Any, template: str, script: str
) -> None:
    verdicts = set()
    for case in CORPUS:
        found = READERS[scorer](case["text"], case["choices"], TEMPLATES[template])
        for index in range(len(case["choices"])):
            right = found.index == index
            assert right == released(case["text"], LETTERS[index], script), case["text"]
            verdicts.add(right)
        if found.index is not None:
            assert found.span is not None and case["text"][slice(*found.span)] == LETTERS[found.index]
    assert verdicts == {True, False}


def test_where_the_rules_part() -> None:
    think = TEMPLATES["think"]
    seen = {
        text: tuple(read(text, CHOICES, think).index for read in READERS.values())
        for text in (
            "<answer>B</answer>",
            "<answer>b</answer>",
            "<answer>B) Kidney</answer>",
            "<answer>CT</answer><answer>B</answer>",
            "<think><answer>A</answer></think><answer>B</answer>",
            "The answer is B.",
        )
    }
    assert list(seen.values()) == [
        (1, 1, 1),
        (1, None, None),
        (1, None, None),
        (None, 1, None),
        (1, 0, 0),
        (1, None, None),
    ]
    # The Qwen2-VL script of Med-R1 compares the tagged text with a letter; this one looks into the tag.
    assert READERS["paper-strict:med_r1"]("<answer>B</answer>", CHOICES, TEMPLATES["nothink"]).index == 1


def test_ours_is_the_reader_of_training() -> None:
    for case in CORPUS:
        ours = READERS["osler"](case["text"], case["choices"], TEMPLATES["plain"])
        assert ours == extract_answer(case["text"], case["choices"])


def test_names() -> None:
    assert [check_scorer(name) for name in SCORERS] == list(SCORERS)
    with pytest.raises(BadInput, match="did you mean paper-strict:med"):
        check_scorer("paper-strict")
    assert len({scored_name("mri", s) for s in SCORERS}) == len(SCORERS)
    assert all(scored_name("mri", s) == Path(scored_name("mri", s)).name for s in SCORERS)


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=26))
def test_the_most_probable_letter_or_none(logprobs: list[float]) -> None:
    found = read_logprobs(logprobs)
    best = [i for i, value in enumerate(logprobs) if value == max(logprobs)]
    assert found.index == (best[0] if len(best) == 1 else None)
    assert (found.how, found.span) == ("none" if found.index is None else "letter-logprob", None)


@pytest.mark.parametrize("nothing", [None, (), (math.nan, -1.0), (-1.0, -1.0)])
def test_no_distribution_no_choice(nothing: Any) -> None:
    assert read_logprobs(nothing).index is None


def questions(image_folder: Path, n: int = 4) -> list[Question]:
    return [
        Question(
            id=f"q{i}",
            text=f"Which side is bright ({i})?",
            choices=("left", "right", "both")[: 2 + i % 2],
            answer_index=i % 2,
            images=(str(image_folder / f"{i % 4}.png"),),
        )
        for i in range(n)
    ]


def scored(
    policy: Any, asked: list[Question], out: Path, template: str, scorer: str, complete: Any = complete
) -> Any:
    model, names = EngineModel(policy, complete), {"model": "m", "model_digest": "d", "scorer": scorer}
    return evaluate(model, asked, TEMPLATES[template], out, "set", Sampling(6), **names)


def slow_letters(policy: Any, question: Question, template: str, text: str) -> list[float]:
    """Whole sequences through the stock model, one letter at a time."""
    prompt = policy.prompt_inputs(question, TEMPLATES[template])
    found = []
    for letter in LETTERS[: len(question.choices)]:
        ids = policy.tokenizer(text + letter, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found.append(float(naive_logprobs(policy, prompt, ids, 1.0).sum()))
    return torch.tensor(found).log_softmax(0).tolist()


@pytest.mark.parametrize("template", ["nothink", "plain", "think_after"])
def test_letters_of_a_real_model_without_a_completion(
    tiny_folder: Path, image_folder: Path, tmp_path: Path, template: str
) -> None:
    policy, asked = load_policy(str(tiny_folder)), questions(image_folder)

    def never(*_: Any) -> Any:
        raise AssertionError("the model was made to write")

    found = scored(policy, asked, tmp_path, template, "letter-logprob", complete=never)
    begun = "" if template == "plain" else "<answer>"
    for question, prediction in zip(asked, found, strict=True):
        assert prediction.text == "" and prediction.num_tokens == 0
        logprobs = slow_letters(policy, question, template, begun)
        assert prediction.choice_logprobs == pytest.approx(logprobs, abs=1e-4)
        assert prediction.extraction.index == max(range(len(logprobs)), key=logprobs.__getitem__)
        assert prediction.outcome in (Outcome.CORRECT, Outcome.WRONG)
    assert read_predictions(tmp_path / "predictions/set@letter-logprob.jsonl").predictions == found


def test_letters_behind_reasoning_or_nothing(tiny_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    """A random model never comes to an answer: nothing is read. Where it does, the letters stand there."""
    policy, asked = load_policy(str(tiny_folder)), questions(image_folder)
    found = scored(policy, asked, tmp_path / "a", "think", "letter-logprob")
    assert {p.outcome for p in found} <= {Outcome.UNPARSED, Outcome.TRUNCATED}
    assert all(p.choice_logprobs is None and p.extraction.index is None for p in found)
    text = "<think>bright</think><answer>"

    def thinks(*arguments: Any) -> Any:
        return [
            tuple(c.__class__(**{**vars_of(c), "text": text + "B</answer>"}) for c in group)
            for group in complete(*arguments)
        ]

    found = scored(policy, asked, tmp_path / "b", "think", "letter-logprob", complete=thinks)
    for question, prediction in zip(asked, found, strict=True):
        expected = slow_letters(policy, question, "think", text)
        assert prediction.choice_logprobs == pytest.approx(expected, abs=1e-4)
        assert prediction.text == text + "B</answer>"


def vars_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def test_another_rule_reads_the_same_completions_again(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    asked = questions(image_folder)
    calls = []

    def says(policy: Any, batch: list[Question], template: Any, sampling: Any) -> Any:
        calls.append(len(batch))
        groups = complete(policy, batch, template, sampling)
        texts = ["<answer>B</answer>", "<answer>b</answer>"] * len(batch)
        return [
            tuple(c.__class__(**{**vars_of(c), "text": t}) for c in g)
            for g, t in zip(groups, texts, strict=False)
        ]

    policy = load_policy(str(tiny_folder))
    ours = scored(policy, asked, tmp_path, "think", "osler", complete=says)
    strict = scored(policy, asked, tmp_path, "think", "paper-strict:med_r1", complete=says)
    assert calls == [4], "asked once for both"
    assert [p.text for p in strict] == [p.text for p in ours]
    assert [p.extraction.index for p in ours] == [1, 1, 1, 1]
    assert [p.extraction.index for p in strict] == [1, None, 1, None]
    assert [p.outcome for p in strict[:2]] == [Outcome.WRONG, Outcome.TRUNCATED]
    names = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert names == ["set.jsonl", "set@paper-strict-med_r1.jsonl"]
    again = scored(policy, asked, tmp_path, "think", "paper-strict:med_r1", complete=says)
    assert again == strict and calls == [4]
    # Other sampling, other completions: they are asked for.
    scored(policy, asked, tmp_path / "other", "nothink", "osler", complete=says)
    scored(policy, asked, tmp_path / "other", "nothink", "letter-logprob", complete=says)
    assert calls == [4, 4], "the letters need no completion"
