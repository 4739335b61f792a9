"""The least a row can cost: its useful floating-point operations at the machine's measured ceiling.

What is useful is the product's own count (`osler.costs.flops`). Only matrix products are in it: norms,
rotations, softmax and everything that moves data are free, so no implementation reaches the floor.
"""

from __future__ import annotations

import json
import time

import torch

from benchmarks.fast_path.case import Case
from benchmarks.fast_path.timing import wait
from osler.costs.flops import GroupWork, Scheme, StepFlops, rollout_flops, update_flops
from osler.costs.shape import ModelShape, model_shape

MATMUL_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
SECONDS_PER_SIDE = 0.5
PRODUCTS_PER_LOOK = {"cpu": 1, "cuda": 20}  # between two looks at the clock
COPY_BYTES = {"cpu": 2**28, "cuda": 2**32}


def useful_flops(case: Case) -> StepFlops:
    """Of one whole step of the case, tower and language model trained, with the reference."""
    shape, row, scale = shape_of(case), case.row, case.scale
    prompt = row.image_tokens + scale.text_tokens
    patches = row.image_tokens * shape.tower.merge
    group = GroupWork(prompt, (patches,), (row.completion_tokens,) * row.group_size)
    step = rollout_flops(shape, group, Scheme()) + update_flops(shape, group, Scheme())
    return step.times(scale.questions)


def shape_of(case: Case) -> ModelShape:
    return model_shape(json.loads((case.checkpoint / "config.json").read_text(encoding="utf-8")))


def decode_bytes(shape: ModelShape, prompt: int, rows: int, prompts: int, tokens: int, width: int) -> int:
    """Bytes that decoding cannot avoid reading: weights once per token, each prompt's cache once per token,
    each row's own cache; `width` bytes per number."""
    weights = shape.layers * shape.layer_matrix_parameters + shape.width * shape.vocabulary
    cached = 2 * shape.layers * shape.keys
    steps = tokens - 1  # the first token comes out of the prefill
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
