"""Readers of text: simple rules that answer without an image, each learnt from training questions.

A reader looks at one property of a choice (its letter, its full stop, its text …), counts in the training
questions how often choices with that property were right, and takes the choice whose property was right most
often. Where choices tie, it guesses. Its accuracy over chance is what that property gives away. Every reader
answers every question, so their accuracies can be compared with each other and with the blind baseline of
`blind.py`, which uses all words at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from osler.audit.blind import best_choice
from osler.data.question_types import is_yes_no
from osler.data.rows import normalise_choice
from osler.records import LETTERS, Question

# A property of each choice of a question, in words; None where it says nothing.
Property = Callable[[Question], Sequence[str | None]]

# Pseudo-observations at chance level for every property value, so that one lucky choice is no certainty.
PRIOR_WEIGHT = 1.0

# A choice is normalised by several rules, and the same text stands in many questions.
normal_choice = lru_cache(maxsize=1 << 16)(normalise_choice)


@dataclass(frozen=True, slots=True)
class FittedReader:
    """How often each value of a property was right; nothing changes after `Reader.fit`.

    `right` and `seen` hold one table per property of the chain: the first table that knows a value of the
    choice decides, the next ones are its back-off.
    """

    chain: tuple[Property, ...]
    right: tuple[Mapping[str, int], ...]
    seen: tuple[Mapping[str, int], ...]
    by_frequency: bool  # how often a choice was seen decides, and its answers do not

    def scores(self, question: Question) -> list[float]:
        """For each choice the estimated chance that it is right (or how often it was seen)."""
        chance = 1 / len(question.choices)
        values = [property_of(question) for property_of in self.chain]
        return [
            self._score([own[position] for own in values], chance)
            for position in range(len(question.choices))
        ]

    def evidence(
        self, questions: Sequence[Question], chosen: Sequence[int] | NDArray[np.int64], most: int = 5
    ) -> tuple[str, ...]:
        """The property values that decided most of the right answers, with their counts in training."""
        deciding: Counter[tuple[int, str]] = Counter()
        for question, position in zip(questions, chosen, strict=True):
            if position == question.answer_index:
                values = (property_of(question)[position] for property_of in self.chain)
                known = [(n, v) for n, v in enumerate(values) if v is not None and v in self.seen[n]]
                deciding.update(known[:1])
        lines = []
        for (number, value), count in sorted(deciding.items(), key=lambda item: (-item[1], item[0]))[:most]:
            right, seen = self.right[number].get(value, 0), self.seen[number][value]
            counts = f"offered {seen:,} times" if self.by_frequency else f"right {right:,} of {seen:,} times"
            lines.append(f"{value} ({counts} in training; decides {count:,} here)")
        return tuple(lines)

    def _score(self, values: Sequence[str | None], chance: float) -> float:
        for right, seen, value in zip(self.right, self.seen, values, strict=True):
            if value is not None and value in seen:
                if self.by_frequency:
                    return seen[value]
                return (right.get(value, 0) + PRIOR_WEIGHT * chance) / (seen[value] + PRIOR_WEIGHT)
        return 0.0 if self.by_frequency else chance

    def predict(self, questions: Sequence[Question]) -> NDArray[np.int64]:
        """The chosen position for each question, [n]; ties are guessed by a digest, whatever the order."""
        return np.array([best_choice(q, self.scores(q)) for q in questions], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Reader:
    """A named rule before it is learnt."""

    name: str
    chain: tuple[Property, ...]
    by_frequency: bool = False

    def fit(self, questions: Sequence[Question]) -> FittedReader:
        """Count in `questions`; without any, the reader guesses."""
        right: tuple[Counter[str], ...] = tuple(Counter() for _ in self.chain)
        seen: tuple[Counter[str], ...] = tuple(Counter() for _ in self.chain)
        for question in questions:
            for number, property_of in enumerate(self.chain):
                for position, value in enumerate(property_of(question)):
                    if value is not None:
                        seen[number][value] += 1
                        right[number][value] += position == question.answer_index
        frozen = [tuple(MappingProxyType(dict(table)) for table in tables) for tables in (right, seen)]
        return FittedReader(self.chain, frozen[0], frozen[1], self.by_frequency)


def stem_key(question: Question) -> str:
    """The stem without case and extra white space: what makes two stems the same."""
    return " ".join(question.text.casefold().split())


def problem_key(question: Question) -> tuple[str, tuple[str, ...]]:
    """Stem and choices in any order: what makes two whole problems the same."""
    return stem_key(question), tuple(sorted(normal_choice(choice) for choice in question.choices))


def _letter(question: Question) -> Sequence[str | None]:
    count = len(question.choices)
    return [f"{letter} of {count} choices" for letter in LETTERS[:count]]


def _full_stop(question: Question) -> Sequence[str | None]:
    return _against_the_rest(
        "a full stop", tuple(choice.rstrip().endswith(".") for choice in question.choices)
    )


def _length(question: Question) -> Sequence[str | None]:
    """Longest, shortest or between, by characters."""
    sizes = [len(choice) for choice in question.choices]
    if max(sizes) == min(sizes):
        return [None] * len(sizes)
    words = {max(sizes): "the longest", min(sizes): "the shortest"}
    return [f"{words.get(size, 'between')} of {len(sizes)}" for size in sizes]


_FORMS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("a capital in front", lambda choice: choice[:1].isupper()),
    ("a digit", lambda choice: any(c.isdigit() for c in choice)),
    ("a bracket", lambda choice: "(" in choice),
    ("several words", lambda choice: len(choice.split()) > 1),
)


@lru_cache(maxsize=1 << 16)
def _forms_of(choice: str) -> tuple[bool, ...]:
    return tuple(has(choice) for _, has in _FORMS)


def _odd_one_out(question: Question) -> Sequence[str | None]:
    """In which forms a choice differs from others, and how many share its own."""
    return _forms_against_the_rest(tuple(map(_forms_of, question.choices)))


@lru_cache(maxsize=1 << 12)
def _forms_against_the_rest(forms: tuple[tuple[bool, ...], ...]) -> Sequence[str | None]:
    marks = [
        _against_the_rest(what, own) for (what, _), own in zip(_FORMS, zip(*forms, strict=True), strict=True)
    ]
    return tuple(", ".join(filter(None, own)) or None for own in zip(*marks, strict=True))


@lru_cache(maxsize=1 << 12)
def _against_the_rest(what: str, marks: tuple[bool, ...]) -> Sequence[str | None]:
    """For each choice its mark and how many of the choices share it; None where all are alike."""
    if len(set(marks)) < 2:
        return (None,) * len(marks)
    words = {True: "with", False: "without"}
    return tuple(f"{words[mark]} {what} ({marks.count(mark)} of {len(marks)})" for mark in marks)


def _named_in_stem(question: Question) -> Sequence[str | None]:
    stem = f" {normalise_choice(question.text)} "
    named = tuple(f" {normal_choice(choice)} " in stem for choice in question.choices)
    return _against_the_rest("its text in the stem", named)


def _yes_no(question: Question) -> Sequence[str | None]:
    if not is_yes_no(question):
        return [None] * len(question.choices)
    return [normal_choice(choice) for choice in question.choices]


def _text(question: Question) -> Sequence[str | None]:
    return list(question.choices)


def _text_after_stem(question: Question) -> Sequence[str | None]:
    stem = stem_key(question)
    return [f"{choice} | {stem}" for choice in question.choices]


READERS: tuple[Reader, ...] = (
    Reader("letter", (_letter,)),
    Reader("full_stop", (_full_stop,)),
    Reader("length", (_length,)),
    Reader("odd_one_out", (_odd_one_out,)),
    Reader("named_in_stem", (_named_in_stem,)),
    Reader("yes_no", (_yes_no,)),
    Reader("option_prior", (_text,)),
    Reader("label_free_prior", (_text,), by_frequency=True),
    Reader("stem_lookup", (_text_after_stem, _text)),
)
