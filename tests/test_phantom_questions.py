"""What a phantom asks: closed sets, uniform answers, separate seeds, and nothing for a reader of the text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from osler.audit.blind import blind_accuracy
from osler.errors import BadInput
from osler.evaluate.stats import wilson_interval
from osler.phantom.questions import (
    DATASETS,
    IMAGINGS,
    NUM_CHOICES,
    PARTS,
    Domain,
    draw_questions,
    question_types,
    stream,
)
from osler.records import Modality, QuestionType

MODALITIES = tuple(IMAGINGS)
# The chance of a false alarm in any of the (about 60) uniformity tests is then below one in a thousand;
# the draws are seeded, so a pass stays a pass.
LEAST_P = 1e-5


def attribute_of(question):
    found = [a for a in IMAGINGS[question.modality].attributes if question.text in a.wordings]
    assert len(found) == 1, f"the wording {question.text!r} belongs to {len(found)} attributes"
    return found[0]


def test_all_eight_modalities_are_drawn():
    assert set(MODALITIES) == set(Modality) - {Modality.UNKNOWN}


@pytest.mark.parametrize("modality", MODALITIES)
def test_answer_sets_are_closed_and_distinct(modality):
    for attribute in IMAGINGS[modality].attributes:
        normalised = {value.strip().lower().rstrip(".") for value in attribute.values}
        assert len(normalised) == len(attribute.values) >= NUM_CHOICES
        assert attribute.wordings and attribute.question_type is not QuestionType.UNKNOWN


@pytest.mark.parametrize("modality", MODALITIES)
def test_cells_are_those_of_the_attributes(modality):
    asked = {q.question_type for q in draw_questions(modality, 200, 0, "train")[1]}
    assert asked == set(question_types(modality))


@pytest.mark.parametrize("modality", MODALITIES)
def test_choices_come_from_the_set_of_the_wording_and_the_answer_is_the_truth(modality):
    scenes, questions = draw_questions(modality, 300, 1, "test")
    assert len(questions) == 2 * len(scenes) == len({q.id for q in questions})
    for index, question in enumerate(questions):
        attribute = attribute_of(question)
        assert len(set(question.choices)) == NUM_CHOICES
        assert set(question.choices) <= set(attribute.values)
        assert question.answer == scenes[index // 2].values[attribute.name]
        assert question.question_type is attribute.question_type
        assert question.split == "test" and question.modality is modality
    for first, second in zip(questions[::2], questions[1::2], strict=True):
        assert first.images == second.images
        assert attribute_of(first).name != attribute_of(second).name


@pytest.mark.parametrize("modality", MODALITIES)
def test_answers_wordings_and_letters_are_uniform(modality):
    _, questions = draw_questions(modality, 3000, 2, "train")
    assert chisquare(list(Counter(q.answer_index for q in questions).values())).pvalue > LEAST_P
    for attribute in IMAGINGS[modality].attributes:
        for wording in attribute.wordings:
            asked = [q for q in questions if q.text == wording]
            gold = Counter(q.answer for q in asked)
            shown = Counter(choice for q in asked for choice in q.choices)
            assert chisquare([gold[value] for value in attribute.values]).pvalue > LEAST_P
            if len(attribute.values) > NUM_CHOICES:
                assert chisquare([shown[value] for value in attribute.values]).pvalue > LEAST_P


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_reader_of_the_text_can_only_guess(modality):
    """600 training questions, 5,000 fresh ones, nothing rendered: the blind baseline stays at chance."""
    train = draw_questions(modality, 300, 0, "train")[1]
    test = draw_questions(modality, 2500, 1, "test")[1]
    accuracy = blind_accuracy(train, test)
    interval = wilson_interval(round(accuracy * len(test)), len(test))
    assert interval.high < 1 / NUM_CHOICES + 0.03


def test_questions_are_a_function_of_their_keys():
    first = draw_questions(Modality.MRI, 20, 7, "train")
    assert first == draw_questions(Modality.MRI, 20, 7, "train")
    longer = draw_questions(Modality.MRI, 40, 7, "train")
    assert longer[0][:20] == first[0] and longer[1][:40] == first[1]
    assert first[0] != draw_questions(Modality.MRI, 20, 8, "train")[0]


def test_no_scene_is_shared_between_domains_or_parts():
    seen: dict[int, tuple[Domain, str]] = {}
    for domain in Domain:
        for part in PARTS:
            for seed in range(5):
                for scene in draw_questions(Modality.CT, 400, seed, part, domain)[0]:
                    assert seen.setdefault(scene.nuisance_seed, (domain, part)) == (domain, part)


def test_streams_of_other_keys_differ():
    def start(*key):
        return stream(*key).integers(2**63)

    keys = [
        (modality, purpose, seed, domain)
        for modality in MODALITIES
        for purpose in (*PARTS, "plant")
        for seed in (0, 1, 11, 2**32, 2**64 + 1)
        for domain in Domain
    ]
    assert len({start(*key) for key in keys}) == len(keys)


def test_bad_seed_and_bad_part_are_named():
    with pytest.raises(BadInput, match="seed -1"):
        draw_questions(Modality.CT, 1, -1, "train")
    with pytest.raises(BadInput, match="holdout"):
        draw_questions(Modality.CT, 1, 0, "holdout")


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_page_on_phantoms_lists_every_answer(modality):
    page = Path(__file__).resolve().parents[1] / "docs" / "phantom.md"
    label = DATASETS[modality].removeprefix("Phantom ")
    row = next(
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {label} |")
    )
    for attribute in IMAGINGS[modality].attributes:
        assert f"**{attribute.name}**: {', '.join(attribute.values)}" in row
