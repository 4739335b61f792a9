"""Training questions without those that a test set shows too."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.data.images import image_digest
from osler.errors import BadInput
from osler.records import Question


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many questions were left out, and why; each is counted once.

    >>> LeftOut(same_image=40, same_question=2).total
    42
    """

    same_image: int  # a file of theirs has the bytes of a file that is held back
    same_question: int  # other bytes, but the same stem, choices and file names

    @property
    def total(self) -> int:
        return self.same_image + self.same_question

    def __str__(self) -> str:
        return f"{self.same_image:,} show an image of it, {self.same_question:,} more ask a question of it"


def leave_out(
    questions: Sequence[Question], held_back: Sequence[Question]
) -> tuple[tuple[Question, ...], LeftOut]:
    """The questions that share neither an image nor a question with `held_back`, and what was left out.

    Only files as large as one that is held back are read. Raises BadInput for an image that is missing.
    """
    files = {path for q in held_back for path in q.images}
    sizes = {_size(path) for path in files}
    digests = {image_digest([path]) for path in files}
    asked = {as_shown(q) for q in held_back}
    kept, same_image, same_question = [], 0, 0
    for question in questions:
        if any(_size(path) in sizes and image_digest([path]) in digests for path in question.images):
            same_image += 1
        elif as_shown(question) in asked:
            same_question += 1
        else:
            kept.append(question)
    return tuple(kept), LeftOut(same_image, same_question)


def as_shown(question: Question) -> Hashable:
    """What makes two questions one wherever their files lie: stem, choices in any order, image file names."""
    return question.text, frozenset(question.choices), tuple(Path(image).name for image in question.images)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise BadInput(f"image {path}: cannot be read ({error.strerror}); check the file") from None
