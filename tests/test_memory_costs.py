"""Bytes of training against the tensors of real models and what autograd really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from osler.config import TrainConfig, from_json
from osler.costs import memory
from osler.costs.flops import GroupWork
from osler.costs.memory import Layout, Memory
from osler.costs.shape import QWEN2_VL_2B, ModelShape, model_shape
from osler.costs.workload import Workload, workload
from osler.optim import CHUNK_ELEMENTS, build_optimizer
from osler.policy import head
from osler.policy.decoding import decoding_model
from osler.policy.forward import PolicyForward
from osler.policy.inputs import ImageInputs, PromptBatch
from osler.policy.load import Policy
from osler.policy.logits import LogitsProcessor
from osler.rollout import engine
from osler.rollout.rows import Drawing, RowsInFlight
from osler.train.loop import LORA_TARGETS, frozen_copy
from test_costs import build, qwen2_5_vl, qwen2_vl

PATCHES, TEXT, GROUP, TOKENS = 96, 120, 5, 40
WORK = GroupWork(TEXT + PATCHES // 4, (PATCHES,), (TOKENS,) * GROUP)
HELD: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16 products": {"precision": "bf16"},
    "bf16 weights": {"precision": "bf16", "master_weights": False},
}


def configured(held: str, **model: Any) -> TrainConfig:
    return from_json({"model": {**HELD[held], **model}})


def model_of(stock: Any, held: str) -> tuple[Any, ModelShape]:
    model = build(stock)
    if held == "bf16 weights":
        model = model.to(torch.bfloat16)
    return model, model_shape(stock.to_dict())


def test_chunks_are_those_of_the_code() -> None:
    assert memory.HEAD_CHUNK_ELEMENTS == head.HEAD_CHUNK_ELEMENTS
    assert memory.ROWS_IN_FLIGHT == engine.ROWS_IN_FLIGHT
    assert memory.PREFILL_TOKENS == engine.PREFILL_TOKENS
    assert memory.ROUNDING_CHUNK_ELEMENTS == CHUNK_ELEMENTS


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("stock", [qwen2_vl(), qwen2_vl(tie_word_embeddings=False), qwen2_5_vl()])
def test_what_stays_is_counted_to_the_byte(stock: Any, held: str) -> None:
    """Weights, gradients, AdamW's moments, reference and decoding copy."""
    model, shape = model_of(stock, held)
    config = configured(held)
    layout = Layout.of(config, shape)
    assert memory.weight_bytes(layout) == sum(p.nbytes for p in model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = build_optimizer(model.parameters(), config.optim)
    optimizer.step()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert layout.trained * layout.trained_width == gradients
    moments = [t for state in optimizer.state.values() for k, t in state.items() if k != "step"]
    assert 2 * gradients == sum(t.nbytes for t in moments)
    policy = Policy(model, _NoTokens(), None, "", None, precision=config.model.precision)
    reference = frozen_copy(policy)
    assert memory.reference_bytes(layout) == sum(p.nbytes for p in reference.parameters())
    decoding_model(policy)
    copies = policy.kept["cast"][1] if "cast" in policy.kept else []
    assert memory.decoding_copy_bytes(layout) == sum(c.nbytes for c in copies)


@pytest.mark.parametrize(("rows", "group_size"), [(24, 8), (20, 5), (7, 1), (3, 4)])
def test_rows_in_flight_take_what_is_said(rows: int, group_size: int) -> None:
    """Keys and values alone, of prompts that are all as long as the longest."""
    model, shape = model_of(qwen2_vl(), "fp32")
    config = configured("fp32")
    policy = Policy(model, _NoTokens(), None, "", None)
    drawing = Drawing(LogitsProcessor(), (), TOKENS, greedy=True)
    flying = RowsInFlight(decoding_model(policy), drawing, group_size, rows, fixed=False)
    flying.cache._reserve(WORK.prompt_tokens)
    work = GroupWork(WORK.prompt_tokens, WORK.image_patches, (TOKENS,) * group_size)
    held = flying.cache.own_kv.nbytes + flying.cache.prompt_kv.nbytes
    assert memory.cache_bytes(Layout.of(config, shape), work, rows) == held


class _NoTokens:
    def __init__(self) -> None:
        self.added_tokens_decoder: dict[int, Any] = {}


def saved_by_autograd(model: Any, config: TrainConfig) -> int:
    """Bytes of the distinct storages that a forward keeps, weights themselves left out."""
    ids = torch.tensor([5] * TEXT + [250] * (PATCHES // 4))
    positions = torch.arange(len(ids)).expand(3, -1)
    pixels = torch.randn(PATCHES, 1176)
    image = ImageInputs("image", pixels, (1, 8, PATCHES // 8))
    batch = PromptBatch(ids, positions, (len(ids),), (len(ids),), (image,), (0,), pixels)
    processor = LogitsProcessor(masked_ids=(), temperature=1.0)
    forward = PolicyForward(model, processor, config.model.precision, config.model.gradient_checkpointing)
    completions = torch.randint(0, 200, (1, GROUP, TOKENS))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        logprobs, _ = forward(batch, completions, torch.ones_like(completions, dtype=torch.bool))
    assert logprobs.requires_grad
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("held", HELD)
def test_what_autograd_keeps(held: str, recompute: bool) -> None:
    """Within 5 %: indices, masks and the norms' statistics are not counted."""
    model, shape = model_of(qwen2_vl(), held)
    config = configured(held, gradient_checkpointing=recompute)
    predicted = memory.saved_bytes(Layout.of(config, shape), (WORK,))
    assert predicted == pytest.approx(saved_by_autograd(model, config), rel=0.05)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("held", HELD)
def test_what_autograd_keeps_of_an_adapter(held: str, recompute: bool) -> None:
    """Within 8 %; a frozen tower keeps nothing."""
    from peft import LoraConfig, get_peft_model

    model, shape = model_of(qwen2_vl(), held)
    get_peft_model(model, LoraConfig(r=4, target_modules=LORA_TARGETS))
    config = configured(held, gradient_checkpointing=recompute, lora_rank=4)
    predicted = memory.saved_bytes(Layout.of(config, shape), (WORK,))
    assert predicted == pytest.approx(saved_by_autograd(model, config), rel=0.08)


def test_phases_do_not_add_up_but_compete() -> None:
    one = Memory(*(10**n for n in range(12)))
    held = 10**0 + 10**2 + 10**3 + 10**5 + 10**6
    assert one.phases() == {
        "rollout": held + 10**9,
        "reference": held + 10**4 + 10**10,
        "loss": held + 10**1 + 10**7 + 10**8,
        "optimizer": held + 10**1 + 10**11,
    }
    assert one.peak == held + 10 + 10**11


def released(**sections: dict[str, Any]) -> tuple[TrainConfig, Workload]:
    model = {"precision": "bf16", "master_weights": False, "gradient_checkpointing": True}
    values = {"model": {**model, "microbatch_tokens": 2048}, "grpo": {"group_size": 8, "kl_coef": 0.04}}
    config = from_json({k: {**values.get(k, {}), **sections.get(k, {})} for k in ("model", "grpo")})
    return config, workload(config, QWEN2_VL_2B.tower, completion_tokens=150)


@pytest.mark.parametrize(
    ("sections", "giga"),
    [
        ({"model": {"lora_rank": 16}}, 12),
        ({"grpo": {"kl_coef": 0.0}}, 24),
        ({}, 32),
    ],
)
def test_the_small_machines_of_the_table(sections: dict[str, Any], giga: int) -> None:
    """Qwen2-VL-2B, G = 8, 512 image tokens, 150-token completions; a gigabyte is left for the driver."""
    config, load = released(**sections)
    assert memory.predict_memory(config, QWEN2_VL_2B, load).peak < (giga - 1) * 1e9


def test_an_offloaded_reference_is_never_there_beside_gradients() -> None:
    here, away = (
        memory.predict_memory(*_swap(released(grpo={"offload_reference": offload})))
        for offload in (False, True)
    )
    assert here.reference == away.visiting_reference == QWEN2_VL_2B.parameters * 2
    assert here.phases()["loss"] - away.phases()["loss"] == here.reference
    assert here.phases()["reference"] == away.phases()["reference"]


def _swap(given: tuple[TrainConfig, Workload]) -> tuple[TrainConfig, ModelShape, Workload]:
    return given[0], QWEN2_VL_2B, given[1]
