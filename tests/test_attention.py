"""Packed attention in parts against one dense mask, kernel by kernel."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from osler.policy import attention as attention_module
from osler.policy import kernels
from osler.policy.attention import attention
from osler.policy.kernels import CpuFlash, CudaFlash, Kernel, Part, Plain, Tensors
from osler.policy.packing import Packing
from osler.policy.rotary import Rotation, rotate

# Prompts of different length; completions of different length, one without input tokens, one group of such.
PACKINGS = {
    "ragged": Packing([7, 12, 3], [[5, 1, 9], [4, 0, 2], [0, 0, 0]]),
    "equal": Packing([6, 6], [[4, 4], [4, 4]]),
    "prompts": Packing([5, 9]),
    "letters": Packing([4, 5], [[1, 0], [1, 1]]),
}
H, E, SCALE = 6, 16, 0.3
KEY_HEADS = (2, 6)  # shared by three query heads each, and one of each query head


def dense_mask(packing: Packing) -> Tensor:
    """[S, S]: a token sees earlier ones of its own stretch, and of the prompt that its stretch follows."""
    stretch, prompt = [], []
    num_prompts = len(packing.prompts) - 1
    for b, (start, stop) in enumerate(zip(packing.prompts, packing.prompts[1:], strict=False)):
        stretch += [b] * (stop - start)
        prompt += [b] * (stop - start)
    for n, (start, stop) in enumerate(zip(packing.completions, packing.completions[1:], strict=False)):
        owner = next(b for b, end in enumerate(packing.groups[1:]) if start < end) if stop > start else 0
        stretch += [num_prompts + n] * (stop - start)
        prompt += [owner] * (stop - start)
    stretch_S, prompt_S = torch.tensor(stretch), torch.tensor(prompt)
    earlier = torch.ones(len(stretch), len(stretch), dtype=torch.bool).tril()
    own = stretch_S[:, None] == stretch_S[None]
    to_prompt = (prompt_S[:, None] == prompt_S[None]) & (stretch_S[None] < num_prompts)
    return earlier & (own | to_prompt)


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    sharing = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(sharing, 1), v.repeat_interleave(sharing, 1)
    scores = torch.einsum("she,the->hst", q, k) * SCALE
    return torch.einsum("hst,the->she", scores.masked_fill(~mask, float("-inf")).softmax(-1), v)


def inputs(rows: int, key_heads: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, H, E), (rows, key_heads, E), (rows, key_heads, E))
    return [torch.randn(s, dtype=dtype, generator=generator).requires_grad_() for s in shapes]


class VarlenStandIn:
    """`torch.ops.aten`, its CUDA kernels by plain products, as `torch.nn.attention.varlen` documents them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name)

    @staticmethod
    def _parts(cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool) -> Part:
        assert cu_q.dtype == cu_k.dtype == torch.int32 and cu_q[0] == cu_k[0] == 0
        assert max_q >= cu_q.diff().max() and max_k >= cu_k.diff().max()
        # With heads that share keys, the kernel takes a longest span of 1 to mean one row in every span.
        assert max_q > 1 or (cu_q.diff() == 1).all()
        return Part(tuple(cu_q.tolist()), tuple(cu_k.tolist()), causal)

    def _flash_attention_forward(
        self, q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
        dropout: float, causal: bool, *, return_debug_mask: bool, scale: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        part = self._parts(cu_q, cu_k, max_q, max_k, causal)
        out, lse = Plain().forward(Tensors(q, k, v), part, scale)
        return out, lse.T.contiguous(), Tensor(), Tensor(), Tensor()

    def _flash_attention_backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_HS: Tensor, cu_q: Tensor,
        cu_k: Tensor, max_q: int, max_k: int, dropout: float, causal: bool, rng: Tensor, unused: Tensor,
        *, scale: float,
    ) -> Tensors:  # fmt: skip
        assert lse_HS.shape == (H, q.shape[0]) and lse_HS.is_contiguous()
        part = self._parts(cu_q, cu_k, max_q, max_k, causal)
        grads = Tensors(torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v))
        Plain().backward(grads, grad, Tensors(q, k, v), out, lse_HS.T, part, scale)
        return grads


@pytest.fixture(params=["cpu flash", "cuda flash", "plain"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Each kernel in turn, wherever the test runs; CUDA's own calls are stood in for."""
    chosen: Kernel = {"cpu flash": CpuFlash(), "cuda flash": CudaFlash(), "plain": Plain()}[request.param]
    if request.param == "cuda flash":
        monkeypatch.setattr(kernels, "aten", VarlenStandIn())
    monkeypatch.setattr(attention_module, "kernel_for", lambda q: chosen)
    yield chosen
    kernels._lengths.cache_clear()


@pytest.mark.parametrize("key_heads", KEY_HEADS)
@pytest.mark.parametrize("name", PACKINGS)
def test_parts_equal_one_dense_mask_with_gradients(kernel: Kernel, name: str, key_heads: int) -> None:
    packing = PACKINGS[name]
    q, k, v = inputs(packing.completions[-1], key_heads)
    out = attention(q, k, v, packing.blocks, SCALE)
    expected = dense(q, k, v, dense_mask(packing))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    for fast, slow in zip(
        torch.autograd.grad(out, (q, k, v), grad),
        torch.autograd.grad(expected, (q, k, v), grad),
        strict=True,
    ):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)


@pytest.mark.parametrize("key_heads", KEY_HEADS)
@pytest.mark.parametrize("name", PACKINGS)
def test_the_last_layer_is_the_rows_that_are_read(kernel: Kernel, name: str, key_heads: int) -> None:
    packing = PACKINGS[name]
    q, k, v = inputs(packing.completions[-1], key_heads)
    rows = packing.read_rows
    out = attention(q[rows], k, v, packing.last_blocks, SCALE)
    torch.testing.assert_close(out, dense(q, k, v, dense_mask(packing))[rows], atol=1e-12, rtol=0)


def test_spans_of_one_size_together_are_the_spans_one_by_one() -> None:
    """Bit for bit: what a span gives does not hang on its neighbours."""
    part = Part((0, 64, 128, 128, 192, 200), (0, 64, 128, 130, 194, 202), causal=True)
    q, k, v = (t.detach() for t in inputs(202, H, torch.float32))
    q = q[:200]
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    alone = [
        Part(spans[:2], spans[2:], True)
        for spans in zip(part.queries, part.queries[1:], part.keys, part.keys[1:], strict=False)
        if spans[1] > spans[0]
    ]
    assert [count for *_, count in part.runs(together=True)] == [2, 1, 1]
    kernel, x = CpuFlash(), Tensors(q, k, v)
    out, lse = kernel.forward(x, part, SCALE)
    one_by_one = [kernel.forward(x, one, SCALE) for one in alone]
    for together, pieces in zip((out, lse), zip(*one_by_one, strict=True), strict=True):
        assert torch.equal(together, torch.cat(pieces))
    both = []
    for parts in ([part], alone):
        grads = Tensors(*(torch.zeros_like(t) for t in x))
        for one in parts:
            kernel.backward(grads, grad, x, out, lse, one, SCALE)
        both.append(grads)
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_which_kernel_runs_where() -> None:
    def on(device: str, dtype: torch.dtype) -> Any:
        return kernels.kernel_for(SimpleNamespace(device=torch.device(device), dtype=dtype))  # type: ignore[arg-type]

    assert isinstance(on("cpu", torch.float32), CpuFlash)
    assert isinstance(on("cuda", torch.bfloat16), CudaFlash)
    assert isinstance(on("cuda", torch.float32), Plain)


def test_the_cuda_kernels_take_what_is_passed() -> None:
    """The names and order of their arguments, as this PyTorch declares them."""
    forward = torch.ops.aten._flash_attention_forward.default._schema
    backward = torch.ops.aten._flash_attention_backward.default._schema
    assert [a.name for a in forward.arguments][:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
        "return_debug_mask",
    ]  # fmt: skip
    assert [a.name for a in backward.arguments][:14] == [
        "grad_out", "query", "key", "value", "out", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k",
        "dropout_p", "is_causal", "rng_state", "unused",
    ]  # fmt: skip
    assert "scale" in {a.name for a in forward.arguments} & {a.name for a in backward.arguments}


def test_rotation_is_the_textbook_one_and_its_gradient_the_inverse() -> None:
    x = torch.randn(5, 3, 8, requires_grad=True)
    angles = torch.randn(5, 4)
    out = rotate(x, Rotation.of(angles))
    pairs = torch.complex(*x.detach().chunk(2, -1)) * torch.exp(1j * angles)[:, None]
    torch.testing.assert_close(out, torch.cat([pairs.real, pairs.imag], -1))
    grad = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(out, x, grad)[0], rotate(grad, Rotation.of(-angles)), atol=1e-6, rtol=1e-6
    )
