from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from osler.audit.blind import INVERSE_PENALTY, blind_accuracy, cross_validated_blind, fit_blind
from osler.errors import BadInput
from osler.evaluate.stats import chance_level, wilson_interval
from osler.records import Question
from released_questions import released_questions

STEMS = ("What organ is shown?", "Which finding is seen here?", "What does this scan show?")
GOLD = ("kidney", "liver cyst", "left lung", "normal brain")
WRONG = tuple(f"{first} {second}" for first in ("odd", "rare", "plain", "mixed") for second in "uvwxyz")


def questions(count: int, seed: int, leak: float, choices: int = 4) -> list[Question]:
    """With probability `leak` the right answer comes from a closed set no wrong one comes from."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        drawn = [str(text) for text in rng.choice(WRONG, choices, replace=False)]
        answer = int(rng.integers(choices))
        if rng.random() < leak:
            drawn[answer] = str(rng.choice(GOLD))
        made.append(
            Question(
                id=f"s{seed}q{number}",
                text=str(rng.choice(STEMS)),
                choices=tuple(drawn),
                answer_index=answer,
                images=(f"/data/Images/{drawn[answer]}/{number}.png",),
            )
        )
    return made


def permuted(question: Question, seed: int) -> Question:
    order = np.random.default_rng(seed).permutation(len(question.choices)).tolist()
    return dataclasses.replace(
        question,
        choices=tuple(question.choices[position] for position in order),
        answer_index=order.index(question.answer_index),
    )


def accuracy(chosen: np.ndarray, asked: list[Question]) -> float:
    return float(np.mean(chosen == [question.answer_index for question in asked]))


def test_scores_equal_those_of_a_pipeline_written_with_scikit_learn() -> None:
    train, test = questions(120, 0, 0.5), questions(60, 1, 0.5)

    def features(row: tuple[str, str]) -> list[str]:
        question_words = sorted(set(re.findall(r"\w+", row[0].lower())))
        words = re.findall(r"\w+", row[1].lower())
        parts = sorted({*words, *(" ".join(pair) for pair in pairwise(words))})
        return [f"{q}|{part}" for q in ("", *question_words) for part in parts]

    vectorizer = TfidfVectorizer(analyzer=features)
    rows = [(q.text, choice) for q in train for choice in q.choices]
    right = [position == q.answer_index for q in train for position in range(len(q.choices))]
    regression = LogisticRegression(C=INVERSE_PENALTY, solver="liblinear", tol=1e-8)
    regression.fit(vectorizer.fit_transform(rows), right)
    expected = regression.decision_function(
        vectorizer.transform([(q.text, choice) for q in test for choice in q.choices])
    )
    found = np.concatenate(fit_blind(train).scores(test))
    assert found == pytest.approx(expected, abs=0.02)
    assert np.corrcoef(found, expected)[0, 1] > 0.99999


def test_it_finds_a_planted_shortcut_and_stays_at_chance_without_one() -> None:
    assert blind_accuracy(questions(600, 0, 1.0), questions(400, 1, 1.0)) > 0.98
    none = blind_accuracy(questions(2000, 2, 0.0), questions(3000, 3, 0.0))
    bounds = wilson_interval(round(none * 3000), 3000, 0.999)
    assert bounds.low <= 0.25 <= bounds.high


def test_it_finds_a_shortcut_that_lies_in_question_and_choice_together() -> None:
    """Every choice is right equally often; only the pair with the question's word tells."""
    pairs = {"dark": "fluid", "bright": "bone", "grey": "muscle", "mixed": "fat"}
    rng = np.random.default_rng(0)

    def draw(number: int) -> Question:
        word = str(rng.choice(list(pairs)))
        choices = tuple(str(text) for text in rng.permutation(list(pairs.values())))
        text = f"What is the {word} area?"
        return Question(id=str(number), text=text, choices=choices, answer_index=choices.index(pairs[word]))

    made = [draw(number) for number in range(600)]
    assert blind_accuracy(made[:300], made[300:]) > 0.98


def test_neither_the_order_of_choices_nor_the_image_matters() -> None:
    train, test = questions(300, 0, 0.5), questions(200, 1, 0.5)
    model = fit_blind(train)
    other = fit_blind([permuted(question, 7) for question in train])
    assert np.array_equal(model.weights, other.weights)
    texts = [q.choices[c] for q, c in zip(test, model.predict(test), strict=True)]
    turned = [permuted(question, 11) for question in test]
    assert texts == [q.choices[c] for q, c in zip(turned, other.predict(turned), strict=True)]
    bare = [dataclasses.replace(question, images=(), dataset="x", source="y") for question in test]
    assert np.array_equal(model.predict(bare), model.predict(test))


def test_a_shortcut_in_the_position_or_the_path_is_not_used() -> None:
    def first(made: list[Question]) -> list[Question]:
        return [dataclasses.replace(q, answer_index=0, images=(f"/{q.choices[0]}/right.png",)) for q in made]

    share = blind_accuracy(first(questions(1500, 0, 0.0)), first(questions(2000, 1, 0.0)))
    bounds = wilson_interval(round(share * 2000), 2000, 0.999)
    assert bounds.low <= 0.25 <= bounds.high


def test_the_same_questions_give_the_same_model() -> None:
    train, test = questions(200, 0, 0.5), questions(100, 1, 0.5)
    first, second = fit_blind(train), fit_blind(train)
    assert np.array_equal(first.weights, second.weights) and first.intercept == second.intercept
    assert np.array_equal(first.predict(test), second.predict(test))
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.intercept = 0.0  # type: ignore[misc]


def test_string_hashing_leaves_no_trace() -> None:
    code = (
        "from test_blind import questions; from osler.audit.blind import fit_blind;"
        "m = fit_blind(questions(80, 0, 0.5)); print(m.weights.tolist(), m.predict(questions(50, 1, 0.5)))"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1]


def test_ties_are_broken_evenly_whatever_the_position() -> None:
    model = fit_blind(questions(50, 0, 1.0))
    unknown = [
        Question(id=str(n), text="Huh?", choices=("aaa", "bbb", "ccc", "ddd"), answer_index=0)
        for n in range(4000)
    ]
    chosen = model.predict(unknown)
    assert max(abs(np.bincount(chosen, minlength=4) / 4000 - 0.25)) < 0.03
    turned = [dataclasses.replace(q, choices=q.choices[::-1]) for q in unknown]
    assert np.array_equal(model.predict(turned), 3 - chosen)


def test_texts_without_words_and_any_number_of_choices_are_answered() -> None:
    train = [
        Question(id="1", text="?", choices=("+", "-"), answer_index=0),
        Question(id="2", text="", choices=("+", "-", ""), answer_index=0),
        Question(id="3", text="¿Qué?", choices=tuple("abcdefghijklmnopqrstuvwxyz"), answer_index=25),
    ]
    model = fit_blind(train)
    assert [len(scores) for scores in model.scores(train)] == [2, 3, 26]
    assert model.predict(train).tolist() == [0, 0, 25]
    assert model.predict([]).shape == (0,)
    assert model.scores([]) == []


def test_nothing_to_fit_or_to_test_on_is_said() -> None:
    with pytest.raises(BadInput, match="no questions to fit on"):
        fit_blind([])
    with pytest.raises(BadInput, match="no questions to test on"):
        blind_accuracy(questions(5, 0, 1.0), [])


def test_cross_validation_never_fits_on_the_cluster_it_answers() -> None:
    """Each image has its own secret word that marks the right choice: only its own questions could tell."""
    rng = np.random.default_rng(0)
    made, images = [], []
    for number in range(800):
        answer, image = int(rng.integers(4)), number // 4
        choices = [f"word{n}" for n in rng.integers(0, 10**9, 4)]
        choices[answer] = f"secret{image}"
        made.append(Question(id=str(number), text="What?", choices=tuple(choices), answer_index=answer))
        images.append(f"image {image}")
    honest = accuracy(cross_validated_blind(made, images), made)
    bounds = wilson_interval(round(honest * 800), 800, 0.999)
    assert bounds.low <= 0.25 <= bounds.high
    assert accuracy(cross_validated_blind(made, [str(n) for n in range(800)]), made) > 0.9


def test_cross_validation_answers_every_question_and_finds_the_shortcut() -> None:
    made = questions(300, 0, 1.0)
    clusters = [number // 3 for number in range(300)]
    chosen = cross_validated_blind(made, clusters, folds=5)
    assert accuracy(chosen, made) > 0.95
    assert np.array_equal(chosen, cross_validated_blind(made, clusters, folds=5))
    order = np.random.default_rng(0).permutation(300).tolist()
    again = cross_validated_blind([made[i] for i in order], [clusters[i] for i in order], folds=5)
    assert np.mean(again == chosen[order]) > 0.98


def test_cross_validation_needs_enough_clusters() -> None:
    made = questions(8, 0, 1.0)
    with pytest.raises(BadInput, match="4 given"):
        cross_validated_blind(made, [0, 0, 1, 1, 2, 2, 3, 3], folds=5)
    with pytest.raises(ValueError, match="8 questions but 2 cluster names"):
        cross_validated_blind(made, [0, 1])


@pytest.mark.parametrize(
    ("modality", "num_train", "num_test", "audited"),
    [("Dermoscopy", 5373, 1306, 97.01), ("Fundus", 4300, 1098, 96.17), ("X-Ray", 6301, 1615, 95.36)],
)
def test_it_reproduces_an_audit_by_other_code(
    modality: str, num_train: int, num_test: int, audited: float
) -> None:
    """The unpublished audit of docs/decisions/0007-blind-baseline.md; all modalities: docs/lab_log.md."""
    train, test = released_questions("train", modality), released_questions("test", modality)
    assert (len(train), len(test)) == (num_train, num_test)
    assert 100 * blind_accuracy(train, test) == pytest.approx(audited, abs=1.0)


def test_shuffled_gold_leaves_nothing_but_chance() -> None:
    """What is learnt then is noise; a leak in the pipeline itself would show."""
    rng = np.random.default_rng(0)
    train = [
        dataclasses.replace(question, answer_index=int(rng.integers(len(question.choices))))
        for question in released_questions("train", "X-Ray")
    ]
    test = released_questions("test", "X-Ray")
    chance = chance_level([len(question.choices) for question in test])
    # The distractors are far from independent between questions, hence more than binomial noise.
    assert abs(blind_accuracy(train, test) - chance) < 4 * math.sqrt(chance * (1 - chance) / len(test))
