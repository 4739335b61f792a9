"""The chunked head against all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from osler.policy import head as head_module
from osler.policy.head import token_logprobs
from osler.policy.logits import LogitsProcessor

M, V, D = 23, 101, 8


def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, generator=generator).requires_grad_()
    weight = torch.randn(V, D, generator=generator).requires_grad_()
    targets = torch.randint(10, V - 1, (M,), generator=generator)
    return hidden, weight, targets


def all_at_once(
    hidden: Tensor, weight: Tensor, targets: Tensor, processor: LogitsProcessor
) -> tuple[Tensor, Tensor]:
    logprobs = processor(hidden @ weight.T).log_softmax(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], torch.special.entr(logprobs.exp()).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("masked", [(), (0, 3, 40, 100)])
@pytest.mark.parametrize("columns", [7, 1000])
def test_chunks_equal_the_whole(
    temperature: float, masked: tuple[int, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "HEAD_CHUNK_COLUMNS", columns)
    monkeypatch.setattr(head_module, "HEAD_CHUNK_ELEMENTS", 30 if columns == 7 else 10**6)
    hidden, weight, targets = case()
    targets[targets == 40] = 41
    processor = LogitsProcessor(masked, temperature)
    logprobs, entropy = token_logprobs(hidden, weight, targets, processor, with_entropy=True)
    expected, expected_entropy = all_at_once(hidden, weight, targets, processor)
    torch.testing.assert_close(logprobs, expected, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-5, rtol=1e-5)
    grad = torch.linspace(-1, 1, M)
    for fast, slow in zip(
        torch.autograd.grad(logprobs, (hidden, weight), grad),
        torch.autograd.grad(expected, (hidden, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_no_more_logits_than_allowed_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    logits_of = head_module._logits

    def watched(*arguments: object) -> Tensor:
        logits = logits_of(*arguments)  # type: ignore[arg-type]
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(head_module, "_logits", watched)
    monkeypatch.setattr(head_module, "HEAD_CHUNK_COLUMNS", 16)
    monkeypatch.setattr(head_module, "HEAD_CHUNK_ELEMENTS", 64)
    hidden, weight, targets = case()
    token_logprobs(hidden, weight, targets, LogitsProcessor())[0].sum().backward()
    assert max(sizes) == 64 and sum(sizes) == 2 * M * V


def test_a_frozen_head_gets_no_gradient_and_asks_for_none() -> None:
    hidden, weight, targets = case()
    frozen = weight.detach()
    token_logprobs(hidden, frozen, targets, LogitsProcessor())[0].sum().backward()
    assert frozen.grad is None and hidden.grad is not None
    entropy = token_logprobs(hidden, frozen, targets, LogitsProcessor())[1]
    assert not entropy.any() and not entropy.requires_grad


def test_chunks_of_bf16_products_are_not_rounded_before_they_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = (t.detach() for t in case())
    found = []
    for columns, elements in ((1000, 10**6), (7, 30)):
        monkeypatch.setattr(head_module, "HEAD_CHUNK_COLUMNS", columns)
        monkeypatch.setattr(head_module, "HEAD_CHUNK_ELEMENTS", elements)
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logprobs = token_logprobs(*leaves, targets, LogitsProcessor())[0]
        found.append(torch.autograd.grad(logprobs.sum(), leaves))
    for whole, chunked in zip(*found, strict=True):
        assert float((whole - chunked).norm() / whole.norm()) < 1e-4


def test_bf16_weights_and_autocast_stay_near_fp32() -> None:
    hidden, weight, targets = case()
    exact = token_logprobs(hidden, weight, targets, LogitsProcessor())[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = token_logprobs(hidden, weight, targets, LogitsProcessor())[0]
    rounded.sum().backward()
    assert rounded.dtype == torch.float32 and weight.grad.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1
    half = weight.detach().bfloat16().requires_grad_()
    token_logprobs(hidden.detach().bfloat16(), half, targets, LogitsProcessor())[0].sum().backward()
    assert half.grad.dtype == torch.bfloat16
    difference = (half.grad.float() - weight.grad).norm() / weight.grad.norm()
    assert difference < 0.02
