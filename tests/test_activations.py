"""Activations against autograd's own derivatives, and what they keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.activations import ACT2FN

from osler.policy.activations import gated_silu, quick_gelu

CASES = {
    "gated_silu": (gated_silu, lambda gate, up: silu(gate) * up, 2),
    "quick_gelu": (quick_gelu, ACT2FN["quick_gelu"], 1),
}


def inputs(count: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 40, 24)
    return [(4 * x).to(dtype).requires_grad_() for x in torch.randn(shape, generator=generator)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_the_same_value_with_and_without_gradient(name: str, dtype: torch.dtype) -> None:
    own, plain, count = CASES[name]
    given = inputs(count, dtype)
    with torch.no_grad():
        quiet, expected = own(*given), plain(*given)
    torch.testing.assert_close(own(*given), expected, rtol=0, atol=0)
    torch.testing.assert_close(quiet, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    own, _, count = CASES[name]
    assert torch.autograd.gradcheck(own, inputs(count, torch.float64))


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_autograds(name: str) -> None:
    own, plain, count = CASES[name]
    given = inputs(count, torch.float32)
    ours = torch.autograd.grad(own(*given).square().sum(), given)
    expected = torch.autograd.grad(plain(*given).square().sum(), given)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_only_inputs_are_kept(name: str) -> None:
    own, plain, count = CASES[name]
    given = [x * 1 for x in inputs(count, torch.float32)]
    assert _kept(own, given) == {x.data_ptr() for x in given}
    assert len(_kept(plain, given)) > len(given)


def _kept(activation: Callable[..., Tensor], given: list[Tensor]) -> set[int]:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        activation(*given)
    return {t.data_ptr() for t in kept}
