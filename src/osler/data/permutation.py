"""Orders that depend on a key alone: of the choices of a question, and of questions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from osler.records import Question


def permute_choices(question: Question, seed: int, epoch: int) -> Question:
    """The question with its choices in the order of this epoch, the answer going along.

    Nothing else enters: not the order of the questions, the process or what came before, so a resumed run
    asks what an uninterrupted one would. Every order is equally likely.
    """
    return reordered(question, choice_order(f"{seed}\x1f{epoch}\x1f{question.id}", len(question.choices)))


def choice_order(key: str, num_choices: int) -> tuple[int, ...]:
    """An order of the choices that depends on `key` alone: what stands at each place, by its old place."""
    digest = hashlib.sha256(f"choices\x1f{key}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))
    return tuple(int(i) for i in rng.permutation(num_choices))


def reordered(question: Question, order: Sequence[int]) -> Question:
    """The question with its choices in this order, the answer going along."""
    return replace(
        question,
        choices=tuple(question.choices[i] for i in order),
        answer_index=order.index(question.answer_index),
    )


def draw_key(question_id: str, seed: int = 0) -> bytes:
    """Sorted by this, questions stand in the order in which a fixed random part of them is taken."""
    return hashlib.sha256(f"{seed}:{question_id}".encode()).digest()
