"""Attention of spans of a packed sequence, forward and backward, with the log-sum-exp that merges parts.

Three implementations of the same two functions: PyTorch's flash kernel for CPUs, neighbouring spans of one
size in one call; its variable-length flash kernel for CUDA in bf16 and fp16, all spans in one call; and plain
matrix products for the rest, against which the other two are tested. A backward takes output and log-sum-exp
of all parts together, and adds the share of its own part to the gradients.

Shapes: S query rows, M key rows, N spans, n and m rows of one span, H query heads, K key/value heads,
Q = H / K, E head dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from osler.policy.products import HALF, at_least_fp32

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

    def runs(self, together: bool) -> Iterator[tuple[slice, slice, int]]:
        """Query rows and keys of neighbouring spans of one size, or of each alone, and how many they are.

        Spans without query rows are left out.
        """
        spans = list(zip(pairwise(self.queries), pairwise(self.keys), strict=True))
        alike = [list(run) for _, run in groupby(spans, key=_size)] if together else [[s] for s in spans]
        for run in alike:
            ((start, end), (seen, _)), ((_, stop), (_, seen_stop)) = run[0], run[-1]
            if end > start:
                yield slice(start, stop), slice(seen, seen_stop), len(run)


def _size(span: tuple[tuple[int, int], tuple[int, int]]) -> tuple[int, int]:
    (a, b), (c, d) = span
    return b - a, d - c


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
    if q.device.type == "cuda" and q.dtype in HALF:
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


def _heads(x_SHE: Tensor, sharing: int = 1, count: int = 1) -> Tensor:
    """[N n, H, E] -> [N, H, n, E] where heads share no keys, else, of one span, [K, Q, n, E]; a view."""
    S, H, E = x_SHE.shape
    if sharing == 1:
        return x_SHE.view(count, S // count, H, E).transpose(1, 2)
    return x_SHE.view(S, H // sharing, sharing, E).permute(1, 2, 0, 3)


def _shared(x_MKE: Tensor, sharing: int, count: int) -> Tensor:
    """[N m, K, E] -> [N, H, m, E] or [K, Q, m, E], a view that repeats without copying."""
    if sharing == 1:
        return _heads(x_MKE, 1, count)
    return x_MKE.transpose(0, 1)[:, None].expand(-1, sharing, -1, -1)


class Spanwise(ABC):
    """Kernels that take spans of one size, heads first."""

    def forward(self, x: Tensors, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x.q[part.rows], memory_format=torch.contiguous_format)
        lse = torch.empty(out.shape[:2], dtype=at_least_fp32(out.dtype), device=out.device)
        sharing = _sharing(x)
        for rows, seen, count in part.runs(together=sharing == 1):
            here = slice(rows.start - part.rows.start, rows.stop - part.rows.start)
            span_out, span_lse = self.span_forward(_spans(x, rows, seen, sharing, count), part.causal, scale)
            _heads(out[here], sharing, count).copy_(span_out)
            _heads(lse[here, :, None], sharing, count)[..., 0].copy_(span_lse)
        return out, lse

    def backward(
        self, grads: Tensors, grad_out: Tensor, x: Tensors, out: Tensor, lse: Tensor, part: Part, scale: float
    ) -> None:
        sharing = _sharing(x)
        for rows, seen, count in part.runs(together=sharing == 1):
            spans = _spans(x, rows, seen, sharing, count)
            go, o, l1 = (_heads(t[rows], sharing, count) for t in (grad_out, out, lse[..., None]))
            added = self.span_backward(spans, go, o, l1[..., 0], part.causal, scale)
            _heads(grads.q[rows], sharing, count).add_(added.q)
            for grad, more in ((grads.k, added.k), (grads.v, added.v)):
                _heads(grad[seen], count=count).add_(more if sharing == 1 else more.sum(1))

    @abstractmethod
    def span_forward(self, x: Tensors, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """[N, H, n or m, E] each -> output [N, H, n, E] and log-sum-exp [N, H, n]; or K for N and Q for H."""

    @abstractmethod
    def span_backward(
        self, x: Tensors, grad_out: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Tensors:
        """The gradients of all three."""


def _sharing(x: Tensors) -> int:
    return x.q.shape[1] // x.k.shape[1]


def _spans(x: Tensors, rows: slice, seen: slice, sharing: int, count: int) -> Tensors:
    q, k, v = x.q[rows], x.k[seen], x.v[seen]
    return Tensors(_heads(q, sharing, count), _shared(k, sharing, count), _shared(v, sharing, count))


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
    dtype = at_least_fp32(x.q.dtype)
    scores = x.q.to(dtype) @ x.k.to(dtype).transpose(-1, -2) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores


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
    """Boundaries from 0 on, on the device, and the longest span or more, of queries and of keys."""
    bounds = [torch.tensor(b, dtype=torch.int32) - b[0] for b in (part.queries, part.keys)]
    longest = [int(b.diff().max()) for b in bounds]
    # At 1 the kernel takes every span for one row, and stops at an empty one; it is an upper bound to it.
    return bounds[0].to(device), bounds[1].to(device), max(2, longest[0]), longest[1]
