"""The blind baseline: what the words of question and choices give away without any image.

Each choice of a question is one row: TF-IDF over the words and word pairs of the choice and over their
crosses with the words of the question, then one logistic regression for "is this the right choice"; the
scores are compared within the question (docs/decisions/0007-blind-baseline.md). Neither the position of a
choice, nor an image, nor an image path is ever seen: permuting the choices permutes the scores and changes
nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.errors import BadInput
from osler.records import Question

# Inverse L2 penalty. Chosen so that the seven figures of the earlier audit in
# docs/decisions/0007-blind-baseline.md come out (all within 0.3 points); 1 costs two points on dermoscopy, 50
# changes no figure by more than half a point.
INVERSE_PENALTY = 10.0

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class BlindModel:
    """A fitted blind baseline; nothing in it changes after `fit_blind`.

    A feature is a pair (question word or none, choice word or word pair), written as one integer:
    question word number * stride + choice word number, where question word 0 means none. `features`
    [num_features] holds them in ascending order; `idf` and `weights` [num_features] belong to them.
    """

    question_words: dict[str, int]
    choice_words: dict[str, int]
    features: NDArray[np.int64]
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]
    intercept: float

    def scores(self, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
        """One array [num_choices] per question: log odds that a choice is right, taken on its own."""
        if not questions:
            return []
        pairs, pair_of = _pairs(questions, [range(len(question.choices)) for question in questions])
        keys, lengths = _feature_keys(pairs, self.question_words, self.choice_words)
        of_pairs = _weighted(keys, lengths, self.features, self.idf) @ self.weights + self.intercept
        ends = np.cumsum([len(question.choices) for question in questions])
        return np.split(of_pairs[pair_of], ends[:-1])

    def predict(self, questions: Sequence[Question]) -> NDArray[np.int64]:
        """The chosen position for each question, [num_questions].

        Choices with equal scores (mostly: no word of theirs was ever seen) are told apart by a digest of
        question id and choice text, so that the choice does not depend on the order in which they stand.
        """
        chosen = [
            best_choice(question, scores)
            for question, scores in zip(questions, self.scores(questions), strict=True)
        ]
        return np.array(chosen, dtype=np.int64)


def fit_blind(questions: Sequence[Question]) -> BlindModel:
    """Fit the baseline on questions with their answers; the same questions give the same model.

    Raises `BadInput` where there is nothing to fit on.
    """
    from sklearn.linear_model import LogisticRegression

    if not questions:
        raise BadInput("blind baseline: no questions to fit on; name a data set with training questions")
    # In the digest's order the fit cannot depend, not even by rounding, on where the right choice stood.
    orders = [sorted(range(len(question.choices)), key=partial(_digest, question)) for question in questions]
    pairs, pair_of = _pairs(questions, orders)
    # Sorted, so that neither the order of the words nor Python's string hashing numbers the features.
    asked = sorted(set[str]().union(*map(_question_words, {text for text, _ in pairs})))
    offered = sorted(set[str]().union(*map(_choice_words, {choice for _, choice in pairs})))
    question_words = {word: number for number, word in enumerate(asked, start=1)}
    choice_words = {word: number for number, word in enumerate(offered)}
    keys, lengths = _feature_keys(pairs, question_words, choice_words)
    features, feature_of = np.unique(keys, return_inverse=True)
    counts = np.bincount(feature_of, weights=np.repeat(np.bincount(pair_of), lengths))
    idf = np.log((1 + len(pair_of)) / (1 + counts)) + 1
    right = np.concatenate(
        [np.array(order) == question.answer_index for question, order in zip(questions, orders, strict=True)]
    )
    regression = LogisticRegression(C=INVERSE_PENALTY, solver="liblinear", max_iter=1000)
    regression.fit(_weighted(keys, lengths, features, idf)[pair_of], right)
    return BlindModel(
        question_words, choice_words, features, idf, regression.coef_[0], float(regression.intercept_[0])
    )


def blind_accuracy(train: Sequence[Question], test: Sequence[Question]) -> float:
    """Share of `test` that the baseline fitted on `train` answers right, from 0 to 1."""
    if not test:
        raise BadInput("blind baseline: no questions to test on")
    chosen = fit_blind(train).predict(test)
    return float(np.mean(chosen == [question.answer_index for question in test]))


def cross_validated_blind(
    questions: Sequence[Question], clusters: Sequence[Hashable], folds: int = 5
) -> NDArray[np.int64]:
    """The chosen position for each question, [num_questions], by a model fitted on the other folds.

    `clusters` names the cluster (image or subject) of each question: a cluster lies in one fold whole.
    The fold of a cluster depends on its name alone. Figures from this are to be marked as cross-validated.
    Raises `BadInput` where there are fewer clusters than folds.
    """
    if len(clusters) != len(questions):
        raise ValueError(f"{len(questions)} questions but {len(clusters)} cluster names")
    names = sorted(set(clusters), key=lambda name: blake2b(repr(name).encode()).digest())
    if not 2 <= folds <= len(names):
        raise BadInput(
            f"blind baseline: {folds} folds need at least 2 folds and {folds} clusters; {len(names)} given"
        )
    fold_of = {name: position % folds for position, name in enumerate(names)}
    fold = np.array([fold_of[name] for name in clusters])
    chosen = np.empty(len(questions), dtype=np.int64)
    for held_out in range(folds):
        model = fit_blind([questions[index] for index in np.flatnonzero(fold != held_out).tolist()])
        inside = np.flatnonzero(fold == held_out)
        chosen[inside] = model.predict([questions[index] for index in inside.tolist()])
    return chosen


def best_choice(question: Question, scores: Sequence[float] | NDArray[np.float64]) -> int:
    """The position with the highest score; of equal ones the same text, in whatever order they stand."""
    highest = max(scores)
    tied = [position for position, score in enumerate(scores) if score == highest]
    return tied[0] if len(tied) == 1 else min(tied, key=partial(_digest, question))


def _words(text: str) -> list[str]:
    """Lower-case words; a text of signs alone ("+") counts as one word."""
    return _WORD.findall(text.lower()) or [text.strip()]


@lru_cache(maxsize=1 << 16)
def _question_words(text: str) -> frozenset[str]:
    return frozenset(_words(text))


@lru_cache(maxsize=1 << 16)
def _choice_words(choice: str) -> frozenset[str]:
    words = _words(choice)
    return frozenset([*words, *(f"{first} {second}" for first, second in pairwise(words))])


def _digest(question: Question, position: int) -> bytes:
    return blake2b(f"{question.id}\0{question.choices[position]}".encode(), digest_size=16).digest()


def _pairs(
    questions: Sequence[Question], orders: Sequence[Sequence[int]]
) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """The distinct (stem, choice) pairs, and which of them each choice is: all choices one after the other.

    `orders` gives the order of the choices within each question. Half of the choices of the released files
    are the same as others.
    """
    numbers: dict[tuple[str, str], int] = {}
    pair_of = [
        numbers.setdefault((question.text, question.choices[position]), len(numbers))
        for question, order in zip(questions, orders, strict=True)
        for position in order
    ]
    return list(numbers), np.array(pair_of, dtype=np.int64)


def _feature_keys(
    pairs: Sequence[tuple[str, str]], question_words: dict[str, int], choice_words: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Feature numbers of all (stem, choice) pairs, one after the other, and how many each pair has.

    Unknown words are left out. Both arrays are one-dimensional; `lengths` has one entry per pair.
    """
    stride = len(choice_words)
    crosses = {
        text: np.array([0, *_known(_question_words(text), question_words)], dtype=np.int64)[:, None] * stride
        for text in {text for text, _ in pairs}
    }
    offered = {
        choice: np.array(_known(_choice_words(choice), choice_words), dtype=np.int64)
        for choice in {choice for _, choice in pairs}
    }
    rows = [(crosses[text] + offered[choice]).ravel() for text, choice in pairs]
    return np.concatenate(rows), np.array([len(row) for row in rows], dtype=np.int64)


def _known(words: Iterable[str], numbers: dict[str, int]) -> list[int]:
    return sorted(numbers[word] for word in words if word in numbers)


def _weighted(
    keys: NDArray[np.int64],
    lengths: NDArray[np.int64],
    features: NDArray[np.int64],
    idf: NDArray[np.float64],
) -> Any:
    """TF-IDF rows of Euclidean length 1 (0 where nothing is known) as a sparse matrix [pairs, features]."""
    from scipy.sparse import csr_array

    columns = np.searchsorted(features, keys)
    columns[columns == len(features)] = 0
    known = features[columns] == keys
    row = np.repeat(np.arange(len(lengths)), lengths)[known]
    columns = columns[known]
    values = idf[columns]
    squares = np.bincount(row, weights=values**2, minlength=len(lengths))
    values = values / np.sqrt(squares[row])
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(lengths)))])
    return csr_array(
        (values, columns.astype(np.int32), starts.astype(np.int32)), shape=(len(lengths), len(features))
    )
