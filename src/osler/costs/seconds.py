"""Seconds of a step by part, predicted from its operations and bytes and what the machine can do."""

from __future__ import annotations

from dataclasses import dataclass

from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme, StepFlops, forward_flops, rollout_flops, update_flops
from osler.costs.memory import ROWS_IN_FLIGHT, Layout
from osler.costs.shape import ModelShape
from osler.costs.workload import Workload

# Shares of a ceiling that a whole pass reaches: beside its products it moves data, and they are not square.
PRODUCT_SHARE = 0.5
BANDWIDTH_SHARE = 0.5
CALLS_PER_LAYER = 30  # operations of one decoding step in one layer
OPTIMIZER_PASSES = 10  # how often a step reads or writes a weight-sized tensor


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do: operations and bytes per second, seconds to start one small operation."""

    flops_per_second: float
    bytes_per_second: float
    seconds_per_call: float


def decode_bytes(shape: ModelShape, prompt: int, rows: int, prompts: int, tokens: int, width: int) -> int:
    """Bytes that decoding cannot avoid reading: weights once per token, each prompt's cache once per token,
    each row's own cache; `width` bytes per number."""
    weights = shape.layers * shape.layer_matrix_parameters + shape.width * shape.vocabulary
    cached = 2 * shape.layers * shape.keys
    steps = tokens - 1  # the first token comes out of the prefill
    own = rows * steps * (steps + 1) // 2
    return width * (steps * (weights + prompts * prompt * cached) + own * cached)


def predict_seconds(
    config: TrainConfig, shape: ModelShape, load: Workload, machine: Ceilings
) -> dict[str, float]:
    """`time/rollout`, `time/reference`, `time/loss`, `time/optimizer` and their sum `time/step`."""
    scheme, layout = Scheme.of(config), Layout.of(config, shape)
    rate = machine.flops_per_second * PRODUCT_SHARE
    update = update_flops(shape, load.work, scheme).times(load.questions)
    seconds = {}
    if load.rollout_questions:
        sampled = rollout_flops(shape, load.work, scheme).times(load.questions)
        seconds["time/rollout"] = _rollout(layout, load, sampled.rollout, machine)
        seconds["time/reference"] = update.reference / rate
        update = update + StepFlops(loss=sampled.loss)
    seconds["time/loss"] = (update.loss + update.backward + update.recompute) / rate
    moved = OPTIMIZER_PASSES * layout.trained * layout.trained_width
    seconds["time/optimizer"] = moved / (machine.bytes_per_second * BANDWIDTH_SHARE)
    return {**seconds, "time/step": sum(seconds.values())}


def _rollout(layout: Layout, load: Workload, flops: int, machine: Ceilings) -> float:
    """Prefill at the rate of products; then token by token, as fast as the slowest of products, reading and
    starting operations allows."""
    work, shape = load.work, layout.shape
    prefill = forward_flops(shape, GroupWork(work.prompt_tokens, work.image_patches, ())).total
    prefill *= load.questions
    rows = load.questions * len(work.completion_tokens)
    waves = -(-rows // ROWS_IN_FLIGHT)
    together = -(-rows // waves)
    tokens = max(work.completion_tokens)
    prompts = -(-together // len(work.completion_tokens))
    read = waves * decode_bytes(shape, work.prompt_tokens, together, prompts, tokens, layout.product)
    calls = waves * tokens * (shape.layers * CALLS_PER_LAYER)
    rate = machine.flops_per_second * PRODUCT_SHARE
    decoding = max((flops - prefill) / rate, read / (machine.bytes_per_second * BANDWIDTH_SHARE))
    return prefill / rate + max(decoding, calls * machine.seconds_per_call)
