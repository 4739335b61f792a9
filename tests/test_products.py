"""Half-precision products in fp32 against the same products in fp64."""

from __future__ import annotations

import pytest
import torch

from osler.policy.cache import CacheSize, RowCache
from osler.policy.products import add_product, matmul_fp32


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_product_is_not_rounded_to_its_inputs_type(dtype: torch.dtype, autocast: bool) -> None:
    a, b = randn(2, 3, 5, 64, seed=0).to(dtype), randn(2, 3, 64, 7, seed=1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        product = matmul_fp32(a, b)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), a.double() @ b.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_add_up_in_fp32(dtype: torch.dtype) -> None:
    total = torch.zeros(6, 9)
    pairs = [(randn(5, 6, seed=i).to(dtype), randn(5, 9, seed=100 + i).to(dtype)) for i in range(50)]
    for a, b in pairs:
        add_product(total[1:4], a.T[1:4], b)
    exact = sum(a.double().T @ b.double() for a, b in pairs)
    assert isinstance(exact, torch.Tensor)
    torch.testing.assert_close(total[1:4].double(), exact[1:4], atol=1e-4, rtol=1e-5)
    assert not total[0].any() and not total[4:].any()


def test_decoding_weighs_large_scores_as_exactly_as_the_other_kernels() -> None:
    """Scores around 100, where neighbouring bf16 numbers are 0.5 apart: a weight would move by a quarter."""
    size = CacheSize(layers=1, kv_heads=2, head_dim=64, rows=3, prompts=2, tokens=4)
    cache = RowCache(size, torch.bfloat16, torch.device("cpu"), fused=False)
    shared = 4 * randn(64, seed=0)  # what queries and keys have in common
    q = (shared + 0.1 * randn(3, 4, 64, seed=1)).to(torch.bfloat16)
    own_k, k = ((shared + 0.3 * randn(n, 2, 64, seed=n)).to(torch.bfloat16) for n in (3, 40))
    own_v, v = (randn(n, 2, 64, seed=100 + n).to(torch.bfloat16) for n in (3, 40))
    cache.put([(k, v)], [0, 40], 0)
    cache.arrange([0, 0, 0], (3, 2, 3))
    cache.begin(torch.zeros(3, dtype=torch.long), cache.prompt_kv.shape[4], 4)
    out = cache.attend(0, q, own_k, own_v).double()
    keys = torch.cat([k.expand(3, -1, -1, -1), own_k[:, None]], 1).double().repeat_interleave(2, 2)
    values = torch.cat([v.expand(3, -1, -1, -1), own_v[:, None]], 1).double().repeat_interleave(2, 2)
    scores = torch.einsum("nhe,nmhe->nhm", q.double(), keys) / 8
    assert 80 < scores.mean() < 200 and 0.5 < scores.std() < 5
    exact, rounded = (
        torch.einsum("nhm,nmhe->nhe", s.double().softmax(-1), values) for s in (scores, scores.bfloat16())
    )
    assert (rounded - exact).abs().max() > 0.05
    assert (out - exact).abs().max() < 0.01
