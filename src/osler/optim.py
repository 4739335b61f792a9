"""AdamW over fp32 weights, or over bf16 weights rounded stochastically; schedule and gradient clipping."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.adamw import adamw

from osler.config import OptimConfig

CHUNK_ELEMENTS = 2**23  # weights whose step is computed at a time in fp32


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, seed: int = 0
) -> torch.optim.Optimizer:
    """torch's AdamW on fp32 weights; `RoundingAdamW` where weights are bf16, with random bits of `seed`."""
    trained = list(parameters)
    rounds = any(p.dtype == torch.bfloat16 for p in trained)
    build = partial(RoundingAdamW, seed=seed) if rounds else torch.optim.AdamW
    return build(
        trained,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


class RoundingAdamW(torch.optim.Optimizer):
    """AdamW whose weights and moments are stored in bf16: 8 bytes per weight with its gradient.

    Each step is torch's own AdamW in fp32, a chunk of weights at a time; what it returns is rounded
    stochastically. Rounding to nearest would lose nearly every update at the learning rates used here.

    The random bits of a step are a function of `seed` and the number of steps taken: processes that hold
    the same weights keep them the same, and a resumed run goes on as if it had never stopped.
    """

    def __init__(self, parameters: list[nn.Parameter], *, seed: int, **settings: Any) -> None:
        super().__init__(parameters, settings)
        self.seed = seed

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: gradients are there already
        """One step over all weights that have a gradient."""
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._state_of(parameter)
                device = parameter.device
                if device not in generators:
                    key = _key(self.seed, int(state["step"]))
                    generators[device] = torch.Generator(device).manual_seed(key)
                _step_chunks(parameter, parameter.grad, state, group, generators[device])
                state["step"] += 1

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _key(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"rounding\x1f{seed}\x1f{step}".encode()).digest()[:8], "big") >> 1


def _step_chunks(
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    group: dict[str, Any],
    generator: torch.Generator,
) -> None:
    stored = [t.view(-1) for t in (parameter, state["exp_avg"], state["exp_avg_sq"])]
    for chunk, grad in zip(
        zip(*(t.split(CHUNK_ELEMENTS) for t in stored), strict=True),
        gradient.reshape(-1).split(CHUNK_ELEMENTS),
        strict=True,
    ):
        weights, first, second = (t.float() for t in chunk)
        adamw(
            [weights], [grad.float()], [first], [second], [], [state["step"].to(weights.device, copy=True)],
            fused=weights.device.type in ("cpu", "cuda"), amsgrad=False, maximize=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"],
        )  # fmt: skip
        for target, value in zip(chunk, (weights, first, second), strict=True):
            target.copy_(round_stochastically(value, generator))


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 to bf16: to one of the two neighbours, the nearer one more often, so that the mean is the value.

    A bf16 number is the upper half of an fp32 number. Adding uniform random bits to the lower half carries
    into the upper one with just the probability that the lower half asks for (Gupta et al.,
    arXiv 1502.02551). Infinities and NaN stay what they are.
    """
    bits = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    bits.random_(0, 2**16, generator=generator)
    bits += values.view(torch.int32)
    rounded = (bits & -(2**16)).view(torch.float32)
    # Adding to the bits of a NaN can carry into the sign and leave a zero.
    return torch.where(values.isnan(), values, rounded).to(torch.bfloat16)


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step `step` (0-based): linear warm-up, then the schedule down to 0.

    A pure function of the step, so a resumed run needs no scheduler state.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.lr * max(0.0, 1.0 - done)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Global gradient norm before clipping (scalar); clips in place where `max_norm` > 0.

    The norm is taken in fp32, whatever the gradients' type.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm > 0:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
