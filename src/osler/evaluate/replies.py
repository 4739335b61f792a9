"""What a model makes of questions under a scorer: completions to be read, or the letters compared.

Whatever can be asked is an `AnsweringModel`: our own policies through the engine (`EngineModel`), any other
checkpoint through plain `generate` (`evaluate.plain_generate`), a server (`evaluate.endpoint`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from osler.answers import NOTHING, outcome_of
from osler.data.images import open_image
from osler.data.views import View
from osler.errors import BadInput
from osler.evaluate.scoring import (
    LETTER_LOGPROB,
    READERS,
    TEXT_LOGPROB,
    TextReader,
    read_logprobs,
    read_text_logprobs,
)
from osler.prompts import Template
from osler.records import Completion, Extraction, Outcome, Prediction, Question
from osler.rollout.choices import choice_logprobs, text_logprobs
from osler.rollout.engine import complete as engine_complete
from osler.rollout.sampling import Sampling

Complete = Callable[..., Sequence[tuple[Completion, ...]]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One question's answer as scored. `completion` is None where the model was not made to write."""

    completion: Completion | None
    extraction: Extraction
    choice_logprobs: tuple[float, ...] | None = None  # nats, one per choice; where they were compared
    error: str = ""  # why there is no answer, where that has a technical reason

    @classmethod
    def failed(cls, reason: str) -> Reply:
        return cls(None, NOTHING, error=reason)


class AnsweringModel(Protocol):
    """What `osler evaluate` asks: one reply per question, in any order, as many at a time as are there."""

    def replies(
        self, questions: Sequence[Question], template: Template, sampling: Sampling, scorer: str
    ) -> Iterator[Sequence[tuple[Question, Reply]]]: ...

    def seeing(self, view: View) -> AnsweringModel:
        """The same model with every image shown through `view`."""
        ...


@dataclass(frozen=True)
class EngineModel:
    """A policy of ours: all questions of a call are completed together, and answered in their order.

    Variants of a question, which have its id, may stand side by side.
    """

    policy: Any
    complete: Complete = engine_complete
    letters: bool = False  # compare the choices' letters too, whatever the scorer reads

    def seeing(self, view: View) -> EngineModel:
        return dataclasses.replace(self, policy=self.policy.seeing(view))

    def replies(
        self, questions: Sequence[Question], template: Template, sampling: Sampling, scorer: str
    ) -> Iterator[Sequence[tuple[Question, Reply]]]:
        failed = [unreadable([q]).get(q.id) for q in questions]
        readable = [q for q, failure in zip(questions, failed, strict=True) if failure is None]
        how = (template, sampling, self.complete, scorer, self.letters)
        found = iter(replies_to(self.policy, readable, *how) if readable else ())
        yield [(q, failure or next(found)) for q, failure in zip(questions, failed, strict=True)]


def unreadable(questions: Sequence[Question]) -> dict[str, Reply]:
    """Question id -> the failure, of those with an image that does not open."""
    failed = {}
    for question in questions:
        try:
            for path in question.images:
                open_image(path)
        except BadInput as error:
            failed[question.id] = Reply.failed(str(error))
    return failed


def read_reply(completion: Completion, question: Question, template: Template, scorer: str) -> Reply:
    """A completion under a scorer of text. Raises BadInput for the scorer that compares letters."""
    if scorer not in READERS:
        raise BadInput(f"--scorer {scorer}: needs log-probabilities, which only our own policies give")
    return Reply(completion, READERS[scorer](completion.text, question.choices, template))


def replies_to(
    policy: Any,
    questions: Sequence[Question],
    template: Template,
    sampling: Sampling,
    complete: Complete,
    scorer: str,
    letters: bool = False,
) -> list[Reply]:
    """One reply per question.

    With letter-logprob nothing is written where the template's answer stands first; a template that thinks
    first has its reasoning written, and the letters are compared behind it. With text-logprob nothing is
    ever written: the choices' texts are compared where the answer stands. With `letters` the letters are
    compared in any case, and the scorer reads the text all the same.
    """
    if scorer == TEXT_LOGPROB:
        tags = ("", policy.tokenizer.decode(policy.stop_ids[:1]))
        if template.form != "plain":
            tags = ("<answer>", "</answer>")
        texts = text_logprobs(policy, questions, template, *tags)
        return [
            Reply(None, read_text_logprobs(logprobs, question.choices), logprobs)
            for question, logprobs in zip(questions, texts, strict=True)
        ]
    if scorer == LETTER_LOGPROB and template.form != "think":
        begun = template.answer_prefix("<answer>") or ""  # "" for a plain template
        opening = Completion(text=begun, token_ids=(), sampled_logprobs=(), finish_reason="stop")
        found = choice_logprobs(policy, questions, template, [opening] * len(questions))
        return [Reply(None, read_logprobs(logprobs), logprobs) for logprobs in found]
    completions = [group[0] for group in complete(policy, questions, template, sampling)]
    found = [None] * len(completions)
    if letters or scorer == LETTER_LOGPROB:
        found = choice_logprobs(policy, questions, template, completions)
    if scorer == LETTER_LOGPROB:
        return [
            Reply(c, read_logprobs(logprobs), logprobs)
            for c, logprobs in zip(completions, found, strict=True)
        ]
    return [
        dataclasses.replace(read_reply(completion, question, template, scorer), choice_logprobs=logprobs)
        for question, completion, logprobs in zip(questions, completions, found, strict=True)
    ]


def read_again(stored: Prediction, question: Question, read: TextReader, template: Template) -> Prediction:
    """A stored completion under another rule; the model is not asked."""
    extraction = read(stored.text, question.choices, template)
    refused = stored.outcome is Outcome.REFUSED
    outcome = outcome_of(extraction, question.answer_index, stored.truncated, stored.text, refused)
    return dataclasses.replace(stored, extraction=extraction, outcome=outcome)
