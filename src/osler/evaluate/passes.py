"""Passes: what is asked beyond the test set as it is, of the same loaded policy.

The main pass asks every question once. A pass starts from what came of it, asks variants of the same
questions, and ends in a record of plain data: printed below the summary, kept in `summary.json` under the
pass's kind. Every variant is an ordinary predictions file, `variants/VARIANT/predictions/TEST_SET.jsonl`, so
that it resumes as the main pass does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from osler.evaluate.answering import Opened
from osler.evaluate.predictions import Header
from osler.evaluate.runner import Ask, answer_all
from osler.evaluate.summary import BlindBaseline
from osler.policy.load import Policy
from osler.prompts import Template
from osler.records import Prediction, Question
from osler.rollout.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class MainPass:
    """The test set as it was asked, and everything needed to ask more."""

    opened: Opened
    questions: tuple[Question, ...]
    predictions: tuple[Prediction, ...]  # in the order of `questions`
    test_set: str  # without the scorer's name
    template: Template
    sampling: Sampling
    header: Header
    blind: BlindBaseline
    out: Path  # run folder
    batch_size: int
    progress: Callable[[int, int], None]
    note: Callable[[str], None]

    @property
    def policy(self) -> Policy:
        """For passes that look inside the model. Raises BadInput where it is none of ours."""
        return self.opened.needs_policy("this pass")

    def variant(self, name: str, questions: Sequence[Question], **changes: Any) -> Ask:
        """The main pass's way of asking, with other questions and whatever else a variant changes."""
        sampling = {field.name for field in dataclasses.fields(Sampling)}
        settings = {k: v for k, v in self.header.settings.items() if k not in sampling}
        ask = Ask(
            name=self.test_set,
            questions=tuple(questions),
            template=self.template,
            sampling=self.sampling,
            out_dir=self.out / "variants" / name,
            scorer=self.header.scorer,
            settings={**settings, "variant": name},
        )
        return dataclasses.replace(ask, **changes)

    def answer(self, asks: Sequence[Ask]) -> list[tuple[Prediction, ...]]:
        """Answers to every variant, batch by batch side by side."""
        return answer_all(
            self.opened.answering,
            asks,
            model=self.header.model,
            model_digest=self.header.model_digest,
            data=self.header.data,
            batch_size=self.batch_size,
            progress=self.progress,
            note=self.note,
        )


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One further pass."""

    kind: str  # its key in summary.json and --json
    ask: Callable[[MainPass], Any]  # ends in a dataclass of plain values
    show: Callable[[Any, Console], None]
    check: Callable[[Template], None] = lambda template: None  # BadInput before anything is asked
    looks_inside: bool = False  # needs a policy of ours; a server or another family is refused at once


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of a pass."""

    kind: str
    values: Any
    show: Callable[[Any, Console], None]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self.values)
