"""The least a row can cost: its useful floating-point operations at the machine's measured ceiling.

Useful means: image and prompt once per question, every completion token once, the head only where a
completion token is predicted, causal attention only over what it sees; a multiplication and an addition are
two operations; the backward pass is twice the forward. Only matrix products count: norms, rotations, softmax
and everything that moves data are free here, so no implementation reaches the floor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.fast_path.timing import wait

MATMUL_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
SECONDS_PER_SIDE = 0.5
PRODUCTS_PER_LOOK = {"cpu": 1, "cuda": 20}  # between two looks at the clock
COPY_BYTES = {"cpu": 2**28, "cuda": 2**32}


@dataclass(frozen=True)
class ForwardFlops:
    """Operations of one forward pass over one question and its group."""

    patches: int  # the tower's first layer: its input needs no gradient
    tower: int  # the rest of the tower, merger included
    prompt: int
    completions: int
    head: int

    @property
    def total(self) -> int:
        return self.patches + self.tower + self.prompt + self.completions + self.head

    def update(self) -> int:
        """Reference forward, loss forward, backward; the tower trained along."""
        return 4 * self.total - self.patches

    def rollout(self) -> int:
        """Prompt once, completions token by token: the same products as one forward."""
        return self.total


def forward_flops(config: Any, patches: int, text_tokens: int, group_size: int, tokens: int) -> ForwardFlops:
    """Of a Qwen2-VL `config`: one image of `patches`, `text_tokens` more, `group_size` completions."""
    vision, text = config.vision_config, config.get_text_config()
    width, merged = vision.embed_dim, vision.spatial_merge_size**2
    side = vision.patch_size**2 * vision.temporal_patch_size * vision.in_channels
    block = 2 * patches * (4 * width**2 + 2 * width * int(width * vision.mlp_ratio))
    block += 4 * patches * patches * width  # every patch sees every patch
    merger = 2 * patches // merged * ((merged * width) ** 2 + merged * width * vision.hidden_size)
    prompt = patches // merged + text_tokens
    inputs = tokens - 1  # the last token of a completion predicts nothing
    return ForwardFlops(
        patches=2 * patches * side * width,
        tower=vision.depth * block + merger,
        prompt=_decoder(text, prompt, prompt * (prompt + 1) // 2),
        completions=group_size * _decoder(text, inputs, inputs * prompt + inputs * (inputs + 1) // 2),
        head=2 * group_size * tokens * text.hidden_size * text.vocab_size,
    )


def _decoder(text: Any, positions: int, pairs: int) -> int:
    """All layers for so many positions, which see so many (query, key) pairs between them."""
    head = text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    linear = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
    return text.num_hidden_layers * (2 * positions * linear + 4 * pairs * queries)


def decode_bytes(config: Any, prompt: int, rows: int, prompts: int, tokens: int, width: int) -> int:
    """Bytes that decoding cannot avoid reading: weights once per token, each prompt's cache once per token,
    each row's own cache; `width` bytes per number."""
    text = config.get_text_config()
    head = text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    layer = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
    weights = text.num_hidden_layers * layer + text.hidden_size * text.vocab_size
    cached = 2 * text.num_hidden_layers * keys
    steps = tokens - 1
    own = rows * steps * (steps + 1) // 2
    return width * (steps * (weights + prompts * prompt * cached) + own * cached)


def matmul_ceiling(device: str, dtype: torch.dtype) -> float:
    """Operations per second of the fastest square matrix product, as one process gets them."""
    best = 0.0
    clock = time.process_time if device == "cpu" else time.perf_counter
    for side in MATMUL_SIDES[device]:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = a @ b
        runs = 0
        wait(device)
        start = clock()
        while clock() - start < SECONDS_PER_SIDE:
            for _ in range(PRODUCTS_PER_LOOK[device]):
                torch.mm(a, b, out=out)
            runs += PRODUCTS_PER_LOOK[device]
            wait(device)
        best = max(best, 2 * side**3 * runs / (clock() - start))
    return best


def copy_ceiling(device: str) -> float:
    """Bytes per second of a copy, counting those read and those written."""
    a = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    b = torch.ones_like(a)
    best = 0.0
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        b.copy_(a)
        wait(device)
        best = max(best, 2 * a.numel() / (time.perf_counter() - start))
    return best
