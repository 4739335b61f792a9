"""Operations, bytes and seconds of a step against a published table, PyTorch's counter and autograd."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from osler.config import TrainConfig, from_json
from osler.costs.flops import (
    GroupWork,
    Scheme,
    causal_pairs,
    decoder_flops,
    forward_flops,
    head_flops,
    rollout_flops,
    tower_flops,
    update_flops,
)
from osler.costs.microbatches import fill, packed_tokens
from osler.costs.shape import QWEN2_VL_2B, model_shape
from osler.costs.workload import image_patches, workload
from osler.errors import BadInput

TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}  # fmt: skip
IDS = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
GRID = (1, 8, 12)
TERA = 1e12


def qwen2_vl(**text: Any) -> Qwen2VLConfig:
    return Qwen2VLConfig(
        text_config={**TEXT, **text},
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 3},
        tie_word_embeddings={**TEXT, **text}["tie_word_embeddings"],
        **IDS,
    )


def qwen2_5_vl() -> Qwen2_5_VLConfig:
    vision = {
        "depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 80, "out_hidden_size": 64,
        "window_size": 56, "fullatt_block_indexes": [1, 3],
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, tie_word_embeddings=True, **IDS)


def build(config: Any) -> Any:
    torch.manual_seed(0)
    is_older = config.model_type == "qwen2_vl"
    kind: Any = Qwen2VLForConditionalGeneration if is_older else Qwen2_5_VLForConditionalGeneration
    return kind._from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("config", [qwen2_vl(), qwen2_vl(tie_word_embeddings=False), qwen2_5_vl()])
def test_parameters_are_those_of_the_stock_model(config: Any) -> None:
    model, shape = build(config), model_shape(config.to_dict())
    assert sum(p.numel() for p in model.model.visual.parameters()) == shape.tower.parameters
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    matrices = [m.weight for m in model.model.modules() if isinstance(m, (nn.Linear, nn.Conv3d))]
    assert sum(w.numel() for w in matrices) == shape.matrix_parameters
    linear = [m for m in model.model.language_model.modules() if isinstance(m, nn.Linear)]
    assert sum(5 * (m.in_features + m.out_features) for m in linear) == shape.lora_parameters(5)


def test_the_released_model(released: Mapping[str, Any]) -> None:
    """Flat as on the hub; 2.21 billion parameters, 665 million of them in the tower."""
    assert model_shape(released) == QWEN2_VL_2B
    assert round(QWEN2_VL_2B.parameters / 1e9, 2) == 2.21
    assert round(QWEN2_VL_2B.tower.parameters / 1e6) in (665, 666)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**released))
    assert sum(p.numel() for p in model.parameters()) == QWEN2_VL_2B.parameters


@pytest.fixture(scope="module")
def released() -> dict[str, Any]:
    """`config.json` of Qwen2-VL-2B-Instruct, as far as sizes go."""
    return {
        "model_type": "qwen2_vl", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3,
            "hidden_size": 1536, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
    }  # fmt: skip


def test_unknown_families_and_missing_sizes_are_named(released: Mapping[str, Any]) -> None:
    with pytest.raises(BadInput, match="family llava is not supported"):
        model_shape({**released, "model_type": "llava"})
    with pytest.raises(BadInput, match="hidden_size is missing"):
        model_shape({k: v for k, v in released.items() if k != "hidden_size"})


def test_published_figures_of_one_pass() -> None:
    """Of Qwen2-VL-2B: per token, per image of 196 and 512 tokens, per prompt with 100 text tokens, per
    completion of 150 tokens (there counted with all 150 as inputs)."""
    shape = QWEN2_VL_2B
    assert round(decoder_flops(shape, 1, 0)[0] / 1e9, 3) == 2.620
    assert round(head_flops(shape, 1) / 1e9, 3) == 0.467
    for tokens, vision, prompt, completion in ((196, 1.103, 0.783, 0.403), (512, 3.305, 1.636, 0.411)):
        assert round(sum(tower_flops(shape.tower, 4 * tokens)) / TERA, 3) == vision
        length = tokens + 100
        assert round(sum(decoder_flops(shape, length, causal_pairs(length))) / TERA, 3) == prompt
        pairs = causal_pairs(150, before=length)
        assert round(sum(decoder_flops(shape, 150, pairs)) / TERA, 3) == completion
    assert image_patches(shape.tower, 401_408) == 4 * 512 and image_patches(shape.tower, 392**2) == 4 * 196


@pytest.mark.parametrize(
    ("scheme", "small", "large"),
    [
        (Scheme(recompute=True), 34.0, 52.7),
        (Scheme(recompute=True, reference=False), 28.3, 43.9),
        (Scheme(), 28.9, 44.5),
        (Scheme(tower=False, lora_rank=1, reference=False, recompute=True), 19.4, 25.2),
    ],
)
def test_published_figures_of_one_step(scheme: Scheme, small: float, large: float) -> None:
    """Teraflops of a question, G = 8, 150 tokens. The table counts one input token more per completion, and
    with LoRA neither the adapter nor the second half of attention's backward pass."""
    for tokens, published in ((196, small), (512, large)):
        work = GroupWork(tokens + 100, (4 * tokens,), (150,) * 8)
        total = update_flops(QWEN2_VL_2B, work, scheme) + rollout_flops(QWEN2_VL_2B, work, scheme)
        assert total.executed / TERA == pytest.approx(published, rel=0.01)


def counted(model: Any, ids: torch.Tensor, pixels: torch.Tensor, backward: bool) -> dict[str, int]:
    """Operations by top-level module as PyTorch counts them; eager attention does not know of causality."""
    counter = FlopCounterMode(display=False)
    types = (ids == IDS["image_token_id"]).int()
    with counter:
        out = model(
            input_ids=ids, pixel_values=pixels, image_grid_thw=torch.tensor([GRID]), mm_token_type_ids=types
        )
        if backward:
            out.logits.sum().backward()
    totals = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    return {name.rpartition(".")[2]: n for name, n in totals.items()}


@pytest.mark.parametrize("config", [qwen2_vl(), qwen2_5_vl()])
def test_forward_and_backward_equal_pytorchs_counter(config: Any) -> None:
    model, shape = build(config), model_shape(config.to_dict())
    patches = GRID[1] * GRID[2]
    ids = torch.tensor([[5] * 7 + [250] * (patches // 4) + [6] * 9])
    pixels = torch.randn(patches, shape.tower.patch_values)
    length = ids.shape[1]
    forward = counted(model, ids, pixels, backward=False)
    first, rest = tower_flops(shape.tower, patches)
    assert forward["visual"] == first + rest  # 8 x 12 patches are whole windows of 4 x 4
    assert forward["language_model"] == sum(decoder_flops(shape, length, length * length))
    assert forward["lm_head"] == head_flops(shape, length)
    both = counted(model, ids, pixels, backward=True)["Global"]
    assert both == 3 * forward["Global"] - first  # the first product's input needs no gradient


def test_lora_backward_against_pytorchs_counter() -> None:
    """A frozen matrix costs one product in the backward pass; the adapters three."""
    from peft import LoraConfig, get_peft_model

    config = qwen2_vl()
    model, shape = build(config), model_shape(config.to_dict())
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    length = 40
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=torch.arange(length)[None]).logits.sum().backward()
    work = GroupWork(length, (), ())
    one = forward_flops(shape, work)
    adapters = 2 * length * shape.lora_parameters(4)
    eager = 4 * shape.layers * length**2 * shape.queries  # attention without causality
    scheme = Scheme(tower=False, lora_rank=4, reference=False)
    ours = update_flops(shape, work, scheme).useful - 3 * one.attention + 3 * eager
    head = head_flops(shape, length)  # here every position is scored
    # The first adapter's down-projections need no gradient of their input either.
    unneeded = 2 * length * 3 * 4 * shape.width
    assert ours + 2 * head - unneeded == counter.get_total_flops()
    assert adapters < one.linear


def test_a_frozen_tower_costs_one_pass() -> None:
    work = GroupWork(296, (784,), (150,) * 8)
    frozen = Scheme(tower=False)
    vision = sum(tower_flops(QWEN2_VL_2B.tower, 784))
    first = tower_flops(QWEN2_VL_2B.tower, 784)[0]
    trained, still = (update_flops(QWEN2_VL_2B, work, s) for s in (Scheme(), frozen))
    assert trained.useful - still.useful == 4 * vision - first
    assert rollout_flops(QWEN2_VL_2B, work, frozen) == rollout_flops(QWEN2_VL_2B, work, Scheme())


def test_scheme_of_a_configuration() -> None:
    config = from_json({"model": {"lora_rank": 4}, "grpo": {"kl_coef": 0.0, "updates_per_rollout": 2}})
    assert Scheme.of(config) == Scheme(tower=False, lora_rank=4, reference=False, old_logprobs=True)
    assert Scheme.of(replace(TrainConfig(), method="sft")) == Scheme(reference=False)


def test_filled_lists_hold_every_index_once_within_the_budget() -> None:
    rng = random.Random(0)
    for _ in range(200):
        sizes = [rng.randint(1, 60) for _ in range(rng.randint(0, 12))]
        budget = rng.randint(1, 80)
        filled = fill(sizes, budget)
        assert sorted(i for indices in filled for i in indices) == list(range(len(sizes)))
        assert all(indices == sorted(indices) for indices in filled)
        assert all(sum(sizes[i] for i in n) <= budget or len(n) == 1 for n in filled)
        fewest = fewest_lists(tuple(sorted(min(s, budget) for s in sizes)), budget)
        assert fewest <= len(filled) <= math.ceil(11 * fewest / 9)


@cache
def fewest_lists(sizes: tuple[int, ...], budget: int) -> int:
    """By trying every subset that can go with the largest size."""
    if not sizes:
        return 0
    *rest, largest = sizes
    subsets = chain.from_iterable(combinations(range(len(rest)), n) for n in range(len(rest) + 1))
    fitting = [s for s in subsets if sum(rest[i] for i in s) <= budget - largest]
    # One that another fitting subset contains is never better.
    maximal = [s for s in fitting if not any(set(s) < set(t) for t in fitting)]
    left = {tuple(n for i, n in enumerate(rest) if i not in s) for s in maximal}
    return 1 + min(fewest_lists(sizes, budget) for sizes in left)


def test_a_step_is_cut_by_the_token_budget() -> None:
    tower = QWEN2_VL_2B.tower
    values = {"model": {"max_pixels": 392**2}, "grpo": {"group_size": 8, "max_completion_tokens": 150}}
    tokens = packed_tokens(GroupWork(296, (784,), (150,) * 8), tower=True)
    assert tokens == 296 + 8 * 149 + 392
    for budget, groups in ((1, 1), (3 * tokens - 1, 2), (3 * tokens, 3), (10**6, 8)):
        model = {**values["model"], "microbatch_tokens": budget}
        assert workload(from_json({**values, "model": model}), tower).microbatch == groups
    frozen = {**values["model"], "microbatch_tokens": 3 * tokens, "freeze_vision_tower": True}
    assert workload(from_json({**values, "model": frozen}), tower).microbatch == 3 * tokens // (tokens - 392)
