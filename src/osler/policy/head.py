"""Log-probabilities of given tokens from hidden states, without ever holding all logits.

Positions and vocabulary are both walked in chunks. The forward keeps a running maximum and sum per
position (online softmax, arXiv 1805.02867), the backward computes each chunk of logits again.

Shapes: M positions, V vocabulary, D hidden size; m and v are a chunk of M and V.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from osler.policy.logits import LogitsProcessor, column_index
from osler.policy.products import add_product

HEAD_CHUNK_ELEMENTS = 2**24  # logits alive at once: 64 MiB in fp32
HEAD_CHUNK_COLUMNS = 2**14


def token_logprobs(
    hidden_MD: Tensor,
    weight_VD: Tensor,
    targets_M: Tensor,
    processor: LogitsProcessor,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target (with gradient), and entropy of its distribution (without), in nats.

    Both [M] in fp32; the entropy stays 0 unless asked for. Under autocast the products are taken in its
    type and everything after them in fp32.
    """
    return _TokenLogprobs.apply(hidden_MD, weight_VD, targets_M, processor, with_entropy)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        processor: LogitsProcessor,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden_MD.device.type
        autocast = torch.is_autocast_enabled(device)
        ctx.dtype = torch.get_autocast_dtype(device) if autocast else weight_VD.dtype
        ctx.processor = processor
        M = hidden_MD.shape[0]
        highest_M, sum_M, dot_M, target_M = torch.zeros((4, M), device=hidden_MD.device).unbind()
        highest_M.fill_(float("-inf"))
        with torch.autocast(device, enabled=False):
            for columns, rows in _chunks(hidden_MD, weight_VD):
                logits_mv = _logits(ctx, hidden_MD, weight_VD, rows, columns)
                found_m, at_m1 = _places(targets_M[rows], columns)
                target_M[rows] += torch.where(found_m, logits_mv.gather(1, at_m1)[:, 0], 0.0)
                top_m = torch.maximum(highest_M[rows], logits_mv.amax(1))
                weights_mv = (logits_mv - top_m[:, None]).exp_()
                shrink_m = (highest_M[rows] - top_m).exp_()
                sum_M[rows] = sum_M[rows] * shrink_m + weights_mv.sum(1)
                if with_entropy:
                    # A masked logit is -inf and its weight 0; their product would not be 0.
                    masked = column_index(_masked(processor, columns), logits_mv.device)
                    logits_mv.index_fill_(1, masked, 0.0)
                    dot_M[rows] = dot_M[rows] * shrink_m + weights_mv.mul_(logits_mv).sum(1)
                highest_M[rows] = top_m
        lse_M = highest_M + sum_M.log()
        entropy_M = lse_M - dot_M / sum_M if with_entropy else torch.zeros_like(lse_M)
        ctx.save_for_backward(hidden_MD, weight_VD, targets_M, lse_M)
        ctx.mark_non_differentiable(entropy_M)
        return target_M - lse_M, entropy_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, targets_M, lse_M = ctx.saved_tensors
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        # In fp32, because the chunks add up in them.
        grad_hidden_MD = torch.zeros(hidden_MD.shape, device=grad_M.device) if need_hidden else None
        grad_weight_VD = torch.zeros(weight_VD.shape, device=grad_M.device) if need_weight else None
        scale = 1.0 if ctx.processor.temperature == 0 else 1.0 / ctx.processor.temperature
        for columns, rows in _chunks(hidden_MD, weight_VD):
            grad_mv = _logits(ctx, hidden_MD, weight_VD, rows, columns).sub_(lse_M[rows, None]).exp_()
            grad_mv.mul_(-grad_M[rows, None])
            found_m, at_m1 = _places(targets_M[rows], columns)
            grad_mv.scatter_add_(1, at_m1, (grad_M[rows] * found_m)[:, None])
            grad_mv = (grad_mv.mul_(scale) if scale != 1.0 else grad_mv).to(ctx.dtype)
            if grad_hidden_MD is not None:
                add_product(grad_hidden_MD[rows], grad_mv, weight_VD[columns].to(ctx.dtype))
            if grad_weight_VD is not None:
                add_product(grad_weight_VD[columns], grad_mv.T, hidden_MD[rows].to(ctx.dtype))
        return grad_hidden_MD, grad_weight_VD, None, None, None


def _logits(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, rows: slice, columns: slice) -> Tensor:
    logits_mv = hidden_MD[rows].to(ctx.dtype) @ weight_VD[columns].to(ctx.dtype).T
    return replace(ctx.processor, masked_ids=_masked(ctx.processor, columns))(logits_mv)


def _masked(processor: LogitsProcessor, columns: slice) -> tuple[int, ...]:
    return tuple(i - columns.start for i in processor.masked_ids if columns.start <= i < columns.stop)


def _places(targets_m: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in this chunk of the vocabulary, and their column in it (0 for the others)."""
    found_m = (targets_m >= columns.start) & (targets_m < columns.stop)
    return found_m, torch.where(found_m, targets_m - columns.start, 0)[:, None]


def _chunks(hidden_MD: Tensor, weight_VD: Tensor) -> Iterator[tuple[slice, slice]]:
    """Columns of the vocabulary and rows of the positions, rows fastest."""
    M, V = hidden_MD.shape[0], weight_VD.shape[0]
    width = min(V, HEAD_CHUNK_COLUMNS)
    height = max(1, HEAD_CHUNK_ELEMENTS // width)
    for c in range(0, V, width):
        for r in range(0, M, height):
            yield slice(c, min(c + width, V)), slice(r, min(r + height, M))
