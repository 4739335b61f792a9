"""The choices of a question in another order: a pure function of (seed, epoch, question id)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from osler.records import Question


def permute_choices(question: Question, seed: int, epoch: int) -> Question:
    """The question with its choices in the order of this epoch, the answer going along.

    Nothing else enters: not the order of the questions, the process or what came before, so a resumed run
    asks what an uninterrupted one would. Every order is equally likely.
    """
    key = hashlib.sha256(f"choices\x1f{seed}\x1f{epoch}\x1f{question.id}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype=np.uint64)))
    order = [int(i) for i in rng.permutation(len(question.choices))]
    return replace(
        question,
        choices=tuple(question.choices[i] for i in order),
        answer_index=order.index(question.answer_index),
    )
