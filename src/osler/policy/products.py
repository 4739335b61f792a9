"""Products of half-precision matrices that stay in fp32.

A product of bf16 matrices is summed in fp32 and rounded to bf16 as it is written. Where a softmax or more
summands follow, that rounding does harm: around a score of 100 neighbouring bf16 numbers are 0.5 apart. CUDA
writes fp32 from half-precision matrices; elsewhere they are cast first.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """fp32 for half precision, others as they are."""
    return torch.promote_types(dtype, torch.float32)


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """[X, Y, n, k] @ [X, Y, k, m] -> [X, Y, n, m] in fp32 at least, under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        if a.is_cuda and a.dtype in HALF:
            product = torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32)
            return product.unflatten(0, a.shape[:2])
        dtype = at_least_fp32(a.dtype)
        return a.to(dtype) @ b.to(dtype)


def add_product(total_nm: Tensor, a_nk: Tensor, b_km: Tensor) -> None:
    """`total` (fp32) += a @ b."""
    if total_nm.is_cuda and a_nk.dtype in HALF:
        torch.addmm(total_nm, a_nk, b_km, out_dtype=torch.float32, out=total_nm)
    else:
        total_nm.addmm_(a_nk.to(total_nm.dtype), b_km.to(total_nm.dtype))
