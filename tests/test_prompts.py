from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.errors import BadInput
from osler.prompts import TEMPLATES, Template, get_template, letters_phrase, messages, thinking_spans
from osler.records import LETTERS, Question

OURS = ("think", "nothink", "think_after", "plain")
ALL = list(TEMPLATES.values())
PROBLEM_LINES = "Which organ?\nA) Liver\nB) Kidney"
PROBLEM_INLINE = "Which organ? A)Liver, B)Kidney"


def question(count: int = 2, **fields: object) -> Question:
    values: dict[str, object] = {
        "id": "q1",
        "text": "Which organ?",
        "choices": ("Liver", "Kidney", *(f"Organ {n}" for n in range(2, count)))[:count],
        "answer_index": 1,
        "images": ("/data/Images/kidney/1.png",),
    }
    return Question(**(values | fields))  # type: ignore[arg-type]


def written(template: Template, letter: str, thinking: str = "The shape fits.") -> str:
    return template.write(letter, thinking if template.thinks else "")


# The released prompts, typed out from the two repositories, with all of their white space.
RELEASED = {
    "medvlm_r1_complex": (
        f"\n        {PROBLEM_LINES} \n        Your task: \n        1. Think through the question step by "
        "step, enclose your reasoning process in <think>...</think> tags. \n        2. Then "
        "provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> "
        "tags.\n        3. No extra information or text outside of these tags.\n        "
    ),
    "medvlm_r1_complex_eval": (
        f"\n    {PROBLEM_LINES} \n    Your task: \n    1. Think through the question step by step, enclose "
        "your reasoning process in <think>...</think> tags. \n    2. Then provide the correct "
        "single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n    3. No "
        "extra information or text outside of these tags.\n    "
    ),
    "medvlm_r1_simple": (
        f"\n    {PROBLEM_LINES} \n    Your task: provide the correct single-letter choice (A, B, C, "
        "D,...).\n    "
    ),
    "med_r1_think": (
        f"{PROBLEM_INLINE} Your task: 1. Think through the question step by step, enclose your reasoning "
        "process in <think>...</think> tags. 2. Then provide the correct single-letter choice "
        "(A, B, C, D,...) inside <answer>...</answer> tags. 3. No extra information or text "
        "outside of these tags."
    ),
    "med_r1_nothink": (
        f"{PROBLEM_INLINE} Your task: 1. Provide the correct single-letter choice (A, B, C, D,...) inside "
        "<answer>...</answer> tags. 2. No extra information or text outside of this tag."
    ),
    "med_r1_think_eval": (
        f"{PROBLEM_INLINE} Think through the question step by step in <think>...</think> tags. Then provide "
        "the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
    ),
    "med_r1_nothink_eval": (
        f"{PROBLEM_INLINE} Provide the correct single-letter choice (A, B, C, D,...) inside "
        "<answer>...</answer> tags."
    ),
    "med_r1_zero_shot": (f"{PROBLEM_INLINE} Provide the correct single-letter choice (A, B, C, D,...)."),
    "med_r1_readme": (
        f"{PROBLEM_INLINE} First output the thinking process in <think> </think> and final choice (A, B, C, "
        "D ...) in <answer> </answer> tags."
    ),
}


def test_released_wordings_are_exact_and_all_covered() -> None:
    assert set(RELEASED) | set(OURS) == set(TEMPLATES)
    for name, text in RELEASED.items():
        assert TEMPLATES[name].user_text(question()) == text, name


def test_our_templates_name_the_letters_that_exist_and_put_one_choice_per_line() -> None:
    for name in OURS:
        text = TEMPLATES[name].user_text(question(3))
        assert text.startswith("Which organ?\nA) Liver\nB) Kidney\nC) Organ 2\n")
        assert "(A, B or C)" in text and "D" not in text.replace("Kidney", "")
    assert "(A or B)" in TEMPLATES["think"].user_text(question(2))
    assert "\nZ) Organ 25\n" in TEMPLATES["plain"].user_text(question(26))
    assert letters_phrase(26).endswith("X, Y or Z")


@pytest.mark.parametrize("count", [0, 1, 27])
def test_too_few_or_many_choices_name_the_question(count: int) -> None:
    choices = tuple(f"c{n}" for n in range(count))
    with pytest.raises(BadInput, match=rf"file.json row 3: {count} choices; a question needs 2 to 26"):
        TEMPLATES["think"].user_text(question(choices=choices, source="file.json row 3"))


def test_braces_in_the_question_are_text() -> None:
    text = TEMPLATES["think"].user_text(question(text="Is {problem} or {letters} meant {0}?"))
    assert text.startswith("Is {problem} or {letters} meant {0}?\nA) Liver")


@pytest.mark.parametrize("template", ALL, ids=lambda t: t.name)
def test_what_a_template_writes_has_its_form(template: Template) -> None:
    for letter in LETTERS:
        text = written(template, letter)
        prefix = template.answer_prefix(text)
        assert template.matches(text)
        assert template.matches(f"\n {text} \n"), "white space around it is tolerated"
        assert prefix is not None and text[len(prefix) :].startswith(letter)
    if template.form != "plain":
        assert prefix.endswith("<answer>")
    assert template.thinks == (template.form in ("think", "think_after"))


def test_white_space_between_and_inside_the_parts_is_tolerated() -> None:
    assert TEMPLATES["think"].matches("<think>\nThe rim is dark.\n</think>\n\n<answer>\n C \n</answer>\n")
    assert TEMPLATES["think_after"].matches("<answer> C </answer>\n<think>as the rim is dark</think>")


GOOD = "<think>The rim is dark.</think><answer>C</answer>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "C",
        "<answer>C</answer>",
        "<think></think><answer>C</answer>",
        "<think> \n </think><answer>C</answer>",
        "<think>...</think><answer>C</answer>",
        "<think>x</think><answer></answer>",
        "<think>x</think><answer>CD</answer>",
        "<think>x</think><answer>c</answer>",
        "<think>x</think><answer>C) Kidney</answer>",
        "<think>x</think><answer>C</answer><answer>A</answer>",
        "<think>x</think><answer>C</answer><answer>C</answer>",
        "<think><answer>C</answer></think><answer>C</answer>",
        "<think>x<think>y</think></think><answer>C</answer>",
        "<think>x</think><think>y</think><answer>C</answer>",
        "<answer>C</answer><think>x</think>",
        "<think>x<answer>C</answer></think>",
        f"Sure. {GOOD}",
        f"{GOOD} Done.",
        "<think>x</think> so <answer>C</answer>",
        "<think>x</think><answer>C",
        "<think>x",
        "<THINK>x</THINK><answer>C</answer>",
        "<think>x <ANSWER>A</ANSWER></think><answer>C</answer>",
        "<think>x</think><Answer>C</Answer>",
    ],
)
def test_think_format_is_strict(text: str) -> None:
    assert TEMPLATES["think"].matches(GOOD)
    assert not TEMPLATES["think"].matches(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothink", GOOD),
        ("nothink", "C"),
        ("nothink", "<answer>C</answer>."),
        ("nothink", "<answer>C</answer><answer>C</answer>"),
        ("think_after", GOOD),
        ("think_after", "<answer>C</answer>"),
        ("think_after", "<answer>C</answer><think></think>"),
        ("think_after", "<answer>C</answer><think>cut off"),
        ("plain", "<answer>C</answer>"),
        ("plain", "C."),
        ("plain", "c"),
        ("plain", "CD"),
        ("plain", ""),
    ],
)
def test_other_formats_are_strict(name: str, text: str) -> None:
    assert not TEMPLATES[name].matches(text)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "C", "why", " "]), max_size=8)
)
def test_formats_exclude_each_other(parts: list[str]) -> None:
    text = "".join(parts)
    assert sum(TEMPLATES[name].matches(text) for name in OURS) <= 1


@given(st.text(alphabet="ab <>/\n", max_size=40), st.sampled_from(LETTERS))
def test_any_reasoning_without_tags_is_well_formed(thinking: str, letter: str) -> None:
    for name in ("think", "think_after"):
        if any(c.isalnum() for c in thinking):
            assert TEMPLATES[name].matches(TEMPLATES[name].write(letter, thinking))


def test_write_refuses_what_would_not_be_well_formed() -> None:
    with pytest.raises(BadInput, match="'think' needs reasoning"):
        TEMPLATES["think"].write("B")
    with pytest.raises(BadInput, match="tag"):
        TEMPLATES["think"].write("B", "so </THINK> there")
    for letter in ("b", "BC", "", "1"):
        with pytest.raises(BadInput, match="one capital letter"):
            TEMPLATES["nothink"].write(letter)
    assert TEMPLATES["nothink"].write("B", "not shown") == "<answer>B</answer>"


def test_thinking_spans() -> None:
    assert thinking_spans("<think>a</think>b<think>c") == [(0, 16), (17, 25)]
    assert thinking_spans("a</think>b") == [(0, 9)]
    assert thinking_spans("<think>a<think>b</think>c</think>d") == [(0, 33)]
    assert thinking_spans("plain text") == []


def test_answer_prefix_skips_the_reasoning() -> None:
    think = TEMPLATES["think"]
    inside = "<think>no <answer>A</answer></think>"
    assert think.answer_prefix(f"{inside} <answer>B</answer>") == f"{inside} <answer>"
    assert think.answer_prefix(inside) is None
    assert think.answer_prefix("<think>cut <answer>") is None
    assert think.answer_prefix("no tag") is None
    assert TEMPLATES["think_after"].answer_prefix("<answer>B</answer><think>why") == "<answer>"
    assert TEMPLATES["plain"].answer_prefix("anything") == ""


def test_unknown_template_names_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'think_after'"):
        get_template("think_aftr")
    assert get_template("nothink") is TEMPLATES["nothink"]


def test_messages_put_images_first_and_carry_no_path() -> None:
    shown = question(images=("/data/Images/kidney/1.png", "/data/Images/kidney/2.png"))
    (turn,) = messages(shown, TEMPLATES["think"])
    assert turn["role"] == "user"
    assert turn["content"][:2] == [{"type": "image"}, {"type": "image"}]
    assert turn["content"][2] == {"type": "text", "text": TEMPLATES["think"].user_text(shown)}
    assert "Images/" not in repr(turn) and ".png" not in repr(turn)


def test_huge_texts_have_no_form() -> None:
    """Anything worse than linear in the text would hang here."""
    for piece in ("<think>", "</think>", "<answer>", "<think></think>", "< think>", " "):
        text = piece * 100_000
        for name in OURS:
            assert not TEMPLATES[name].matches(text)
            prefix = "" if name == "plain" else "<answer>" if piece == "<answer>" else None
            assert TEMPLATES[name].answer_prefix(text) == prefix
