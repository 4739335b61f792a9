"""Rotary position embedding, the same rotation for language model and tower.

Shapes: S tokens, H heads, E head dimension, F = E / 2 frequencies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, [S, 1, F] each, fp32."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, angles_SF: Tensor, scaling: float = 1.0) -> Rotation:
        return cls((angles_SF.cos() * scaling)[:, None], (angles_SF.sin() * scaling)[:, None])


def rotate(x_SHE: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (x[i], x[i + F]), computed in fp32 (RoFormer, arXiv 2104.09864)."""
    if torch.is_grad_enabled():
        return _Rotate.apply(x_SHE, *rotation)
    return _rotated(x_SHE, *rotation)


class _Rotate(torch.autograd.Function):
    # A rotation's gradient is the inverse rotation, so nothing of x is kept.
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    low, high = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=low).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=high).addcmul_(first, sin)
    return out.to(x.dtype)
