"""Variants of a question: what a model is shown when something is taken away, exchanged or moved.

Each is a pure function of the question; those that change pixels are views (`osler.data.views`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain

from osler.data.views import NOISE_LEVELS, Blank, Noise, View
from osler.errors import BadInput
from osler.records import Question

BLANK, SWAPPED, NOISE = "blank-image", "swapped-image", "noise"
CHOICES_ONLY, QUESTION_ONLY = "choices-only", "question-only"
ABLATIONS = (BLANK, SWAPPED, NOISE, CHOICES_ONLY, QUESTION_ONLY)

NO_IMAGE = "the question has no image"
NO_PARTNER = "no image of another question of its modality and type, with another answer"
FAILED = "failed technically"

# What each ablation that keeps text and place of the image shows instead of it.
VIEWS: dict[str, dict[str, View]] = {
    BLANK: {BLANK: Blank()},
    NOISE: {name: Noise(sigma) for name, sigma in NOISE_LEVELS.items()},
}


def parse_ablations(text: str) -> tuple[str, ...]:
    """Names of the command line, in our own order. Raises BadInput, naming the nearest one.

    >>> parse_ablations("choices-only,blank-image")
    ('blank-image', 'choices-only')
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ABLATIONS:
            near = get_close_matches(name, ABLATIONS, n=1, cutoff=0.0)[0]
            raise BadInput(f"--ablate {name}: did you mean {near}? known: {', '.join(ABLATIONS)}")
    if not names:
        raise BadInput(f"--ablate {text!r}: name at least one of {', '.join(ABLATIONS)}")
    return tuple(name for name in ABLATIONS if name in names)


def choices_only(question: Question) -> Question:
    """Neither image nor stem."""
    return replace(question, text="", images=())


def without_image(question: Question) -> Question:
    """The same text about nothing."""
    return replace(question, images=())


def rotate_choices(question: Question, by: int) -> Question:
    """The choices moved up by `by` places, the first ones to the end, and the answer with them.

    Over all `num_choices` rotations the answer stands once under every letter.
    """
    count = len(question.choices)
    by %= count
    return replace(
        question,
        choices=question.choices[by:] + question.choices[:by],
        answer_index=(question.answer_index - by) % count,
    )


def swap_images(
    questions: Sequence[Question], digests: Mapping[str, str], seed: int = 0
) -> tuple[tuple[Question, ...], dict[str, str]]:
    """Each question with the image of another one, and (question id -> why) for those that have no other.

    The image comes from a question of the same modality, question type and number of images, with another
    image digest and another answer; from one with the same stem where there is such a one, because then
    the given answer is known to be wrong for the new image. Within such a group the questions stand in a
    ring, sorted by answer, in an order drawn from `seed`; each takes the first image that will do from half a
    ring or the largest answer's share further on, whichever is less. Where no answer has more than half of
    the ring and no image repeats, that is a derangement: every image is used once.
    """
    order = sorted(questions, key=lambda q: _draw(seed, q.id))
    partners: dict[str, Question] = {}
    for key in (_stem_group, _type_group):
        rings: dict[tuple[object, ...], list[Question]] = defaultdict(list)
        for question in order:
            rings[key(question)].append(question)
        for ring in rings.values():
            for question, partner in _partners(ring, digests):
                partners.setdefault(question.id, partner)
    left_out = {q.id: NO_PARTNER if q.images else NO_IMAGE for q in questions if q.id not in partners}
    swapped = (replace(q, images=partners[q.id].images) for q in questions if q.id in partners)
    return tuple(swapped), left_out


def _draw(seed: int, question_id: str) -> bytes:
    return hashlib.sha256(f"swap\x1f{seed}\x1f{question_id}".encode()).digest()


def _type_group(question: Question) -> tuple[object, ...]:
    return question.modality, question.question_type, len(question.images)


def _stem_group(question: Question) -> tuple[object, ...]:
    return *_type_group(question), question.text.casefold().strip()


def _answer(question: Question) -> str:
    return question.answer.casefold().strip()


def _partners(ring: Sequence[Question], digests: Mapping[str, str]) -> Iterator[tuple[Question, Question]]:
    by_answer: dict[str, list[Question]] = defaultdict(list)
    for question in ring:
        by_answer[_answer(question)].append(question)
    if len(by_answer) < 2 or not ring[0].images:
        return
    ring = list(chain.from_iterable(by_answer.values()))
    shift = max(map(len, by_answer.values()))
    for place, question in enumerate(ring):
        for step in range(len(ring)):
            other = ring[(place + shift + step) % len(ring)]
            if _answer(other) != _answer(question) and digests[other.id] != digests[question.id]:
                yield question, other
                break
