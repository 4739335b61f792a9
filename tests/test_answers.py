from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.answers import extract_answer, outcome_of
from osler.prompts import TEMPLATES
from osler.records import LETTERS, Extraction, Outcome
from released_questions import released_questions

CHOICES = ("Fracture", "Kidney", "Normal", "CT")
A, B, C, D = range(4)

EXACT = [
    ("<think>The rim is dark.</think><answer>C</answer>", C),
    ("<think>\nThe rim is dark.\n</think>\n<answer>C</answer>\n", C),
    ("<answer>C</answer>", C),
    ("<answer> C </answer>", C),
    ("<answer>\nC\n</answer>", C),  # 0 in Med-R1 @88d76c7 grpo_vqa.py:76: no DOTALL
    ("<answer>B</answer>", B),  # not inferred by VLMEvalKit @134b4ea matching_util.py, can_infer_option
    ("<answer>B</answer><think>because</think>", B),
    ("<answer>B</answer><think>because it is cut o", B),
    ("Sure. <answer>B</answer> I hope that helps.", B),
    ("<think></think><answer>C</answer>", C),
    ("<think>The answer is A.</think><answer>C</answer>", C),
    ("B", B),
    (" B\n", B),
    ("A", A),
]

LENIENT = [
    ("<answer>c</answer>", C, "case"),
    ("<ANSWER>C</ANSWER>", C, "case"),
    ("b", B, "case"),
    ("<answer>(c)</answer>", C, "case"),
    ("<answer>C)</answer>", C, "punctuation"),
    ("<answer>(C)</answer>", C, "punctuation"),
    ("<answer>**C**</answer>", C, "punctuation"),
    ("<answer>Option C.</answer>", C, "punctuation"),
    ("C.", C, "punctuation"),
    ("<answer>C. Normal</answer>", C, "letter_and_text"),
    ("<answer>D) CT</answer>", D, "letter_and_text"),  # 0 in MedVLM-R1 @2eee421 grpo.py:103: two letters
    ("(B) kidney", B, "letter_and_text"),
    ("B Kidney", B, "letter_and_text"),
    ("B: Kidney.", B, "letter_and_text"),
    ("<answer>Kidney</answer>", B, "choice_text"),
    ("<answer>CT</answer>", D, "choice_text"),
    ("kidney.", B, "choice_text"),
    ("Normal", C, "choice_text"),
    ("The answer is C", C, "final_statement"),
    ("The correct answer is (C).", C, "final_statement"),
    ("The scan is clear.\nAnswer: C", C, "final_statement"),
    ("**Answer:** C", C, "final_statement"),
    ("**Answer: C**", C, "final_statement"),
    ("Final answer: C. Normal", C, "final_statement"),
    ("The answer is kidney.", B, "final_statement"),
    ("The answer is not A. The answer is B.", B, "final_statement"),
    ("The answer is B because the cortex is thin.", B, "final_statement"),
    (
        "The answer is B.\n\nExplanation: A bean-shaped organ is seen, no fracture or mass.",
        B,
        "final_statement",
    ),
    ("B is correct", B, "final_statement"),
    ("Option B is the correct answer.", B, "final_statement"),
    ("I would choose B.", B, "final_statement"),
    ("A) Fracture\nB) Kidney\nC) Normal\nD) CT\nAnswer: B", B, "final_statement"),
    ("<answer>The answer is C.</answer>", C, "final_statement"),
    ("B</answer>", B, "half_tag"),
    ("<answer>B) Kidney.", B, "half_tag"),
    ("<answer>B</", B, "half_tag"),
    ("<answer>B\n", B, "half_tag"),
    ("<think>x</think><answer>C</answer><answer>C</answer>", C, "repeated"),
    ("<think>so <answer>A</answer></think><answer>C</answer>", C, "outside_thinking"),
    ("<think>The rim is dark.</think>C", C, "bare_letter"),
    ("<think>The rim is dark.</think>\n(C)", C, "bare_letter"),
    ("The scan shows a kidney.\n\nB", B, "own_line"),
    ("B) Kidney\n\nThe scan shows it well.", B, "own_line"),
]

NOTHING = [
    "",
    " \n\t ",
    "<answer></answer>",
    "<answer> </answer>",
    "none of the above",  # MedEvalKit @9b12e3b utils/utils.py:129 takes the most similar choice
    "It is not normal, B or D",
    "normal findings, nothing",
    "The answer is not A",
    "The answer is not A.",
    "I don't think the answer is A.",
    "If the answer is A, the rim is dark.",
    "The wrong answer is A.",
    "Neither A nor B is correct",
    "A or B is correct",
    "A fracture is seen",
    "The answer is A lesion",
    "Abnormal",
    "<answer>Abnormal</answer>",
    "abnormal, no",
    "I see a mass.",
    "The answer is A?",
    "Is it A?",
    "The answer is A or B",
    "The answer is A, B or C",
    "The answer is A/B",
    "The answer is B. No, wait, it is C.",
    "The answer is B, but C is possible.",
    "The answer is B. Actually the rim is dark.",
    "The answer is A. The answer is B.",
    "The answer is B) Normal because of the rim",
    "It is certainly not:\nB",
    "Choose A, B, C or D.",
    "Fracture Kidney Normal CT",
    "A) Fracture\nB) Kidney\nC) Normal\nD) CT",
    "A\nB\nC\nD",
    "Answer: A) Fracture, B) Kidney, C) Normal, D) CT",
    "<answer>A) Fracture\nB) Kidney\nC) Normal\nD) CT</answer>",
    "<answer>A, B, C or D</answer>",
    "<answer>A B</answer>",
    "<answer>AB</answer>",
    "<answer>A or B</answer>",
    "<answer>C. Kidney</answer>",
    "<answer>E</answer>",
    "<answer>e</answer>",
    "E",
    "<answer>MRI</answer>",
    "<answer>A fracture is seen</answer>",
    "<think>x</think><answer>C</answer><answer>A</answer>",  # both released codes pay it in full
    "<answer>C</answer><answer>what</answer>",
    "<answer><answer>C</answer></answer>",
    "<answer>C</answer></answer>",
    "<think>The answer is C. <answer>C</answer></think>",
    "<think><think>x</think><answer>C</answer></think>",
    "<answer>C</answer></think>",
    "<think>cut <answer>C</answer>",
    "<think>The answer is C.",
    "<answer>B",  # may be the beginning of "Benign"
    "<answer>Kidn",
    "<answer>Ki</",
    "The answer is <think>B</think>",
]


@pytest.mark.parametrize(("text", "index"), EXACT)
def test_exact(text: str, index: int) -> None:
    found = extract_answer(text, CHOICES)
    assert (found.index, found.how) == (index, "exact")
    assert found.span is not None and text[slice(*found.span)] == LETTERS[index]


@pytest.mark.parametrize(("text", "index", "rule"), LENIENT)
def test_lenient(text: str, index: int, rule: str) -> None:
    found = extract_answer(text, CHOICES)
    assert (found.index, found.how) == (index, f"lenient:{rule}")
    assert found.span is not None
    shown = text[slice(*found.span)]
    assert LETTERS[index] in shown.upper() or CHOICES[index].lower() in shown.lower()


@pytest.mark.parametrize("text", NOTHING)
def test_nothing(text: str) -> None:
    assert extract_answer(text, CHOICES) == Extraction(None, "none", None)


def test_yes_and_no_are_read_as_whole_words_only() -> None:
    for text in ("abnormal", "nothing", "I do not know", "No, there is one", "Yes or no"):
        assert extract_answer(text, ("Yes", "No")).index is None
    assert extract_answer("No", ("Yes", "No")).index == 1
    assert extract_answer("<answer>yes.</answer>", ("Yes", "No")).index == 0


def test_choices_that_differ_in_case_only_are_told_apart_as_written_or_not_at_all() -> None:
    choices = ("Thyroid Gland", "Thyroid gland", "Liver")
    assert extract_answer("<answer>Thyroid gland</answer>", choices).index == 1
    assert extract_answer("<answer>thyroid gland</answer>", choices).index is None
    assert extract_answer("<answer>A) thyroid gland</answer>", choices).index == 0
    assert extract_answer("<answer>Liver</answer>", ("Liver", "Liver", "Lung")).index is None


def test_choices_that_are_letters_or_begin_with_one() -> None:
    assert extract_answer("<answer>B</answer>", ("B", "A")).index == 1, "the instruction asks for the letter"
    assert extract_answer("<answer>b</answer>", ("B", "A")).index is None, "letter and text disagree"
    bacteria = ("E. coli", "A. baumannii", "S. aureus")
    assert extract_answer("<answer>E. coli</answer>", bacteria).index == 0
    assert extract_answer("<answer>A. baumannii</answer>", bacteria).index == 1
    assert extract_answer("<answer>B. A. baumannii</answer>", bacteria).index == 1


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("count", [2, 3, 4, 9, 26])
def test_what_a_template_writes_is_read_back_exactly(name: str, count: int) -> None:
    template = TEMPLATES[name]
    choices = tuple(f"Finding {number}" for number in range(count))
    for index, letter in enumerate(LETTERS[:count]):
        text = template.write(letter, "A or B? The answer is A." if template.thinks else "")
        assert extract_answer(text, choices).index == index
        assert extract_answer(text, choices).how == "exact"
        prefix = template.answer_prefix(text)
        assert prefix is not None and extract_answer(text, choices).span == (len(prefix), len(prefix) + 1)
    if count < 26:
        outside = template.write(LETTERS[count], "Seen." if template.thinks else "")
        assert extract_answer(outside, choices).index is None


@pytest.mark.parametrize("modality", ["CT", "X-Ray", "ultrasound", "Fundus"])
def test_the_gold_answer_of_every_released_question_is_read_back(modality: str) -> None:
    for question in released_questions("test", modality):
        letter, index = question.answer_letter, question.answer_index
        for template in (TEMPLATES["think"], TEMPLATES["nothink"], TEMPLATES["plain"]):
            text = template.write(letter, question.answer if template.thinks else "")
            found = extract_answer(text, question.choices)
            assert (found.index, found.how) == (index, "exact"), question
        for text in (
            f"<answer>{letter}) {question.answer}</answer>",
            f"{letter}. {question.answer}",
            f"The answer is {letter}.",
        ):
            assert extract_answer(text, question.choices).index == index, (text, question)
        assert extract_answer(question.answer, question.choices).index == index
        listing = "\n".join(f"{LETTERS[n]}) {choice}" for n, choice in enumerate(question.choices))
        assert extract_answer(listing, question.choices).index is None
        assert extract_answer(question.text, question.choices).index is None


FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", "<Answer>", "<", "</"),
        *("A", "B", "C", "D", "E", "b", "Kidney", "Fracture", "A) Fracture", "normal", "Abnormal"),
        *(
            " ",
            "\n",
            ".",
            ",",
            "(",
            ")",
            "**",
            " is ",
            " or ",
            "not ",
            "The answer is ",
            "answer: ",
            " is correct",
        ),
    ]
)


def slow_exact(text: str) -> int | None:
    """The definition of exact, written the slow way."""
    if text.strip() in tuple("ABCD"):
        return "ABCD".index(text.strip())
    everywhere = re.findall(r"</?answer>", text, re.IGNORECASE)
    outside = re.sub(r"(?s)<think>.*?(?:</think>|\Z)", "\n", text)
    if "</think>" in outside:
        outside = outside[outside.rindex("</think>") + len("</think>") :]
    found = re.search(r"<answer>\s*([A-D])\s*</answer>", outside)
    return "ABCD".index(found.group(1)) if found and everywhere == ["<answer>", "</answer>"] else None


@settings(max_examples=1500, deadline=None)
@given(st.lists(FRAGMENTS, max_size=14))
def test_exact_is_its_definition_and_every_reading_points_into_the_text(parts: list[str]) -> None:
    text = "".join(parts)
    found = extract_answer(text, CHOICES)
    assert (found.index if found.how == "exact" else None) == slow_exact(text)
    if found.index is None:
        assert (found.how, found.span) == ("none", None)
        return
    assert found.span is not None and 0 <= found.span[0] < found.span[1] <= len(text)
    shown = text[slice(*found.span)]
    assert LETTERS[found.index] in shown.upper() or CHOICES[found.index].lower() in shown.lower()
    opened = text.rfind("<think>", 0, found.span[0])
    assert opened < 0 or "</think>" in text[opened : found.span[0]], "nothing is read inside the reasoning"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(max_size=20), min_size=2, max_size=26))
def test_any_text_and_any_choices_are_survived(text: str, choices: list[str]) -> None:
    found = extract_answer(text, choices)
    assert found.index is None or 0 <= found.index < len(choices)
    assert isinstance(outcome_of(found, 0, False, text), Outcome)


@given(st.lists(st.sampled_from(["lung", "shadow", "seen", "dense", "is", "the", "\n", "."]), max_size=20))
def test_prose_without_letters_or_choices_is_never_an_answer(words: list[str]) -> None:
    assert extract_answer(" ".join(words), CHOICES).index is None


@settings(max_examples=40, deadline=None)
@given(st.lists(FRAGMENTS, min_size=1, max_size=6))
def test_huge_repetitive_text_is_read_by_the_same_definition(parts: list[str]) -> None:
    """Anything worse than linear in the text would hang here."""
    unit = "".join(parts)
    text = unit * (200_000 // len(unit) + 1)
    found = extract_answer(text, CHOICES)
    assert (found.index if found.how == "exact" else None) == slow_exact(text)
    right = found.index if found.index is not None else A
    wanted = Outcome.CORRECT if found.index is not None else Outcome.TRUNCATED
    assert outcome_of(found, right, True, text) is wanted


@pytest.mark.parametrize(
    "unit",
    ["<answer>", "</answer>", "<think>", "</think>", " ", "\n", "(((", "answer ", "answer is ", "I cannot "],
)
def test_a_million_adversarial_characters_are_no_answer(unit: str) -> None:
    assert extract_answer(unit * (1_000_000 // len(unit)), CHOICES).index is None


def read_outcome(text: str, truncated: bool = False) -> Outcome:
    return outcome_of(extract_answer(text, CHOICES), B, truncated, text)


def test_the_extraction_decides_and_truncation_comes_after_it() -> None:
    assert read_outcome("<answer>B</answer>") is Outcome.CORRECT
    assert read_outcome("<answer>A</answer>") is Outcome.WRONG
    assert read_outcome("<answer>B</answer><think>long", truncated=True) is Outcome.CORRECT
    assert read_outcome("<answer>A</answer><think>long", truncated=True) is Outcome.WRONG
    assert read_outcome("<think>long", truncated=True) is Outcome.TRUNCATED
    assert read_outcome("<answer>Kidn", truncated=True) is Outcome.TRUNCATED
    assert read_outcome("something") is Outcome.UNPARSED
    assert read_outcome("") is Outcome.UNPARSED


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't provide a diagnosis.",
        "I am unable to view the image.",
        "Sorry, I cannot help with that.",
        "As an AI language model, I do not interpret scans.",
        "I'm not a doctor.",
        "<think>Hm.</think>I won’t give medical advice.",
    ],
)
def test_refusals_where_nothing_was_read(text: str) -> None:
    assert read_outcome(text) is Outcome.REFUSED
    assert read_outcome(text, truncated=True) is Outcome.REFUSED
    assert read_outcome(f"{text} <answer>B</answer>") is Outcome.CORRECT


@pytest.mark.parametrize(
    "text",
    [
        "I cannot see any fracture.",
        "The lesion cannot provide contrast.",
        "<think>I cannot answer this",
        "Nothing is seen that could help.",
    ],
)
def test_findings_are_not_refusals(text: str) -> None:
    assert read_outcome(text) is Outcome.UNPARSED
