"""Exact attention over one packed sequence: every prompt once, its completions against it.

The rows of a block may look at several spans of keys (a completion at its prompt and at itself), each a
part with kernel calls of its own. Parts are merged by their log-sum-exp: scores are never held in memory,
prompts never copied. The backward gives every part the merged output and log-sum-exp, which makes its
share of the gradient exact (FlashAttention, arXiv 2205.14135, appendix B).

Shapes: S packed tokens, R query rows, H query heads, K key/value heads, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from osler.policy.kernels import Tensors, kernel_for
from osler.policy.packing import Blocks


def attention(q_RHE: Tensor, k_SKE: Tensor, v_SKE: Tensor, blocks: Blocks, scale: float) -> Tensor:
    """Attention output [R, H, E]. The blocks' query rows are all of `q_RHE`, in order."""
    return _Attention.apply(q_RHE, k_SKE, v_SKE, blocks, scale)


def merge(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Outputs [..., E] and log-sum-exps [...] over disjoint keys -> those over all of them together."""
    out, lse = parts[0]
    for part_out, part_lse in parts[1:]:
        share = torch.sigmoid(part_lse - lse)[..., None]
        out = torch.lerp(out, part_out, share.to(out.dtype))
        lse = torch.logaddexp(lse, part_lse)
    return out, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, scale: float) -> Tensor:
        kernel, x = kernel_for(q), Tensors(q, k, v)
        merged = [merge([kernel.forward(x, part, scale) for part in block]) for block in blocks]
        out, lse = (torch.cat(pieces) for pieces in zip(*merged, strict=True)) if merged[1:] else merged[0]
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grads = Tensors(torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v))
        kernel, x = kernel_for(q), Tensors(q, k, v)
        for part in (part for block in ctx.blocks for part in block):
            kernel.backward(grads, grad_out.contiguous(), x, out, lse, part, ctx.scale)
        return *grads, None, None
