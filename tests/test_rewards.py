from __future__ import annotations

import math
import re
import subprocess
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.answers import extract_answer
from osler.errors import BadInput
from osler.prompts import TEMPLATES
from osler.records import Completion, Question, Reward
from osler.rewards import REWARDS, Rubric, build_rubric, is_trick
from released_questions import released_questions

QUESTION = Question(
    id="q7", text="What is shown?", choices=("Fracture", "Kidney", "Normal", "CT"), answer_index=2
)
OURS = build_rubric({"format": 1.0, "accuracy": 1.0})


def score(
    rubric: Rubric, text: str, template: str = "think", tokens: int = 10, question: Question = QUESTION
):
    completion = Completion(
        text=text, token_ids=(0,) * tokens, sampled_logprobs=(0.0,) * tokens, finish_reason="stop"
    )
    return rubric.score(completion, extract_answer(text, question.choices), question, TEMPLATES[template])


def one(name: str, text: str, template: str = "think", tokens: int = 10) -> float:
    return score(build_rubric({name: 1.0}), text, template, tokens).total


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_well_formed_right_answer_earns_everything(template: str) -> None:
    thinking = "The rim is even." if TEMPLATES[template].thinks else ""
    right = TEMPLATES[template].write("C", thinking)
    wrong = TEMPLATES[template].write("A", thinking)
    assert score(OURS, right, template) == Reward(2.0, {"format": 1.0, "accuracy": 1.0})
    assert score(OURS, wrong, template) == Reward(1.0, {"format": 1.0, "accuracy": 0.0})


@pytest.mark.parametrize("modality", ["OCT", "Dermoscopy", "Microscopy"])
def test_every_released_gold_answer_earns_the_full_reward(modality: str) -> None:
    for question in released_questions("test", modality):
        for name, template in TEMPLATES.items():
            text = template.write(question.answer_letter, question.answer if template.thinks else "")
            assert score(OURS, text, name, question=question).total == 2.0, question


TRICKS = {
    "two different answers": "<think>x</think><answer>C</answer><answer>A</answer>",
    "the same answer twice": "<think>x</think><answer>C</answer><answer>C</answer>",
    "an answer inside the reasoning": "<think>x <answer>C</answer></think>",
    "an answer inside and one outside": "<think>x <answer>A</answer></think><answer>C</answer>",
    "the same inside and outside": "<think>x <answer>C</answer></think><answer>C</answer>",
    "nested reasoning": "<think><think>x</think><answer>C</answer></think>",
    "empty reasoning": "<think></think><answer>C</answer>",
    "blank reasoning": "<think> \n </think><answer>C</answer>",
    "reasoning without a word": "<think>...</think><answer>C</answer>",
    "all letters": "<think>x</think><answer>A, B, C, D</answer>",
    "all choices": "<think>x</think><answer>A) Fracture\nB) Kidney\nC) Normal\nD) CT</answer>",
    "choices echoed without tags": "A) Fracture\nB) Kidney\nC) Normal\nD) CT",
    "choices echoed as a line": "A)Fracture, B)Kidney, C)Normal, D)CT",
    "all texts": "<think>x</think><answer>Fracture Kidney Normal CT</answer>",
    "one of two": "<think>x</think><answer>C or D</answer>",
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("template", ["think", "nothink", "think_after", "plain", "medvlm_r1_complex"])
def test_tricks_earn_nothing_from_ours(trick: str, template: str) -> None:
    rubric = build_rubric({"format": 1.0, "accuracy": 1.0, "length": 1.0})
    assert score(rubric, TRICKS[trick], template).breakdown == {"format": 0, "accuracy": 0, "length": 0}


def test_the_papers_rules_do_pay_for_tricks() -> None:
    """As MedVLM-R1 @2eee421 grpo.py:64-141 and Med-R1 @88d76c7 grpo_vqa.py:53-103 would."""
    two, empty = TRICKS["two different answers"], TRICKS["empty reasoning"]
    for paper in ("medvlm_r1", "med_r1"):
        rubric = build_rubric({f"{paper}_format": 1.0, f"{paper}_accuracy": 1.0})
        assert score(rubric, two).total == 2.0
        assert score(rubric, empty).total == 2.0
        assert score(rubric, "<think>x <answer>C</answer></think>\n<answer>A</answer>").total == 2.0
    for content, paid in {
        "\nC\n": 0.0,
        "c": 0.0,
        "C)": 0.0,
        "(C)": 0.0,
        "C. Normal": 0.0,
        " C ": 1.0,
    }.items():
        text = f"<think>x</think><answer>{content}</answer>"
        assert one("med_r1_format", text) == 1.0
        assert one("med_r1_accuracy", text) == paid
        assert one("accuracy", text) == 1.0
    assert one("med_r1_accuracy", "C") == 1.0


def test_lenient_readings_earn_accuracy_but_no_format() -> None:
    for text in ("<think>x</think><answer>c</answer>", "<think>x</think><answer>C) Normal</answer>", "(C)"):
        assert score(OURS, text).breakdown == {"format": 0.0, "accuracy": 1.0}
    assert score(OURS, "<answer>C</answer>", "think").breakdown == {"format": 0.0, "accuracy": 1.0}
    assert score(OURS, "C", "nothink").breakdown == {"format": 0.0, "accuracy": 1.0}


def test_a_letter_that_is_no_choice_earns_no_format() -> None:
    assert score(OURS, "<think>x</think><answer>E</answer>").total == 0.0


def test_a_reasoning_cut_off_after_the_answer_keeps_accuracy() -> None:
    cut = "<answer>C</answer><think>The rim is"
    assert score(OURS, cut, "think_after").breakdown == {"format": 0.0, "accuracy": 1.0}


def test_length_is_its_formula_and_gated_on_the_right_answer() -> None:
    right, wrong = "<answer>C</answer>", "<answer>A</answer>"
    for tokens in (1, 64, 255, 256, 300):
        assert one("length", right, "nothink", tokens) == pytest.approx(max(0.0, 1 - tokens / 256))
        assert one("length", wrong, "nothink", tokens) == 0.0
    assert one("length", "", "nothink", 1) == 0.0


PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "</Answer>", *"CcAJKß \n.", "Normal", "CT"]
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_the_papers_rules_equal_their_patterns(parts: list[str]) -> None:
    text = "".join(parts)
    think = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)
    nothink = re.fullmatch(r"\s*<answer>.*?</answer>", text, re.DOTALL)
    assert one("medvlm_r1_format", text, "nothink") == float(think is not None)
    assert one("med_r1_format", text, "think") == float(think is not None)
    assert one("med_r1_format", text, "nothink") == float(nothink is not None)
    tag = re.search(r"<answer>(.*?)</answer>", text)
    assert one("med_r1_accuracy", text) == float((tag.group(1) if tag else text).strip() == "C")
    assert one("medvlm_r1_accuracy", text) == medvlm_r1_by_counting(text)


def medvlm_r1_by_counting(text: str) -> float:
    """MedVLM-R1 @2eee421 grpo.py:64-131 once more: letters A to J of the first tag, counted one by one."""
    tag = re.search(r"(?is)<answer>(.*?)</answer>", text)
    content = tag.group(1).strip() if tag else ""
    letters = [c for c in content.upper() if c in "ABCDEFGHIJ"]
    if letters != ["C"]:
        return 0.0
    return 1.0 if content.upper() == "C" else 0.5


@pytest.mark.parametrize(
    ("content", "paid"),
    [
        ("C", 1.0),
        ("c", 1.0),
        ("(C)", 0.5),
        ("CT", 0.5),
        ("C) CT", 0.0),
        ("C. Kidney", 0.0),
        ("A", 0.0),
        ("", 0.0),
    ],
)
def test_medvlm_r1_accuracy_examples(content: str, paid: float) -> None:
    assert one("medvlm_r1_accuracy", f"<answer>{content}</answer>") == paid


def test_med_r1_format_has_no_rule_for_other_forms() -> None:
    for template in ("think_after", "plain"):
        with pytest.raises(BadInput, match=f"'med_r1_format' has no rule for template '{template}'"):
            one("med_r1_format", "<answer>C</answer>", template)


def test_is_trick_leaves_honest_completions_alone() -> None:
    for text in ("C", "<answer>C</answer>", "<think>A or C?</think><answer>C</answer>", "<think>cut off", ""):
        assert not is_trick(text)


def test_the_rubric_weighs_and_keeps_the_unweighted_parts() -> None:
    rubric = build_rubric({"format": 0.5, "accuracy": 2.0, "length": 0.0, "medvlm_r1_accuracy": -1.0})
    reward = score(rubric, "<think>x</think><answer>(C)</answer>", tokens=64)
    assert reward.breakdown == {"format": 0.0, "accuracy": 1.0, "length": 0.75, "medvlm_r1_accuracy": 0.5}
    assert reward.total == pytest.approx(0.5 * 0 + 2 * 1 + 0 * 0.75 - 0.5)


def test_unknown_names_and_weights_are_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'accuracy'"):
        build_rubric({"acuracy": 1.0})
    with pytest.raises(BadInput, match="no reward function given"):
        build_rubric({})
    for weight in (math.nan, math.inf, "1", None, True):
        with pytest.raises(BadInput, match="not a finite number"):
            build_rubric({"accuracy": weight})  # type: ignore[dict-item]
    with pytest.raises(BadInput, match="has a weight but no function"):
        Rubric(weights={"x": 1.0}, functions={})


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("house_rewards")
    monkeypatch.setitem(sys.modules, "house_rewards", module)
    return module


def test_user_rewards_are_found_by_module_and_function(plugin: types.ModuleType) -> None:
    plugin.words = lambda completion, extraction, question, template: len(completion.text.split())
    reward = score(build_rubric({"house_rewards:words": 0.1, "accuracy": 1.0}), "three short words")
    assert reward.breakdown == {"house_rewards:words": 3.0, "accuracy": 0.0}
    assert reward.total == pytest.approx(0.3)


def test_user_rewards_that_cannot_be_had_say_why(plugin: types.ModuleType) -> None:
    plugin.number = 3
    plugin.narrow = lambda completion: 1.0
    for name, why in {
        "no_such_module_here:f": "cannot be imported .ModuleNotFoundError.*PYTHONPATH",
        ":f": "cannot be imported",
        "house_rewards:missing": "has no function 'missing'",
        "house_rewards:": "has no function ''",
        "house_rewards:number": "has no function 'number'",
        "house_rewards:narrow": "has to take .completion, extraction, question, template.",
    }.items():
        with pytest.raises(BadInput, match=why):
            build_rubric({name: 1.0})


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1", [1.0], 1j])
def test_what_is_no_finite_number_names_function_and_question(
    plugin: types.ModuleType, value: object
) -> None:
    plugin.odd = lambda completion, extraction, question, template: value
    with pytest.raises(BadInput, match=r"'house_rewards:odd' returned .* for question 'q7'"):
        score(build_rubric({"house_rewards:odd": 1.0}), "text")


def test_what_a_user_reward_raises_passes_through_with_a_note(plugin: types.ModuleType) -> None:
    def broken(completion, extraction, question, template):
        raise KeyError("lost")

    plugin.broken = broken
    with pytest.raises(KeyError) as raised:
        score(build_rubric({"house_rewards:broken": 1.0}), "text")
    assert raised.value.__notes__ == ["raised by reward function 'house_rewards:broken' on question 'q7'"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(TEMPLATES)))
def test_every_reward_survives_any_text(text: str, template: str) -> None:
    for name in REWARDS:
        if name != "med_r1_format" or TEMPLATES[template].form in ("think", "nothink"):
            assert 0.0 <= one(name, text, template) <= 1.0


def test_rewards_need_no_torch() -> None:
    code = (
        "import sys, osler.rewards, osler.answers, osler.evaluate.stats, osler.audit.blind;"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
