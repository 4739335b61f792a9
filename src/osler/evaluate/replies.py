"""What a model makes of questions under a scorer: completions to be read, or the letters compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from osler.answers import outcome_of
from osler.evaluate.scoring import (
    LETTER_LOGPROB,
    READERS,
    TEXT_LOGPROB,
    TextReader,
    read_logprobs,
    read_text_logprobs,
)
from osler.prompts import Template
from osler.records import Completion, Extraction, Prediction, Question
from osler.rollout.choices import choice_logprobs, text_logprobs
from osler.rollout.sampling import Sampling

Complete = Callable[..., Sequence[tuple[Completion, ...]]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One question's answer as scored. `completion` is None where the model was not made to write."""

    completion: Completion | None
    extraction: Extraction
    choice_logprobs: tuple[float, ...] | None = None  # nats, one per choice; where they were compared


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
    read = READERS[scorer]
    return [
        Reply(completion, read(completion.text, question.choices, template), logprobs)
        for question, completion, logprobs in zip(questions, completions, found, strict=True)
    ]


def read_again(stored: Prediction, question: Question, read: TextReader, template: Template) -> Prediction:
    """A stored completion under another rule; the model is not asked."""
    extraction = read(stored.text, question.choices, template)
    outcome = outcome_of(extraction, question.answer_index, stored.truncated, stored.text)
    return dataclasses.replace(stored, extraction=extraction, outcome=outcome)
