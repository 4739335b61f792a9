"""The engine: completions for many questions, each prompt computed once and shared by its group.

What neighbouring prompts have in common is computed once too. Rows that finish leave the batch and new
prompts take their place. The same engine serves training, evaluation and `ask`.

Shapes: B prompts, N rows (live completions), T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from osler.policy.decoding import decoding_model
from osler.policy.forward import prefill
from osler.policy.inputs import PromptInputs
from osler.policy.load import Policy
from osler.policy.trunks import split
from osler.prompts import Template
from osler.records import Completion, Question
from osler.rollout.continuation import extended, opening, with_letters
from osler.rollout.rows import Drawing, Finished, Prefilled, RowsInFlight
from osler.rollout.sampling import Sampling, uniforms

ROWS_IN_FLIGHT = 128
PREFILL_TOKENS = 2**14  # prompt tokens computed at a time
# Letting rows go and come moves the others, so it waits until this share of the rows is done.
TURNOVER_SHARE = 0.25
STEPS_BETWEEN_LOOKS = 16  # where the device runs ahead of its host; a CPU looks after every step

Key = tuple[int, str]  # (step, question id): what a prompt's random streams depend on, with the seed
Progress = Callable[[int], None]  # called with the number of questions just finished


def complete(
    policy: Policy,
    questions: Sequence[Question],
    template: Template,
    sampling: Sampling,
    *,
    group_size: int = 1,
    step: int | Sequence[int] = 0,
    begun: Sequence[str] | None = None,
    progress: Progress | None = None,
    rows_in_flight: int = ROWS_IN_FLIGHT,
    prompts: Iterable[PromptInputs] | None = None,
) -> list[tuple[Completion, ...]]:
    """`group_size` completions for every question, in the order given.

    `step` keys the random streams; one number for all questions, or one for each. `prompts` are the
    questions' own, where the caller makes them; they are asked for as rows become free. `begun` gives the
    text that each question's completions begin with: it is part of their text; tokens and log-probabilities
    are those of what the model wrote behind it.
    """
    steps = [step] * len(questions) if isinstance(step, int) else step
    keys = [(s, q.id) for s, q in zip(steps, questions, strict=True)]
    if prompts is None:
        prompts = (policy.prompt_inputs(q, template) for q in questions)
    openings: list[tuple[int, ...]] = [()] * len(questions)
    if begun is not None:
        openings = [
            opening(policy, text, with_letters(text, q)).tokens
            for q, text in zip(questions, begun, strict=True)
        ]
        prompts = (extended(prompt, tokens) for prompt, tokens in zip(prompts, openings, strict=True))
    tokens, logprobs = generate(
        policy, prompts, keys, sampling, group_size, rows_in_flight=rows_in_flight, progress=progress
    )
    rows = [
        _completion(policy, openings[n // group_size], *row)
        for n, row in enumerate(zip(tokens, logprobs, strict=True))
    ]
    return [tuple(rows[n : n + group_size]) for n in range(0, len(rows), group_size)]


def _completion(
    policy: Policy, begun: tuple[int, ...], tokens: list[int], logprobs: list[float]
) -> Completion:
    stopped = tokens[-1] in policy.stop_ids
    text_ids = tokens[:-1] if stopped else tokens
    return Completion(
        text=policy.tokenizer.decode([*begun, *text_ids], skip_special_tokens=False),
        token_ids=tuple(tokens),
        sampled_logprobs=tuple(logprobs),
        finish_reason="stop" if stopped else "length",
    )


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Iterable[PromptInputs],
    keys: Sequence[Key],
    sampling: Sampling,
    group_size: int,
    *,
    rows_in_flight: int = ROWS_IN_FLIGHT,
    progress: Progress | None = None,
    fixed: bool | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids and their log-probabilities (nats, under the sampling distribution), `group_size` rows
    per prompt, rows of a prompt next to each other. The end token is included where one was drawn.

    What a row draws depends on its prompt, its key and its place in the group, never on its neighbours (on
    CUDA to rounding: how many rows are computed together chooses the kernels).
    `fixed` shapes are for devices that replay captured steps; by default those of CUDA.
    """
    was_training = policy.model.training
    policy.model.eval()
    # `decoding_model` has cast the weights already, so there is nothing that autocast should keep.
    enabled = policy.precision == "bf16"
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False):
        max_rows = min(rows_in_flight, len(keys) * group_size)
        rows = _rows_in_flight(policy, sampling, group_size, max_rows, fixed)
        finished = _decode(policy, rows, iter(prompts), keys, sampling, progress)
    policy.model.train(was_training)
    return [row.tokens for row in finished], [row.logprobs for row in finished]


def _rows_in_flight(
    policy: Policy, sampling: Sampling, group_size: int, max_rows: int, fixed: bool | None
) -> RowsInFlight:
    """New rows, or those of the last call where they fit: their captured steps are worth keeping."""
    fixed = policy.device.type == "cuda" if fixed is None else fixed
    drawing = Drawing(
        processor=policy.logits_processor(sampling.temperature),
        stop_ids=policy.stop_ids,
        max_tokens=sampling.max_completion_tokens,
        greedy=sampling.temperature == 0,
    )
    model = decoding_model(policy)
    kept = policy.kept.pop("rows", None)
    if kept is not None and kept.fits(model, drawing, group_size, max_rows):
        return kept
    del kept  # its memory goes first
    return RowsInFlight(model, drawing, group_size, max_rows, fixed)


def _decode(
    policy: Policy,
    rows: RowsInFlight,
    prompts: Iterator[PromptInputs],
    keys: Sequence[Key],
    sampling: Sampling,
    progress: Progress | None,
) -> list[Finished]:
    """Every row of every prompt, in order."""
    group_size, num_admitted = rows.group_size, 0
    finished: dict[int, Finished] = {}
    missing = [group_size] * len(keys)
    while len(finished) < len(keys) * group_size:
        if _is_turnover(rows, waiting=num_admitted < len(keys)):
            rows.drop_finished()
            while rows.room and num_admitted < len(keys):
                num_admitted += _admit(policy, rows, prompts, keys, num_admitted, sampling)
        for row in rows.take_finished():
            finished[row.owner] = row
            missing[row.owner // group_size] -= 1
            if progress is not None and missing[row.owner // group_size] == 0:
                progress(1)
        if rows.num_live:
            for _ in range(STEPS_BETWEEN_LOOKS if rows.fixed else 1):
                rows.step()
    if rows.fixed:
        rows.drop_finished()
        policy.kept["rows"] = rows
    return [finished[owner] for owner in range(len(finished))]


def _is_turnover(rows: RowsInFlight, waiting: bool) -> bool:
    held = len(rows.owner_of_row)
    if waiting and rows.max_rows - rows.num_live >= max(rows.group_size, TURNOVER_SHARE * rows.max_rows):
        return True
    return held - rows.num_live >= max(1, TURNOVER_SHARE * held)


def _admit(
    policy: Policy,
    rows: RowsInFlight,
    prompts: Iterator[PromptInputs],
    keys: Sequence[Key],
    first: int,
    sampling: Sampling,
) -> int:
    """Prefill the next prompts, as many as fit into one pass and have room; returns their number."""
    taken: list[PromptInputs] = []
    num_tokens = 0
    while len(taken) < min(rows.room, len(keys) - first) and num_tokens < PREFILL_TOKENS:
        taken.append(next(prompts))
        num_tokens += len(taken[-1].input_ids)
    trunks, tails = split(taken, policy.model.config.image_token_id)
    hidden_BD, layers = prefill(policy.model, policy.batch(trunks), tails, policy.features)
    boundaries = [0, *accumulate(len(prompt.input_ids) for prompt in taken)]
    prefilled = Prefilled(hidden_BD, layers, boundaries, [prompt.next_position for prompt in taken])
    streams = None
    if sampling.temperature > 0:
        streams = _uniforms(keys[first : first + len(taken)], sampling, rows.group_size)
    owners = range(first * rows.group_size, (first + len(taken)) * rows.group_size)
    rows.admit(prefilled, streams, list(owners))
    return len(taken)


def _uniforms(keys: Sequence[Key], sampling: Sampling, group_size: int) -> Tensor:
    """[rows, T], float64."""
    count = sampling.max_completion_tokens
    streams = [
        uniforms(sampling.seed, step, question_id, index, count)
        for step, question_id in keys
        for index in range(group_size)
    ]
    return torch.from_numpy(np.stack(streams))
