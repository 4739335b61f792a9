"""Completions that begin with a given text: what generation and the scoring of choices go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from osler.policy.inputs import PromptInputs
from osler.policy.load import Policy
from osler.records import LETTERS, Question


@dataclass(frozen=True)
class Opening:
    """The tokens of a text that a completion begins with, and of everything that may follow.

    `tokens` stop short of the text where its last token could merge with what follows: a tokenizer that
    knows `>A` would never write `>` and then `A`. What is missing then is where each of `rows` begins.
    """

    tokens: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]  # behind `tokens`, one per continuation


def opening(policy: Policy, text: str, written: Sequence[str]) -> Opening:
    """`text` as the beginning of every one of `written`."""

    def tokens(of: str) -> list[int]:
        return policy.tokenizer(of, add_special_tokens=False)["input_ids"]

    rows = [tokens(whole) for whole in written]
    shared = tokens(text)
    while any(ids[: len(shared)] != shared for ids in rows):
        shared.pop()
    return Opening(tuple(shared), tuple(tuple(ids[len(shared) :]) for ids in rows))


def with_letters(text: str, question: Question) -> list[str]:
    """`text` with each choice's letter behind it."""
    return [text + letter for letter in LETTERS[: len(question.choices)]]


def extended(prompt: PromptInputs, token_ids: Sequence[int]) -> PromptInputs:
    """The prompt with text tokens behind it, at the positions at which they would have been generated."""
    following = prompt.next_position + torch.arange(len(token_ids))
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, torch.tensor(token_ids, dtype=torch.long)]),
        position_ids=torch.cat([prompt.position_ids, following.expand(3, -1)], dim=1),
        next_position=prompt.next_position + len(token_ids),
    )
