"""Variants of questions and views of images: pure, deterministic, and what they claim to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from osler.data.views import NOISE_LEVELS, Blank, Noise
from osler.errors import BadInput
from osler.evaluate.variants import (
    NO_IMAGE,
    NO_PARTNER,
    choices_only,
    parse_ablations,
    rotate_choices,
    swap_images,
    without_image,
)
from osler.prompts import TEMPLATES, question_only
from osler.records import Modality, Question, QuestionType


def question(i: int, answer: int = 0, image: str | None = None, **changes: object) -> Question:
    values = {
        "id": f"q{i}",
        "text": "Which organ?",
        "choices": ("Liver", "Lung", "Spleen", "Kidney"),
        "answer_index": answer,
        "images": (f"{i}.png" if image is None else image,),
        "modality": Modality.CT,
        "question_type": QuestionType.ANATOMY_IDENTIFICATION,
    }
    return Question(**{**values, **changes})  # type: ignore[arg-type]


def digests(questions: list[Question]) -> dict[str, str]:
    return {q.id: "+".join(q.images) for q in questions}


def test_names_of_ablations() -> None:
    assert parse_ablations(" noise, blank-image,noise") == ("blank-image", "noise")
    with pytest.raises(BadInput, match="did you mean blank-image"):
        parse_ablations("blank")
    with pytest.raises(BadInput, match="at least one"):
        parse_ablations(",")


@given(st.integers(2, 6), st.data())
def test_over_all_rotations_the_answer_stands_once_everywhere(count: int, data: st.DataObject) -> None:
    asked = question(0, data.draw(st.integers(0, count - 1)), choices=tuple("abcdef"[:count]))
    turned = [rotate_choices(asked, by) for by in range(count)]
    assert turned[0] == asked
    assert sorted(q.answer_index for q in turned) == list(range(count))
    assert {q.answer for q in turned} == {asked.answer}
    assert all(Counter(q.choices) == Counter(asked.choices) for q in turned)
    for by, other in enumerate(turned):
        # A choice in place c of rotation `by` stands in place c + by of the given order.
        assert [asked.choices[(c + by) % count] for c in range(count)] == list(other.choices)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_what_is_taken_away_is_not_in_the_prompt(template: str) -> None:
    asked = question(0, text="Which organ glows?")
    form = TEMPLATES[template]
    bare = form.user_text(choices_only(asked))
    assert "glows" not in bare and "Kidney" in bare and choices_only(asked).images == ()
    # Nothing but the stem and the space behind it is gone.
    whole = form.user_text(asked)
    assert whole.replace("Which organ glows?\n", "").replace("Which organ glows? ", "") == bare
    alone = question_only(form).user_text(without_image(asked))
    assert "glows" in alone and not any(c in alone for c in asked.choices)
    assert "A)" not in alone and "letter" not in alone
    assert (question_only(form).form == "plain") == (form.form == "plain")


def test_a_swap_is_a_derangement_where_counts_allow() -> None:
    asked = [question(i, i % 4) for i in range(40)]
    swapped, alone = swap_images(asked, digests(asked))
    assert alone == {} and len(swapped) == 40
    assert Counter(q.images for q in swapped) == Counter(q.images for q in asked), "every image once"
    by_image = {q.images: q for q in asked}
    for old, new in zip(asked, swapped, strict=True):
        assert replace(new, images=old.images) == old, "nothing else changes"
        assert by_image[new.images].answer != old.answer and new.images != old.images


def test_a_swap_is_a_function_of_the_seed_alone() -> None:
    asked = [question(i, i % 3) for i in range(30)]
    first = {q.id: q.images for q in swap_images(asked, digests(asked), seed=1)[0]}
    again = {q.id: q.images for q in swap_images(asked[::-1], digests(asked), seed=1)[0]}
    assert first == again
    assert first != {q.id: q.images for q in swap_images(asked, digests(asked), seed=2)[0]}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1), st.booleans()), max_size=25),
    st.integers(0, 5),
)
def test_no_partner_only_where_there_is_none(rows: list[tuple[int, int, int, bool]], seed: int) -> None:
    """Against the slow version: look at every other question."""
    asked = [
        question(
            i,
            answer,
            f"{image}.png",
            modality=(Modality.CT, Modality.MRI)[modality],
            text="Which organ?" if same_stem else f"Which organ, in case {i % 2}?",
        )
        for i, (answer, image, modality, same_stem) in enumerate(rows)
    ]
    swapped, alone = swap_images(asked, digests(asked), seed)
    assert {q.id for q in swapped} | set(alone) == {q.id for q in asked}
    found = {q.id: q for q in swapped}
    for one in asked:
        fitting = [
            o
            for o in asked
            if o.modality == one.modality and o.images != one.images and o.answer != one.answer
        ]
        if not fitting:
            assert alone[one.id] == NO_PARTNER
            continue
        same_stem = [o for o in fitting if o.text == one.text]
        assert found[one.id].images in {o.images for o in same_stem or fitting}


def test_no_swap_without_an_image_across_types_or_between_equal_answers() -> None:
    asked = [
        question(0, 0),
        question(1, 1, images=()),
        question(2, 1, question_type=QuestionType.DISEASE_DIAGNOSIS),
        question(3, 0),
        question(4, 2, "0.png"),
        question(5, 3, images=("a.png", "b.png")),
    ]
    swapped, alone = swap_images(asked, digests(asked))
    assert alone == {"q1": NO_IMAGE, "q2": NO_PARTNER, "q5": NO_PARTNER, "q0": NO_PARTNER}
    assert {q.id: q.images for q in swapped} == {"q3": ("0.png",), "q4": ("3.png",)}


def test_views() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(90, 166, (80, 120, 3), dtype=np.uint8))
    blank = Blank()
    assert set(np.asarray(blank.show(image, "d")).ravel().tolist()) == {128}
    assert blank.show(image, "d").size == image.size
    assert blank.key((4, 5), "d") == blank.key((4, 5), "e") != blank.key((5, 4), "d")
    pixels = np.asarray(image).astype(int)
    assert (np.asarray(Noise(0).show(image, "d")) == pixels).all()
    fields = {}
    for name, sigma in NOISE_LEVELS.items():
        noisy = np.asarray(Noise(sigma).show(image, "d")).astype(int)
        assert (np.asarray(Noise(sigma).show(image, "d")) == noisy).all(), "the same again"
        assert (np.asarray(Noise(sigma).show(image, "e")) != noisy).any(), "another file, another field"
        fields[name] = noisy - pixels
    faint = fields["noise-faint"].ravel() / NOISE_LEVELS["noise-faint"]
    assert abs(faint.mean()) < 0.02 and faint.std() == pytest.approx(1, abs=0.02)
    mild = fields["noise-mild"].ravel() / NOISE_LEVELS["noise-mild"]
    assert np.corrcoef(faint, mild)[0, 1] > 0.99, "one field on every level"
    assert np.abs(fields["noise-drowned"]).mean() > np.abs(fields["noise-strong"]).mean()
    assert Noise(8).key((1, 1), "d") != Noise(24).key((1, 1), "d") != Noise(24).key((1, 1), "e")
