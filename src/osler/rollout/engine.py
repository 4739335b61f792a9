"""The engine: completions for many questions, each prompt computed once and shared by its group.

Finished rows leave the batch. The same engine serves training, evaluation and `ask`.

Shapes: B prompts, N rows (live completions), V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osler.policy.attention import DecodeLayout
from osler.policy.forward import decode, prefill
from osler.policy.inputs import PromptInputs, collate
from osler.policy.load import Policy
from osler.policy.logits import LogitsProcessor
from osler.prompts import Template
from osler.records import LETTERS, Completion, Question
from osler.rollout.sampling import Sampling, draw, uniforms

ROWS_IN_FLIGHT = 128
# Dropping finished rows copies the live ones, so it waits until this share of the rows is done.
COMPACTION_SHARE = 0.25

Progress = Callable[[int], None]  # called with the number of questions just finished


@dataclass
class _Rows:
    """What is written down per live row; `origin_N` says which output row it is."""

    origin_N: Tensor
    positions_N: Tensor
    uniforms_NT: Tensor | None


def complete(
    policy: Policy,
    questions: Sequence[Question],
    template: Template,
    sampling: Sampling,
    *,
    group_size: int = 1,
    step: int | Sequence[int] = 0,
    progress: Progress | None = None,
    rows_in_flight: int = ROWS_IN_FLIGHT,
) -> list[tuple[Completion, ...]]:
    """`group_size` completions for every question, in the order given.

    `step` keys the random streams; one number for all questions, or one for each.
    """
    per_batch = max(1, rows_in_flight // group_size)
    steps = [step] * len(questions) if isinstance(step, int) else step
    keys = [(s, q.id) for s, q in zip(steps, questions, strict=True)]
    results: list[tuple[Completion, ...]] = []
    for start in range(0, len(questions), per_batch):
        part = questions[start : start + per_batch]
        prompts = [policy.prompt_inputs(q, template) for q in part]
        tokens, logprobs = generate(policy, prompts, keys[start : start + per_batch], sampling, group_size)
        for first in range(0, len(tokens), group_size):
            rows = range(first, first + group_size)
            results.append(tuple(_completion(policy, tokens[r], logprobs[r]) for r in rows))
        if progress is not None:
            progress(len(part))
    return results


def _completion(policy: Policy, tokens: list[int], logprobs: list[float]) -> Completion:
    stopped = tokens[-1] in policy.stop_ids
    text_ids = tokens[:-1] if stopped else tokens
    return Completion(
        text=policy.tokenizer.decode(text_ids, skip_special_tokens=False),
        token_ids=tuple(tokens),
        sampled_logprobs=tuple(logprobs),
        finish_reason="stop" if stopped else "length",
    )


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[PromptInputs],
    keys: Sequence[tuple[int, str]],
    sampling: Sampling,
    group_size: int,
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids and their log-probabilities (nats, under the sampling distribution), `group_size` rows
    per prompt, rows of a prompt next to each other. The end token is included where one was drawn.

    `keys` are (step, question id) of each prompt: what its random stream depends on, with the seed.
    """
    was_training = policy.model.training
    policy.model.eval()
    device, precision = policy.device, policy.precision
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        batch = collate(prompts, policy.pad_id, device)
        hidden_BD, cache = prefill(policy.model, batch)
        rows_prompt = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
        rows = _Rows(
            origin_N=torch.arange(len(rows_prompt), device=device),
            positions_N=batch.next_position_B[rows_prompt],
            uniforms_NT=_uniforms(keys, sampling, group_size, device),
        )
        layout = DecodeLayout(cache, rows_prompt, sampling.max_completion_tokens)
        del cache
        output = _decode_all(policy, hidden_BD[rows_prompt], rows, layout, sampling)
    policy.model.train(was_training)
    return output


def _uniforms(
    keys: Sequence[tuple[int, str]], sampling: Sampling, group_size: int, device: torch.device
) -> Tensor | None:
    if sampling.temperature == 0:
        return None
    count = sampling.max_completion_tokens
    streams = [
        uniforms(sampling.seed, step, question_id, index, count)
        for step, question_id in keys
        for index in range(group_size)
    ]
    return torch.from_numpy(np.stack(streams)).to(device)


def _decode_all(
    policy: Policy, hidden_ND: Tensor, rows: _Rows, layout: DecodeLayout, sampling: Sampling
) -> tuple[list[list[int]], list[list[float]]]:
    processor = policy.logits_processor(sampling.temperature)
    stop_ids = torch.tensor(policy.stop_ids, device=hidden_ND.device)
    num_rows, width = hidden_ND.shape[0], sampling.max_completion_tokens
    tokens_NT = torch.zeros((num_rows, width), dtype=torch.long, device=hidden_ND.device)
    logprobs_NT = torch.zeros((num_rows, width), device=hidden_ND.device)
    lengths_N = torch.zeros(num_rows, dtype=torch.long, device=hidden_ND.device)
    live_N = torch.ones(num_rows, dtype=torch.bool, device=hidden_ND.device)
    for t in range(width):
        token_N, logprob_N = _choose(policy, processor, hidden_ND, rows.uniforms_NT, t)
        tokens_NT[rows.origin_N, t] = token_N
        logprobs_NT[rows.origin_N, t] = logprob_N
        lengths_N[rows.origin_N[live_N]] = t + 1
        live_N = live_N & ~torch.isin(token_N, stop_ids)
        num_live = int(live_N.sum())
        if num_live == 0 or t + 1 == width:
            break
        if num_live <= (1 - COMPACTION_SHARE) * live_N.shape[0]:
            keep = live_N.nonzero()[:, 0]
            layout.keep(keep)
            token_N, live_N = token_N[keep], live_N[keep]
            rows = _Rows(
                rows.origin_N[keep],
                rows.positions_N[keep],
                None if rows.uniforms_NT is None else rows.uniforms_NT[keep],
            )
        hidden_ND = decode(policy.model, token_N, rows.positions_N + t, layout)
    lengths = lengths_N.tolist()
    tokens, logprobs = tokens_NT.tolist(), logprobs_NT.tolist()
    return (
        [row[:n] for row, n in zip(tokens, lengths, strict=True)],
        [row[:n] for row, n in zip(logprobs, lengths, strict=True)],
    )


def _choose(
    policy: Policy, processor: LogitsProcessor, hidden_ND: Tensor, uniforms_NT: Tensor | None, t: int
) -> tuple[Tensor, Tensor]:
    logits_NV = processor(policy.model.get_output_embeddings()(hidden_ND))
    token_N = logits_NV.argmax(-1) if uniforms_NT is None else draw(logits_NV, uniforms_NT[:, t])
    return token_N, logits_NV.log_softmax(-1).gather(-1, token_N[:, None])[:, 0]


@torch.no_grad()
def choice_logprobs(
    policy: Policy,
    questions: Sequence[Question],
    template: Template,
    completions: Sequence[Completion],
) -> list[tuple[float, ...] | None]:
    """Log-probability of each choice's letter where the completion states its answer, in nats,
    normalised over the letters; None where the completion never reaches an answer.

    The letter is scored as the template writes it, after the completion's own text (its reasoning
    included), so this is the distribution the answer was read from.
    """
    results: list[tuple[float, ...] | None] = [None] * len(questions)
    for i, (question, completion) in enumerate(zip(questions, completions, strict=True)):
        prefix = template.answer_prefix(completion.text)
        if prefix is None:
            continue
        results[i] = _letters(policy, question, template, prefix)
    return results


def _letters(policy: Policy, question: Question, template: Template, prefix: str) -> tuple[float, ...]:
    from osler.policy.forward import PolicyForward

    tokenize = policy.tokenizer
    shared = tokenize(prefix, add_special_tokens=False)["input_ids"]
    letters = [
        tokenize(prefix + LETTERS[i], add_special_tokens=False)["input_ids"]
        for i in range(len(question.choices))
    ]
    # Tokens may merge across the boundary; everything after the common part belongs to the letter.
    common = len(shared)
    while common and any(ids[:common] != shared[:common] for ids in letters):
        common -= 1
    width = max(len(ids) for ids in letters)
    ids_1GT = torch.full((1, len(letters), width), policy.pad_id, device=policy.device)
    mask_1GT = torch.zeros((1, len(letters), width), dtype=torch.bool, device=policy.device)
    for row, ids in enumerate(letters):
        ids_1GT[0, row, : len(ids)] = torch.tensor(ids)
        mask_1GT[0, row, common : len(ids)] = True
    batch = collate([policy.prompt_inputs(question, template)], policy.pad_id, policy.device)
    forward = PolicyForward(policy.model, policy.logits_processor(1.0), policy.precision)
    logprobs, _ = forward(batch, ids_1GT, mask_1GT)
    return tuple(logprobs[0].sum(-1).log_softmax(-1).tolist())
