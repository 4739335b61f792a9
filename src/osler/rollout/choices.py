"""How probable each choice's letter was, where a completion stated its answer.

Shapes: B questions, G letters of a question (the largest number), T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from osler.policy.forward import PolicyForward
from osler.policy.inputs import PromptInputs, collate, pad_completions
from osler.policy.load import Policy
from osler.prompts import Template
from osler.records import LETTERS, Completion, Question

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
    for asked in _passes(policy, questions, template, completions):
        batch = collate([prompt for _, prompt, _ in asked], policy.device)
        width = max(len(letters) for _, _, letters in asked)
        # Questions with fewer choices are filled up with copies of their first letter.
        rows = [[*letters, *letters[:1] * (width - len(letters))] for _, _, letters in asked]
        ids_BGT, mask_BGT = pad_completions(rows, policy.pad_id, policy.device)
        forward = PolicyForward(policy.model, policy.logits_processor(1.0), policy.precision)
        with torch.no_grad():
            sums_BG = forward(batch, ids_BGT, mask_BGT)[0].sum(-1)
        for (i, _, letters), sums_G in zip(asked, sums_BG, strict=True):
            results[i] = tuple(sums_G[: len(letters)].log_softmax(-1).tolist())
    return results


_Asked = tuple[int, PromptInputs, list[list[int]]]  # index of the question, what all letters share, letters


def _passes(
    policy: Policy, questions: Sequence[Question], template: Template, completions: Sequence[Completion]
) -> Iterator[list[_Asked]]:
    """Questions whose completion begins an answer, as many at a time as one pass takes."""
    held: list[_Asked] = []
    for i, (question, completion) in enumerate(zip(questions, completions, strict=True)):
        prefix = template.answer_prefix(completion.text)
        if prefix is not None:
            held.append((i, *_continued(policy, question, template, prefix)))
        if sum(len(prompt.input_ids) for _, prompt, _ in held) >= PASS_TOKENS:
            yield held
            held = []
    if held:
        yield held


def _continued(
    policy: Policy, question: Question, template: Template, prefix: str
) -> tuple[PromptInputs, list[list[int]]]:
    """The prompt with the completion's text behind it, and the tokens of each letter."""

    def tokens(text: str) -> list[int]:
        return policy.tokenizer(text, add_special_tokens=False)["input_ids"]

    written = [tokens(prefix + LETTERS[i]) for i in range(len(question.choices))]
    shared = tokens(prefix)
    # Tokens may merge across the boundary; everything after the common part belongs to the letter.
    while any(ids[: len(shared)] != shared for ids in written):
        shared.pop()
    prompt = policy.prompt_inputs(question, template)
    following = prompt.next_position + torch.arange(len(shared))
    longer = PromptInputs(
        input_ids=torch.cat([prompt.input_ids, torch.tensor(shared, dtype=torch.long)]),
        position_ids=torch.cat([prompt.position_ids, following.expand(3, -1)], dim=1),
        next_position=prompt.next_position + len(shared),
        images=prompt.images,
    )
    return longer, [ids[len(shared) :] for ids in written]
