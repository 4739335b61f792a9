"""Cutting choices: what was joined in either paper's form comes apart again."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from osler.data.choices import cut_choices
from osler.records import LETTERS

FORMS = {"med_r1": ("{stem} {choices}", ", ", ""), "medvlm_r1": ("{stem}\n{choices}", "\n", " ")}

# Pieces of choice texts that tempt a cutter: commas, letters before brackets, earlier and later letters.
PIECES = ["cyst", "left", ", ", " ", "B)", "(B)", "X)", "(type A)", "C) ", "grade D)", ";", "T2, N0", "A) or"]


def join(form: str, stem: str, choices: list[str]) -> str:
    frame, between, space = FORMS[form]
    joined = between.join(
        f"{letter}){space}{choice}" for letter, choice in zip(LETTERS, choices, strict=False)
    )
    return frame.format(stem=stem, choices=joined)


def hides_the_next_marker(choices: list[str]) -> bool:
    """Whether a choice contains, by bad luck, exactly what ends it in Med-R1's form: no cut can know."""
    bodies = [f"{choice}, " for choice in choices[:-1]] + [choices[-1]]
    marks = [f", {letter})" for letter in LETTERS[1 : len(choices) + 1]]
    return any(
        after[:1].strip() for body, mark in zip(bodies, marks, strict=True) for after in body.split(mark)[1:]
    )


texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map(lambda p: " ".join("".join(p).split()))


@pytest.mark.parametrize("form", FORMS)
@given(
    choices=st.lists(texts.filter(lambda t: t and t[0] not in ",;"), min_size=2, max_size=8), data=st.data()
)
def test_what_was_joined_comes_apart(form: str, choices: list[str], data: st.DataObject) -> None:
    assume(form == "medvlm_r1" or not hides_the_next_marker(choices))
    stem = data.draw(
        st.sampled_from(["What is it?", "Seen (A) or B) here?", "Pick, A, B) or C:", "1. Which"])
    )
    cut = cut_choices(join(form, stem, choices))
    assert cut is not None
    assert cut.choices == tuple(choices)
    assert cut.stem == stem


@pytest.mark.parametrize(
    ("problem", "stem", "choices"),
    [
        ("Organ? A)Liver, B)Kidney", "Organ?", ("Liver", "Kidney")),
        ("Organ?\nA) Liver\nB) Kidney\nC) Gut", "Organ?", ("Liver", "Kidney", "Gut")),
        ("Stage? A)T2, N0, M0, B)T1, N1", "Stage?", ("T2, N0, M0", "T1, N1")),
        ("Which scan? A)PET (CT), B)MRI, C)X)ray", "Which scan?", ("PET (CT)", "MRI", "X)ray")),
        ("Is vitamin A) low? A)Yes, B)No", "Is vitamin A) low?", ("Yes", "No")),
        ("Lack of? A)vitamins (A, B) only, B)iron", "Lack of?", ("vitamins (A, B) only", "iron")),
        ("A)One, B)Two", "", ("One", "Two")),
        ("Two lines\nof stem?\nA) a, B) b\nB) c", "Two lines\nof stem?", ("a, B) b", "c")),
        ("Stem? A) one, B) two, C) three", "Stem?", ("one", "two", "three")),
    ],
)
def test_examples(problem: str, stem: str, choices: tuple[str, ...]) -> None:
    cut = cut_choices(problem)
    assert cut is not None
    assert (cut.stem, cut.choices) == (stem, choices)


@pytest.mark.parametrize(
    "problem",
    ["", "No choices here.", "Only one? A)Yes", "B)No A)Yes", "Empty? A), B)No", "Empty? A)a, B), C)c"],
)
def test_no_choices_is_none_never_a_guess(problem: str) -> None:
    assert cut_choices(problem) is None


def test_all_26_letters_are_walked() -> None:
    choices = [f"value {n}" for n in range(26)]
    cut = cut_choices(join("med_r1", "How many?", choices))
    assert cut is not None
    assert cut.choices == tuple(choices)
    assert not cut.ambiguous


def test_a_marker_inside_a_choice_is_reported_as_ambiguous() -> None:
    cut = cut_choices("Which? A)one, B)two, B)three, C)four")
    assert cut is not None
    assert cut.choices == ("one", "two, B)three", "four")
    assert cut.ambiguous
