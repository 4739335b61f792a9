"""Validation while training: greedy accuracy on held-out questions, and what has to stand beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osler.answers import extract_answer
from osler.audit.blind import blind_accuracy
from osler.evaluate.printed import percent, percent_range
from osler.evaluate.stats import Interval, accuracy_interval, chance_level
from osler.policy.load import Policy
from osler.prompts import Template
from osler.records import Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling
from osler.runtime import World
from osler.tracking import write_json

_FACTS_FILE = "validation.json"


@dataclass(frozen=True)
class ValidationSet:
    """Held-out questions under a name."""

    name: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Validated:
    """One validation of one set. Fractions of 1; `accuracy` counts unparsed answers as wrong."""

    name: str
    n: int
    accuracy: float
    interval: Interval  # 95 %, by image or subject
    parse_rate: float
    parsed_accuracy: float | None  # among parsed answers; None where there are none
    chance: float
    blind_accuracy: float | None  # fitted on the training questions

    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        logged = {
            f"eval/accuracy/{self.name}": self.accuracy,
            f"eval/accuracy_low/{self.name}": self.interval.low,
            f"eval/accuracy_high/{self.name}": self.interval.high,
            f"eval/parse_rate/{self.name}": self.parse_rate,
        }
        if self.parsed_accuracy is not None:
            logged[f"eval/parsed_accuracy/{self.name}"] = self.parsed_accuracy
        return logged

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `validated_from_json` is the inverse."""
        return asdict(self)

    def __str__(self) -> str:
        blind = "not fitted" if self.blind_accuracy is None else percent(self.blind_accuracy)
        return (
            f"{self.name}: accuracy {percent(self.accuracy)} % ({percent_range(self.interval)}), n {self.n}, "
            f"chance {percent(self.chance)}, blind {blind}; parsed {percent(self.parse_rate)} %, "
            f"among them {percent(self.parsed_accuracy)} %"
        )


def validated_from_json(values: Mapping[str, Any]) -> Validated:
    return Validated(**{**values, "interval": Interval(**values["interval"])})


def validate(
    policy: Policy,
    template: Template,
    max_completion_tokens: int,
    world: World,
    sets: Sequence[ValidationSet],
    run: Path,
) -> Iterator[Validated]:
    """Ask every question of every set once, greedily; every process takes its share of them."""
    for one in sets:
        mine = world.share(one.questions)
        completions = complete(policy, mine, template, Sampling(max_completion_tokens)) if mine else []
        read = [
            (extract_answer(group[0].text, q.choices).index, q.answer_index, _cluster(q))
            for q, group in zip(mine, completions, strict=True)
        ]
        everyone = [answer for part in world.gather(read) for answer in part]
        correct = [index == right for index, right, _ in everyone]
        num_parsed = sum(index is not None for index, _, _ in everyone)
        facts = _read_facts(run).get(one.name, {})
        yield Validated(
            name=one.name,
            n=len(everyone),
            accuracy=sum(correct) / len(correct),
            interval=accuracy_interval(correct, [cluster for _, _, cluster in everyone]),
            parse_rate=num_parsed / len(everyone),
            parsed_accuracy=sum(correct) / num_parsed if num_parsed else None,
            chance=chance_level([len(q.choices) for q in one.questions]),
            blind_accuracy=facts.get("blind_accuracy"),
        )


def _cluster(question: Question) -> str:
    if question.subject_id:
        return f"subject:{question.dataset}:{question.subject_id}"
    return "+".join(question.images) or question.id


def write_facts(run: Path, training: Sequence[Question], sets: Sequence[ValidationSet]) -> None:
    """`validation.json`: n, chance and blind baseline of each set, fitted on the training questions."""
    if not sets:
        return
    facts = {
        one.name: {
            "n": len(one.questions),
            "chance": chance_level([len(q.choices) for q in one.questions]),
            "blind_accuracy": blind_accuracy(training, one.questions),
        }
        for one in sets
    }
    write_json(run / _FACTS_FILE, facts)


def _read_facts(run: Path) -> dict[str, Any]:
    path = run / _FACTS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
