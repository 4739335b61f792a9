"""What the base model must be able to do, and must not: measured on pictures that it was not taught from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from osler.answers import extract_answer
from osler.audit.blind import cross_validated_blind
from osler.evaluate.stats import Interval, accuracy_interval, chance_level
from osler.phantom.benchmark import IMAGE_SIZE
from osler.phantom.questions import NUM_CHOICES
from osler.policy.load import Policy
from osler.prompts import TEMPLATES
from osler.records import Modality, Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling

MAX_BYTES = 8_000_000
KNOWS = (0.40, 0.65)  # greedy accuracy with think, every modality
FOLLOWS = 0.90  # share of completions in the template's form
BLANK_MARGIN = 0.03  # around chance
MAX_TOKENS = 48
MID_GREY = 128
PASS_AT = 8
ASKED_PER_FORM = 50  # questions of each modality for the forms, and for pass@8


@dataclass(frozen=True)
class Measured:
    """One number with what it has to be."""

    name: str
    value: float
    low: float
    high: float
    n: int
    interval: Interval | None = None
    chance: float | None = None  # of accuracies only
    blind: float | None = None

    @property
    def holds(self) -> bool:
        return self.low <= self.value <= self.high


def measure(policy: Policy, questions: Sequence[Question], folder: Path, num_bytes: int) -> list[Measured]:
    """Every bar. `questions` carry their images; `folder` takes the blank image.

    `num_bytes` is the size of the weights.
    """
    found = [Measured("weights, bytes", num_bytes, 0, MAX_BYTES, 1)]
    seen_blind = cross_validated_blind(questions, [q.images[0] for q in questions])
    blind = {q.id: bool(c == q.answer_index) for q, c in zip(questions, seen_blind, strict=True)}
    think = _correct(policy, questions, "think")
    for modality in dict.fromkeys(q.modality for q in questions):
        rows = [(hit, q) for hit, q in zip(think, questions, strict=True) if q.modality is modality]
        found.append(_accuracy(f"think, {modality.value}", rows, *KNOWS, blind))
    blank = folder / "blank.png"
    Image.new("L", (IMAGE_SIZE, IMAGE_SIZE), MID_GREY).save(blank)
    unseen = [replace(q, images=(str(blank),)) for q in questions]
    rows = list(zip(_correct(policy, unseen, "think"), questions, strict=True))
    bar = (1.0 / NUM_CHOICES - BLANK_MARGIN, 1.0 / NUM_CHOICES + BLANK_MARGIN)
    found.append(_accuracy("think, blank image", rows, *bar, blind))
    some = _first_of_each_modality(questions, ASKED_PER_FORM)
    for name in ("think", "nothink", "think_after"):
        texts = [group[0].text for group in complete(policy, some, TEMPLATES[name], Sampling(MAX_TOKENS))]
        share = sum(TEMPLATES[name].matches(text) for text in texts) / len(texts)
        found.append(Measured(f"{name}, form kept", share, FOLLOWS, 1.0, len(texts)))
        if name != "think":
            rows = [(_right(t, q), q) for t, q in zip(texts, some, strict=True)]
            found.append(_accuracy(f"{name}, all modalities", rows, 0.0, 1.0, blind))
    found.append(_pass_at(policy, some))
    return found


def table(found: Sequence[Measured]) -> Table:
    shown = Table(title="phantom-base against its bars")
    shown.caption = "blind: text alone, by 5-fold cross-validation by image within these questions"
    for column in ("measured", "value", "95 % interval", "bar", "n", "chance", "blind", ""):
        shown.add_column(column, justify="right" if column in ("value", "n", "chance", "blind") else "left")
    for one in found:
        exact = one.high == MAX_BYTES
        value = f"{one.value:.0f}" if exact else f"{one.value:.3f}"
        bar = f"<= {one.high:.0f}" if exact else f"{one.low:.2f} to {one.high:.2f}"
        interval = "" if one.interval is None else f"{one.interval.low:.3f} to {one.interval.high:.3f}"
        reported = (one.low, one.high) == (0.0, 1.0)
        verdict = "reported" if reported else "holds" if one.holds else "missed"
        beside = ["" if level is None else f"{level:.3f}" for level in (one.chance, one.blind)]
        shown.add_row(one.name, value, interval, "" if reported else bar, str(one.n), *beside, verdict)
    return shown


def to_json(found: Sequence[Measured]) -> dict[str, Any]:
    return {one.name: {**asdict(one), "holds": one.holds} for one in found}


def _accuracy(
    name: str, rows: Sequence[tuple[bool, Question]], low: float, high: float, blind: Mapping[str, bool]
) -> Measured:
    correct = [hit for hit, _ in rows]
    asked = [question for _, question in rows]
    return Measured(
        name,
        sum(correct) / len(correct),
        low,
        high,
        len(correct),
        accuracy_interval(correct, [question.images[0] for question in asked]),
        chance_level([len(question.choices) for question in asked]),
        sum(blind[question.id] for question in asked) / len(asked),
    )


def _correct(policy: Policy, questions: Sequence[Question], template: str) -> list[bool]:
    """Greedy; what cannot be read counts as wrong."""
    completions = complete(policy, questions, TEMPLATES[template], Sampling(MAX_TOKENS))
    return [_right(group[0].text, q) for group, q in zip(completions, questions, strict=True)]


def _right(text: str, question: Question) -> bool:
    return extract_answer(text, question.choices).index == question.answer_index


def _pass_at(policy: Policy, questions: Sequence[Question]) -> Measured:
    """Share of questions that at least one of `PASS_AT` samples at temperature 1 answers right."""
    sampling = Sampling(MAX_TOKENS, temperature=1.0)
    groups = complete(policy, questions, TEMPLATES["think"], sampling, group_size=PASS_AT)
    hits = [any(_right(c.text, q) for c in group) for group, q in zip(groups, questions, strict=True)]
    return Measured(f"think, pass@{PASS_AT}", sum(hits) / len(hits), 0.0, 1.0, len(hits))


def _first_of_each_modality(questions: Sequence[Question], count: int) -> list[Question]:
    left: dict[Modality, int] = {}
    picked = []
    for question in questions:
        left[question.modality] = left.get(question.modality, count) - 1
        if left[question.modality] >= 0:
            picked.append(question)
    return picked
