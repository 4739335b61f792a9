"""How probable each choice is: its letter where a completion states its answer, or its text by itself.

Shapes: B questions, G choices of a question (the largest number), T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from osler.policy.forward import PolicyForward
from osler.policy.inputs import PromptInputs, pad_completions
from osler.policy.load import Policy
from osler.prompts import Template
from osler.records import Completion, Question
from osler.rollout.continuation import extended, opening, with_letters

PASS_TOKENS = 2**14  # tokens scored at a time


def choice_logprobs(
    policy: Policy,
    questions: Sequence[Question],
    template: Template,
    completions: Sequence[Completion],
) -> list[tuple[float, ...] | None]:
    """Log-probability of each choice's letter where the completion states its answer, in nats,
    normalised over the letters; None where the completion never reaches an answer.

    The letter is scored as the template writes it, after the completion's own text (its reasoning
    included), so this is the distribution the answer was read from. Prompt, image and reasoning are
    computed once per question, and many questions together.
    """
    results: list[tuple[float, ...] | None] = [None] * len(questions)
    asked = (
        _asked(policy, i, question, template, prefix, with_letters(prefix, question))
        for i, (question, completion) in enumerate(zip(questions, completions, strict=True))
        if (prefix := template.answer_prefix(completion.text)) is not None
    )
    for i, sums in _sums(policy, asked):
        results[i] = tuple(sums.log_softmax(-1).tolist())
    return results


def text_logprobs(
    policy: Policy, questions: Sequence[Question], template: Template, opening: str = "", closing: str = ""
) -> list[tuple[float, ...]]:
    """Log-probability of each choice's text between `opening` and `closing`, right behind the prompt.

    In nats, over all tokens of text and closing together, given prompt and opening; not normalised. With
    the closing each text is a complete answer, so that none is favoured for being the beginning of another.
    The prompt is computed once per question.
    """
    results: list[tuple[float, ...]] = [()] * len(questions)
    asked = (
        _asked(policy, i, q, template, opening, [f"{opening}{choice}{closing}" for choice in q.choices])
        for i, q in enumerate(questions)
    )
    for i, sums in _sums(policy, asked):
        results[i] = tuple(sums.tolist())
    return results


@dataclass(frozen=True)
class _Asked:
    index: int  # of the question
    prompt: PromptInputs  # with whatever all continuations share behind it
    rows: tuple[tuple[int, ...], ...]  # tokens of each continuation


def _sums(policy: Policy, asked: Iterable[_Asked]) -> Iterator[tuple[int, Tensor]]:
    """(index, summed log-probability of each row [G]), as many questions at a time as one pass takes."""
    held: list[_Asked] = []
    for one in asked:
        held.append(one)
        if sum(len(a.prompt.input_ids) + sum(map(len, a.rows)) for a in held) >= PASS_TOKENS:
            yield from _pass(policy, held)
            held = []
    if held:
        yield from _pass(policy, held)


def _pass(policy: Policy, asked: Sequence[_Asked]) -> Iterator[tuple[int, Tensor]]:
    batch = policy.batch([a.prompt for a in asked])
    width = max(len(a.rows) for a in asked)
    # Questions with fewer choices are filled up with copies of their first.
    rows = [[*a.rows, *a.rows[:1] * (width - len(a.rows))] for a in asked]
    ids_BGT, mask_BGT = pad_completions(rows, policy.pad_id, policy.device)
    processor = policy.logits_processor(1.0)
    forward = PolicyForward(policy.model, processor, policy.precision, features=policy.features)
    with torch.no_grad():
        sums_BG = forward(batch, ids_BGT, mask_BGT)[0].sum(-1)
    for one, sums_G in zip(asked, sums_BG, strict=True):
        yield one.index, sums_G[: len(one.rows)]


def _asked(
    policy: Policy, index: int, question: Question, template: Template, prefix: str, written: Sequence[str]
) -> _Asked:
    """The prompt with `prefix` behind it, and the tokens with which each of `written` goes on."""
    begun = opening(policy, prefix, written)
    return _Asked(index, extended(policy.prompt_inputs(question, template), begun.tokens), begun.rows)
