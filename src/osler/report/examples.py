"""Example cards: one question, and what every model on the page made of it."""

from __future__ import annotations

import base64
import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import exp

from PIL import Image

from osler.data.images import image_digest, open_image
from osler.errors import BadInput
from osler.evaluate.predictions import QuestionText, StoredPredictions
from osler.prompts import thinking_spans
from osler.records import LETTERS, Outcome, Prediction
from osler.report.runs import Evaluated, Run
from osler.report.tables import asked_how

MAX_SIDE = 320  # pixels of an embedded image
MAX_TEXT = 6000  # characters shown of one completion
OUTCOMES = ("correct", "wrong", "unparsed", "truncated", "refused", "error")
_TURNS = ("correct", "wrong", "unparsed", "correct", "wrong", "truncated", "refused", "error")
# Invisible or direction-changing characters could make a shown text say something else.
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_SHOWN = "\n\t\u200c\u200d"  # white space, and the joiners that Persian and Indic scripts spell with


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a completion. `kind` is "thinking", "answer" or "read" (what the extraction read)."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One line of the list of choices."""

    letter: str
    text: str
    is_gold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one model made of the question."""

    model: str
    template: str
    outcome: str  # one of OUTCOMES
    letter: str  # "" where nothing was read
    choice: str
    how: str  # Extraction.how
    segments: tuple[Segment, ...]
    probabilities: str  # of the letters, "" where they were not compared
    num_tokens: int
    truncated: bool
    cut: int  # characters left out of a very long completion
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One question with its image and every model's reply."""

    number: int
    question: str
    choices: tuple[Choice, ...]
    modality: str
    question_type: str
    dataset: str
    images: tuple[str, ...]  # data URIs
    image_notes: tuple[str, ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    run: Run
    evaluated: Evaluated
    predictions: Mapping[str, Prediction]

    @property
    def stored(self) -> StoredPredictions:
        return self.evaluated.stored


def cards_for(test_set: str, runs: Sequence[Run], most: int) -> list[Card]:
    """At most `most` cards of one test set, a fixed mix of outcomes over all runs.

    Questions are taken in the order of a hash of their id, the outcomes in turn and for each outcome the
    runs in turn, modalities that have been shown least first: nobody chose them by hand.
    """
    asked = _asked([(r, e) for r in runs for e in r.evaluations if e.summary.header.name == test_set])
    texts = _texts(asked)
    chosen = _choose([one.predictions for one in asked], set(texts), most)
    return [_card(number, texts[i], i, asked) for number, i in enumerate(chosen, start=1)]


def cards_about(evaluations: Sequence[tuple[Run, Evaluated]], question_ids: Sequence[str]) -> dict[str, Card]:
    """Question id -> card, for those of `question_ids` whose text is known; one reply per evaluation."""
    asked = _asked(evaluations)
    texts = _texts(asked)
    known = [i for i in question_ids if i in texts]
    return {i: _card(number, texts[i], i, asked) for number, i in enumerate(known, start=1)}


def _asked(evaluations: Sequence[tuple[Run, Evaluated]]) -> list[_Asked]:
    return [_Asked(run, e, {p.question_id: p for p in e.stored.predictions}) for run, e in evaluations]


def _texts(asked: Sequence[_Asked]) -> dict[str, QuestionText]:
    texts: dict[str, QuestionText] = {}
    for one in asked:
        texts.update({i: q for i, q in one.evaluated.questions.items() if i not in texts})
    return texts


def _choose(predictions: Sequence[Mapping[str, Prediction]], known: set[str], most: int) -> list[str]:
    pools = {
        outcome: [
            sorted(
                (p for p in answers.values() if _outcome(p) == outcome and p.question_id in known),
                key=lambda p: hashlib.sha256(p.question_id.encode()).digest(),
            )
            for answers in predictions
        ]
        for outcome in OUTCOMES
    }
    chosen: dict[str, str] = {}  # question id -> modality
    turns: Counter[str] = Counter()  # how often each outcome has had its turn
    while any(pool for by_run in pools.values() for pool in by_run):
        for outcome in _TURNS:
            waiting = [
                pool
                for pool in ([p for p in pool if p.question_id not in chosen] for pool in pools[outcome])
                if pool
            ]
            pools[outcome] = waiting
            if waiting:
                pool = waiting[turns[outcome] % len(waiting)]
                shown = Counter(chosen.values())
                best = min(pool, key=lambda p: shown[p.modality.value])
                chosen[best.question_id] = best.modality.value
                turns[outcome] += 1
            if len(chosen) >= most:
                return list(chosen)
    return list(chosen)


def _outcome(prediction: Prediction) -> str:
    return "error" if prediction.outcome is None else prediction.outcome.value


def _card(number: int, question: QuestionText, question_id: str, asked: Sequence[_Asked]) -> Card:
    first = next(one for one in asked if question_id in one.predictions)
    sample = first.predictions[question_id]
    digest = first.stored.question_digests[question_id]
    # Runs may hold another version of the data under the same id: its answers belong to another question.
    same = [
        one
        for one in asked
        if question_id in one.predictions and one.stored.question_digests[question_id] == digest
    ]
    images, notes = _images(question, sample)
    return Card(
        number=number,
        question=visible(question.text),
        choices=tuple(
            Choice(letter=LETTERS[i], text=visible(c), is_gold=i == sample.answer_index)
            for i, c in enumerate(question.choices)
        ),
        modality=sample.modality.value,
        question_type=sample.question_type.value,
        dataset=visible(sample.dataset),
        images=images,
        image_notes=notes,
        replies=tuple(_reply(one, question, question_id) for one in same),
    )


def _reply(one: _Asked, question: QuestionText, question_id: str) -> Reply:
    prediction = one.predictions[question_id]
    index = prediction.extraction.index
    known = index is not None and index < len(question.choices)
    return Reply(
        model=one.run.label,
        template=asked_how(one.evaluated.summary.header),
        outcome=_outcome(prediction),
        letter=LETTERS[index] if known and index is not None else "",
        choice=visible(question.choices[index]) if known and index is not None else "",
        how=prediction.extraction.how,
        segments=segments(prediction.text[:MAX_TEXT], prediction.extraction.span),
        probabilities=_probabilities(prediction.choice_logprobs or ()),
        num_tokens=prediction.num_tokens,
        truncated=prediction.truncated and prediction.outcome is not Outcome.TRUNCATED,
        cut=max(0, len(prediction.text) - MAX_TEXT),
        error=visible(prediction.error),
    )


def _probabilities(logprobs: Sequence[float]) -> str:
    return ", ".join(f"{letter} {100 * exp(v):.1f} %" for letter, v in zip(LETTERS, logprobs, strict=False))


def segments(text: str, span: tuple[int, int] | None) -> tuple[Segment, ...]:
    """Cut a completion into thinking, answer, and the characters that the extraction read.

    >>> [(s.kind, s.text) for s in segments("<think>bright</think><answer>B</answer>", (29, 30))]
    [('thinking', '<think>bright</think>'), ('answer', '<answer>'), ('read', 'B'), ('answer', '</answer>')]
    """
    kinds = ["answer"] * len(text)
    for start, end in thinking_spans(text):
        kinds[start:end] = ["thinking"] * (end - start)
    if span is not None:
        kinds[span[0] : span[1]] = ["read"] * len(kinds[span[0] : span[1]])
    runs = groupby(zip(kinds, text, strict=True), key=lambda pair: pair[0])
    return tuple(Segment(kind, visible("".join(c for _, c in pairs))) for kind, pairs in runs)


def visible(text: str) -> str:
    """The text with invisible and direction-changing characters written out.

    >>> visible("benign\\u202e!")
    'benign[U+202E]!'
    """
    return "".join(
        f"[U+{ord(c):04X}]" if c not in _SHOWN and unicodedata.category(c) in _HIDDEN_CATEGORIES else c
        for c in text
    )


def _images(question: QuestionText, prediction: Prediction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    uris, notes = [], []
    digests = prediction.image_digest.split("+") if prediction.image_digest else []
    for index, path in enumerate(question.images):
        expected = digests[index] if index < len(digests) else ""
        try:
            if expected and image_digest((path,)) != expected:
                notes.append(f"image {index + 1} has changed since the question was asked; not shown")
                continue
            uris.append(_data_uri(path))
        except (BadInput, OSError):
            notes.append(f"image {index + 1} could not be read; not shown")
    return tuple(uris), tuple(notes)


@lru_cache(maxsize=512)
def _data_uri(path: str) -> str:
    """The image, at most MAX_SIDE pixels wide and high, as JPEG or PNG, whichever is smaller."""
    image = open_image(path)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    encoded = {}
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 88})):
        buffer = io.BytesIO()
        image.save(buffer, kind.upper(), **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda k: len(encoded[k]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode('ascii')}"
