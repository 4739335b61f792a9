"""Attention of spans of a packed sequence, forward and backward, with the log-sum-exp that merges parts.

Three implementations of the same two functions: PyTorch's flash kernel for CPUs, span by span; its
variable-length flash kernel for CUDA in bf16 and fp16, all spans in one call; and plain matrix products
for the rest, against which the other two are tested. A backward takes output and log-sum-exp of all parts
together, and adds the share of its own part to the gradients.

Shapes: S query rows, M key rows, n and m those of one span, H query heads, K key/value heads, Q = H / K,
E head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Part:
    """Spans of query rows, and the span of keys that each of them sees, as boundaries."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool = False  # row i of a span sees keys 0..i of its span

    @property
    def rows(self) -> slice:
        return slice(self.queries[0], self.queries[-1])

    @property
    def seen(self) -> slice:
        return slice(self.keys[0], self.keys[-1])

    def spans(self) -> Iterator[tuple[slice, slice]]:
        """Query rows and keys of every span that has query rows."""
        for (a, b), (c, d) in zip(pairwise(self.queries), pairwise(self.keys), strict=True):
            if b > a:
                yield slice(a, b), slice(c, d)


class Tensors(NamedTuple):
    """Queries [S, H, E], keys and values [M, K, E]; or their gradients."""

    q: Tensor
    k: Tensor
    v: Tensor


class Kernel(Protocol):
    """Attention of one part."""

    def forward(self, x: Tensors, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        """Output [rows, H, E] and log-sum-exp [rows, H] (nats, fp32 at least) of the part's query rows."""
        ...

    def backward(
        self, grads: Tensors, grad_out: Tensor, x: Tensors, out: Tensor, lse: Tensor, part: Part, scale: float
    ) -> None:
        """Add to `grads`. `grad_out`, `out` [S, H, E] and `lse` [S, H] belong to all parts together."""
        ...


def kernel_for(q: Tensor) -> Kernel:
    """The fastest kernel for tensors like `q`."""
    if q.device.type == "cpu":
        return CpuFlash()
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        return CudaFlash()
    return Plain()


def biased_cpu_attention(
    q_BHnE: Tensor, kv_2BHmE: Tensor, bias_B11m: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [B, H, n, E] and log-sum-exp [B, H, n] on a CPU, `bias` added to the scaled scores."""
    bias = bias_B11m.expand(-1, -1, q_BHnE.shape[2], -1)
    return aten._scaled_dot_product_flash_attention_for_cpu(
        q_BHnE, kv_2BHmE[0], kv_2BHmE[1], 0.0, False, attn_mask=bias, scale=scale
    )


def _heads(x_nHE: Tensor, sharing: int) -> Tensor:
    """[n, H, E] -> [K, Q, n, E], a view: query heads by the keys they share."""
    n, H, E = x_nHE.shape
    return x_nHE.view(n, H // sharing, sharing, E).permute(1, 2, 0, 3)


def _shared(x_mKE: Tensor, sharing: int) -> Tensor:
    """[m, K, E] -> [K, Q, m, E], a view that repeats without copying."""
    m, K, E = x_mKE.shape
    return x_mKE.view(m, K, 1, E).permute(1, 2, 0, 3).expand(K, sharing, m, E)


class Spanwise:
    """Kernels that take one span at a time, heads first."""

    def forward(self, x: Tensors, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x.q[part.rows], memory_format=torch.contiguous_format)
        lse = torch.empty(out.shape[:2], dtype=_score_dtype(out), device=out.device)
        for rows, seen in part.spans():
            here = slice(rows.start - part.rows.start, rows.stop - part.rows.start)
            span, sharing = _span(x, rows, seen)
            span_out, span_lse = self.span_forward(span, part.causal, scale)
            _heads(out[here], sharing).copy_(span_out)
            _heads(lse[here, :, None], sharing)[..., 0].copy_(span_lse)
        return out, lse

    def backward(
        self, grads: Tensors, grad_out: Tensor, x: Tensors, out: Tensor, lse: Tensor, part: Part, scale: float
    ) -> None:
        for rows, seen in part.spans():
            span, sharing = _span(x, rows, seen)
            go, o, l1 = (_heads(t[rows], sharing) for t in (grad_out, out, lse[..., None]))
            added = self.span_backward(span, go, o, l1[..., 0], part.causal, scale)
            _heads(grads.q[rows], sharing).add_(added.q)
            grads.k[seen] += added.k.sum(1).transpose(0, 1)
            grads.v[seen] += added.v.sum(1).transpose(0, 1)

    def span_forward(self, x: Tensors, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """[K, Q, n or m, E] each -> output [K, Q, n, E] and log-sum-exp [K, Q, n]."""
        raise NotImplementedError

    def span_backward(
        self, x: Tensors, grad_out: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Tensors:
        raise NotImplementedError


def _span(x: Tensors, rows: slice, seen: slice) -> tuple[Tensors, int]:
    sharing = x.q.shape[1] // x.k.shape[1]
    span = Tensors(_heads(x.q[rows], sharing), _shared(x.k[seen], sharing), _shared(x.v[seen], sharing))
    return span, sharing


class CpuFlash(Spanwise):
    def span_forward(self, x: Tensors, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        return aten._scaled_dot_product_flash_attention_for_cpu(*x, 0.0, causal, scale=scale)

    def span_backward(
        self, x: Tensors, grad_out: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Tensors:
        return Tensors(
            *aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out, *x, out, lse, 0.0, causal, scale=scale
            )
        )


class Plain(Spanwise):
    """Scores in memory, in fp32 at least."""

    def span_forward(self, x: Tensors, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        scores = _scores(x, causal, scale)
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp() @ x.v.to(scores.dtype), lse

    def span_backward(
        self, x: Tensors, grad_out: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Tensors:
        weights = (_scores(x, causal, scale) - lse[..., None]).exp()
        q, k, v, grad_out, out = (t.to(weights.dtype) for t in (*x, grad_out, out))
        of_weights = grad_out @ v.transpose(-1, -2) - (grad_out * out).sum(-1, keepdim=True)
        of_scores = weights * of_weights * scale
        return Tensors(of_scores @ k, of_scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ grad_out)


def _scores(x: Tensors, causal: bool, scale: float) -> Tensor:
    dtype = _score_dtype(x.q)
    scores = x.q.to(dtype) @ x.k.to(dtype).transpose(-1, -2) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores


def _score_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


class CudaFlash:
    """As `torch.nn.attention.varlen` calls it, whose own backward would not take merged outputs."""

    def forward(self, x: Tensors, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        out, lse_HS, *_ = aten._flash_attention_forward(
            x.q[part.rows],
            x.k[part.seen],
            x.v[part.seen],
            *_lengths(part, x.q.device),
            0.0,
            part.causal,
            return_debug_mask=False,
            scale=scale,
        )
        return out, lse_HS.T

    def backward(
        self, grads: Tensors, grad_out: Tensor, x: Tensors, out: Tensor, lse: Tensor, part: Part, scale: float
    ) -> None:
        rows, seen = part.rows, part.seen
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=out.device)
        dq, dk, dv = aten._flash_attention_backward(
            grad_out[rows],
            x.q[rows],
            x.k[seen],
            x.v[seen],
            out[rows],
            lse[rows].T.contiguous(),
            *_lengths(part, out.device),
            0.0,
            part.causal,
            no_dropout,
            torch.empty(0, device=out.device),
            scale=scale,
        )
        grads.q[rows] += dq
        grads.k[seen] += dk
        grads.v[seen] += dv


@lru_cache(maxsize=64)  # every layer asks again
def _lengths(part: Part, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    """Boundaries from 0 on, on the device, and the longest span, of queries and of keys."""
    bounds = [torch.tensor(b, dtype=torch.int32) - b[0] for b in (part.queries, part.keys)]
    longest = [int(b.diff().max()) for b in bounds]
    return bounds[0].to(device), bounds[1].to(device), longest[0], longest[1]
