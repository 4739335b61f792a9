"""bf16 weights that are rounded stochastically move as fp32 weights do; plain bf16 weights do not move."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from scipy import stats
from torch import nn

from osler.config import OptimConfig
from osler.optim import CHUNK_ELEMENTS, build_optimizer, clip_gradients, round_stochastically

SIZE = (600, 700)  # 420,000 weights
STEPS = 300
RATE = OptimConfig(lr=1e-6)


def even_gradients(generator: torch.Generator) -> torch.Tensor:
    return torch.full(SIZE, 1e-4)


def uneven_gradients(generator: torch.Generator) -> torch.Tensor:
    """Sizes over ten orders of magnitude side by side, as between rare and frequent tokens."""
    return torch.exp(3.0 * torch.randn(SIZE, generator=generator)) * 1e-6


def displacements(
    scale: torch.Tensor, optimizers: Sequence[tuple[nn.Parameter, torch.optim.Optimizer]]
) -> list[torch.Tensor]:
    """How far `STEPS` noisy gradients with a common direction move each copy of the weights."""
    starts = [p.detach().float().clone() for p, _ in optimizers]
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        gradient = scale * (0.5 + torch.randn(SIZE, generator=generator))
        for parameter, optimizer in optimizers:
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    return [p.detach().float() - start for (p, _), start in zip(optimizers, starts, strict=True)]


def slope(moved: torch.Tensor, exact: torch.Tensor) -> float:
    return float((moved * exact).sum() / exact.square().sum())


@pytest.mark.parametrize("sizes", [even_gradients, uneven_gradients])
def test_rounded_weights_move_as_far_as_fp32_weights(
    sizes: Callable[[torch.Generator], torch.Tensor],
) -> None:
    """300 steps at a learning rate of 1e-6: the slope on the displacement in fp32 is 1, not 0.01."""
    generator = torch.Generator().manual_seed(0)
    start = (0.02 * torch.randn(SIZE, generator=generator)).to(torch.bfloat16)
    fp32, rounded, plain = (nn.Parameter(t.clone()) for t in (start.float(), start, start))
    exact, ours, lost = displacements(
        sizes(generator),
        [
            (fp32, build_optimizer([fp32], RATE)),
            (rounded, build_optimizer([rounded], RATE, seed=5)),
            (plain, torch.optim.AdamW([plain], lr=RATE.lr, weight_decay=0.0, fused=True)),
        ],
    )
    assert 0.95 < slope(ours, exact) < 1.05
    assert slope(lost, exact) < 0.05


def test_rounding_is_unbiased_and_to_a_neighbour() -> None:
    values = torch.tensor([1.0, 1.001, -1.003, 3.14159e-9, -2.7e20, 1e-42])
    copies = values.repeat(40_000, 1)
    rounded = round_stochastically(copies, torch.Generator().manual_seed(3)).float()
    for column, value in zip(rounded.T, values, strict=True):
        neighbours = column.unique()
        assert len(neighbours) <= 2 and neighbours.min() <= value <= neighbours.max()
        if len(neighbours) == 2:
            share = float((value - neighbours[0]) / (neighbours[1] - neighbours[0]))
            ups = int((column == neighbours[1]).sum())
            assert stats.binomtest(ups, len(column), share).pvalue > 1e-4
        else:
            assert neighbours[0] == value


def test_what_is_not_a_number_stays_so() -> None:
    gpu_nan = torch.tensor(2**31 - 1, dtype=torch.int32).view(torch.float32)
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, gpu_nan])
    rounded = round_stochastically(special, torch.Generator().manual_seed(0))
    assert torch.equal(
        rounded.float().nan_to_num(7.0, posinf=8.0, neginf=9.0), torch.tensor([8, 9, 7, 0, -0.0, 7])
    )


def test_a_step_equals_adamw_up_to_the_rounding() -> None:
    """From fp32 moments at hand: every weight and moment is one of the two neighbours of torch's result."""
    config = OptimConfig(lr=1e-2, weight_decay=0.1, beta1=0.8, beta2=0.95)
    torch.manual_seed(0)
    start = torch.randn(50, 40).to(torch.bfloat16)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.float())
    optimizers = build_optimizer([ours], config), build_optimizer([theirs], config)
    for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
        parameter.grad = torch.linspace(-1, 1, 2000).view(50, 40).to(torch.bfloat16).to(parameter.dtype)
        optimizer.step()
    states = optimizers[0].state[ours], optimizers[1].state[theirs]
    pairs = [(ours.detach(), theirs.detach())] + [
        (states[0][k], states[1][k]) for k in ("exp_avg", "exp_avg_sq")
    ]
    for rounded, exact in pairs:
        spacing = exact.abs() * 2.0**-7
        assert rounded.dtype == torch.bfloat16 and bool(((rounded.float() - exact).abs() <= spacing).all())
    assert float(states[0]["step"]) == 1.0


def test_chunks_and_processes_do_not_matter_but_seed_and_step_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(seed: int, steps: int = 1) -> torch.Tensor:
        parameter = nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
        optimizer = build_optimizer([parameter], OptimConfig(lr=1e-3), seed)
        for _ in range(steps):
            parameter.grad = torch.ones_like(parameter)
            torch.rand(3)  # other random numbers drawn meanwhile change nothing
            optimizer.step()
        return parameter.detach()

    assert torch.equal(one(1), one(1)) and not torch.equal(one(1), one(2))
    assert CHUNK_ELEMENTS > 1000
    monkeypatch.setattr("osler.optim.CHUNK_ELEMENTS", 300)
    assert float((one(1).float().mean() - 0.999).abs()) < 3e-4
    torch.manual_seed(9)
    a = one(4, steps=3)
    torch.manual_seed(10)
    assert torch.equal(a, one(4, steps=3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping(dtype: torch.dtype) -> None:
    """Against torch's own in fp64; a norm of bf16 gradients is not itself rounded to bf16."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n in (300, 7)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    parameters.append(nn.Parameter(torch.zeros(3, dtype=dtype)))  # no gradient
    exact = torch.cat([p.grad for p in parameters if p.grad is not None]).double().norm()
    assert float(clip_gradients(parameters, 0.0)) == pytest.approx(float(exact), rel=1e-6)
    assert float(clip_gradients(parameters, 1.0)) == pytest.approx(float(exact), rel=1e-6)
    assert float(clip_gradients(parameters, 0.0)) == pytest.approx(1.0, rel=4e-3)
    assert float(clip_gradients([nn.Parameter(torch.zeros(3))], 1.0)) == 0.0
