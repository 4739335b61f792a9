"""What `--ablate` and `--rotate` find, as plain records: written to `summary.json` and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.evaluate.stats import Interval, McNemar
from osler.evaluate.summary import Row, read_findings, row_from_json
from osler.records import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came of one variant."""

    predictions: tuple[Prediction, ...]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)  # question id -> why not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of questions, with the share that guessing would give where that means something."""

    n: int
    share: float
    interval: Interval  # 95 %, clustered by image
    chance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A variant beside the same questions as they are, in one group."""

    variant: str
    scope: str  # "overall", "modality", "question_type" or "dataset"
    value: str
    real: Row
    changed: Row
    difference: float  # accuracy real - changed: with a blank or swapped image, the image reliance
    interval: Interval
    table: McNemar  # a is the variant, b the real question
    cluster_p: float  # mid-p with whole images
    holm_p: float  # adjusted over the variants (overall) or over all groups of all variants


@dataclass(frozen=True, slots=True, kw_only=True)
class Solvability:
    """What is answered right without seeing. Chance: independent uniform guesses in each variant."""

    variants: tuple[str, ...]
    scope: str
    value: str
    any_right: Rate  # right in at least one of the variants
    all_right: Rate
    only_with_image: Rate  # right as asked, and in none of the variants


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSensitivity:
    """All rotations of the choices. Chance: an independent uniform guess at every rotation."""

    scope: str
    value: str
    vanilla: Row  # the order as given, of the same questions
    mean: Rate  # right rotations of a question, averaged over questions
    all_right: Rate
    flips: Rate  # questions that do not get the same readable text in every rotation
    num_unread: int  # of these, questions with a rotation from which nothing could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRecall:
    """How often the right answer is found when it stands under one letter, over all rotations."""

    letter: str
    recall: Rate
    chosen: float  # share of answers that name this letter, where it exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadrant:
    """Consistent: the same readable text in every rotation. Reliant: another choice without the image."""

    scope: str
    value: str
    consistent: bool
    reliant: bool
    share: Rate
    accuracy: Row | None  # as asked; None where the quadrant is empty
    only_with_image: int  # right as asked, not right without


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """Everything about one test set."""

    test_set: str
    n: int
    left_out: Mapping[str, Mapping[str, int]]  # variant -> reason -> questions
    effects: tuple[Effect, ...]
    solvability: tuple[Solvability, ...]
    order: tuple[OrderSensitivity, ...]
    letters: tuple[LetterRecall, ...]
    reliance_variant: str  # which missing image divides the quadrants; "" where there are none
    quadrants: tuple[Quadrant, ...]
    texts_by_sum: Row | None  # question-only, the choice with the highest summed log-probability


def read_looking(run_dir: str | Path) -> dict[str, Looking]:
    """Test set -> what `summary.json` says about looking. Raises BadInput for foreign values."""
    try:
        return {k: looking_from_json(v) for k, v in read_findings(run_dir, "looking").items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{run_dir}: summary.json: looking cannot be read ({error!r}); evaluate again"
        ) from error


def looking_from_json(values: Mapping[str, Any]) -> Looking:
    """Inverse of `dataclasses.asdict`. Raises KeyError or TypeError for foreign values."""

    def rate(v: Mapping[str, Any]) -> Rate:
        return Rate(**{**v, "interval": Interval(**v["interval"])})

    def row(v: Mapping[str, Any] | None) -> Row | None:
        return None if v is None else row_from_json(v)

    readers: dict[type, dict[str, Any]] = {
        Effect: {
            "real": row,
            "changed": row,
            "interval": lambda v: Interval(**v),
            "table": lambda v: McNemar(**v),
        },
        Solvability: {"variants": tuple, "any_right": rate, "all_right": rate, "only_with_image": rate},
        OrderSensitivity: {"vanilla": row, "mean": rate, "all_right": rate, "flips": rate},
        LetterRecall: {"recall": rate},
        Quadrant: {"share": rate, "accuracy": row},
    }

    def many(kind: Any, name: str) -> tuple[Any, ...]:
        read = readers[kind]
        return tuple(kind(**{k: read[k](x) if k in read else x for k, x in v.items()}) for v in values[name])

    return Looking(
        **{
            **values,
            "effects": many(Effect, "effects"),
            "solvability": many(Solvability, "solvability"),
            "order": many(OrderSensitivity, "order"),
            "letters": many(LetterRecall, "letters"),
            "quadrants": many(Quadrant, "quadrants"),
            "texts_by_sum": row(values["texts_by_sum"]),
        }
    )
