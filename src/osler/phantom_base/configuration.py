"""Size and shape of the tiny Qwen2-VL, its image processor, and the weights that training starts from.

A model this small does not find by itself, in minutes, the circuits that a large one gets from its
pre-training: to look at the token before, and to find an earlier place with the same content. Its first
weights therefore hold them (a structured initialisation, in the spirit of "mimetic initialization",
Trockman and Kolter, arXiv 2305.09828); everything they are used for is learnt. For the same reason the tower
starts with cosine filters and with heads that look at neighbouring patches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

HIDDEN = 128
LAYERS = 4
HEADS = 4
TOWER_HIDDEN = 128
TOWER_LAYERS = 4
TOWER_HEADS = 4
ROPE_THETA = 100_000.0
# Rotary pairs of time, height and width. Width takes the slowest ones, so it gets most of them: otherwise
# left and right of an image would look alike to the language model.
MROPE_SECTION = (1, 1, 14)
MIN_PIXELS = 56 * 56
MAX_PIXELS = 112 * 112  # 16 image tokens

EMBEDDING_STD = 0.1
SHIFTS = {0: (1, 2)}  # layer: its heads that look so many tokens back
MATCHES = {1: 2, 2: 2}  # layer: number of heads that look for the same content
SHIFT_SHARPNESS = 14.0
MATCH_SHARPNESS = 2.5
NEIGHBOURS = (1, 2)  # by block of the tower: how many patches away its heads look at first
NEIGHBOUR_SHARPNESS = 40.0
FIRST_SLOW_PAIR = 7  # rotary pairs from here on turn by less than a radian over a prompt


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """The configuration for `tokenizer`'s vocabulary, rounded up to a multiple of 64."""

    def token(text: str) -> int:
        return tokenizer.get_vocab()[text]

    return Qwen2VLConfig(
        text_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 3 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_section": list(MROPE_SECTION),
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": TOWER_LAYERS,
            "embed_dim": TOWER_HIDDEN,
            "num_heads": TOWER_HEADS,
            "hidden_size": HIDDEN,
            "mlp_ratio": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_image_processor() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS})


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """The untrained model, fp32; a pure function of vocabulary and seed."""
    config = build_config(tokenizer)
    model = Qwen2VLForConditionalGeneration(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _draw_all(model, rng)
        for index, layer in enumerate(model.model.language_model.layers):
            _place_heads(layer.self_attn, index, rng)
        tower = model.model.visual
        tower.patch_embed.proj.weight.copy_(cosine_filters())
        for index, stride in enumerate(NEIGHBOURS):
            _neighbour_heads(tower.blocks[index].attn, stride)
    vocabulary = tokenizer.get_vocab()
    model.generation_config.eos_token_id = vocabulary["<|im_end|>"]
    model.generation_config.pad_token_id = vocabulary["<|endoftext|>"]
    model.generation_config.bos_token_id = vocabulary["<|endoftext|>"]
    return model


def cosine_filters() -> Tensor:
    """First patch filters [TOWER_HIDDEN, 3, 2, 14, 14]: cosines, slow ones first, in grey and in two colours.

    Pictures hold most of their power at low frequencies; the gain grows with frequency to even that out.
    """
    side = torch.arange(14) + 0.5
    plain = (1.0, 1.0, 1.0)
    filters = []
    for colour, count in ((plain, TOWER_HIDDEN - 30), ((1.0, -1.0, 0.0), 15), ((0.5, 0.5, -1.0), 15)):
        waves = sorted(
            ((u, v) for u in range(14) for v in range(14)), key=lambda w: (w[0] ** 2 + w[1] ** 2, w)
        )
        for u, v in waves[:count]:
            wave = torch.outer(torch.cos(math.pi * u * side / 14), torch.cos(math.pi * v * side / 14))
            unit = wave / wave.norm() * (1.0 + math.hypot(u, v)) ** 1.4 / 14
            filters.append(torch.tensor(colour)[:, None, None, None] * unit.expand(1, 2, 14, 14) / 6)
    return torch.stack(filters)


def _neighbour_heads(attention: Any, stride: int) -> None:
    """Heads of the tower that look `stride` patches up, down, left and right.

    Rotary pairs of the tower: height first, then width.
    """
    query, key = slice(0, TOWER_HIDDEN), slice(TOWER_HIDDEN, 2 * TOWER_HIDDEN)  # rows of the fused map
    size = TOWER_HIDDEN // TOWER_HEADS
    quarter = size // 4
    speed = 1.0 / 10_000.0 ** (torch.arange(quarter) / quarter)
    strength = torch.zeros(quarter)
    strength[:2] = math.sqrt(NEIGHBOUR_SHARPNESS)
    for head, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
        rows = slice(head * size, (head + 1) * size)
        angle = torch.cat([speed * down, speed * right]) * stride
        amplitude = torch.cat([strength, strength])
        attention.qkv.weight[query][rows] *= 0.3
        attention.qkv.weight[key][rows] *= 0.3
        attention.qkv.bias[query][rows] = torch.cat([angle.cos(), angle.sin()]) * amplitude.repeat(2)
        constant = torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
        attention.qkv.bias[key][rows] = constant * amplitude.repeat(2)


def _draw_all(model: nn.Module, rng: torch.Generator) -> None:
    """Every matrix at a scale that keeps the size of what it maps; the last one of a branch is smaller."""
    last_of_branch = ("o_proj", "down_proj", "attn.proj", "mlp.fc2")
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            weight.normal_(0.0, EMBEDDING_STD, generator=rng)
        elif weight.ndim == 1:
            weight.fill_(1.0 if "norm" in name or "ln_q" in name else 0.0)
            if name.endswith("bias"):
                weight.zero_()
        else:
            std = 1.0 / math.sqrt(weight[0].numel())
            if any(part in name for part in last_of_branch):
                std *= 0.3
            if "language_model" in name and any(part in name for part in ("o_proj", "down_proj")):
                std *= EMBEDDING_STD
            if "merger.mlp.2" in name:
                std *= 3.0 * EMBEDDING_STD
            weight.normal_(0.0, std, generator=rng)


def _place_heads(attention: Any, layer: int, rng: torch.Generator) -> None:
    shifts, num_matches = SHIFTS.get(layer, ()), MATCHES.get(layer, 0)
    for head, shift in enumerate(shifts):
        _shift_head(attention, head, shift, rng)
    for head in range(len(shifts), len(shifts) + num_matches):
        _match_head(attention, head, rng)


def _rows(head: int) -> slice:
    size = HIDDEN // HEADS
    return slice(head * size, (head + 1) * size)


def _orthonormal(rng: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=rng))[0]


def _copy(attention: Any, head: int, rng: torch.Generator) -> None:
    """The head writes what it reads into another part of the stream, at the size of an embedding."""
    size, basis = HIDDEN // HEADS, _orthonormal(rng)
    attention.v_proj.weight[_rows(head)] = basis[:size]
    attention.o_proj.weight[:, _rows(head)] = basis[size : 2 * size].T * EMBEDDING_STD


def _shift_head(attention: Any, head: int, shift: int, rng: torch.Generator) -> None:
    """Query and key are constants whose rotary angles agree exactly `shift` tokens back."""
    size = HIDDEN // HEADS
    speed = 1.0 / ROPE_THETA ** (torch.arange(0, size, 2) / size)
    amplitude = math.sqrt(SHIFT_SHARPNESS * math.sqrt(size) / (size // 2))
    attention.q_proj.weight[_rows(head)] = 0.0
    attention.k_proj.weight[_rows(head)] = 0.0
    angle = -shift * speed
    attention.q_proj.bias[_rows(head)] = torch.cat([angle.cos(), angle.sin()]) * amplitude
    attention.k_proj.bias[_rows(head)] = (
        torch.cat([torch.ones(size // 2), torch.zeros(size // 2)]) * amplitude
    )
    _copy(attention, head, rng)


def _match_head(attention: Any, head: int, rng: torch.Generator) -> None:
    """Query and key are the same map, in the rotary pairs that hardly turn: equal content attracts."""
    size = HIDDEN // HEADS
    slow = torch.cat(
        [torch.arange(FIRST_SLOW_PAIR, size // 2), torch.arange(FIRST_SLOW_PAIR, size // 2) + size // 2]
    )
    both = torch.zeros(size, HIDDEN)
    both[slow] = _orthonormal(rng)[: len(slow)] * math.sqrt(MATCH_SHARPNESS * size / len(slow))
    attention.q_proj.weight[_rows(head)] = both
    attention.k_proj.weight[_rows(head)] = both
    _copy(attention, head, rng)
