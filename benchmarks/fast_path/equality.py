"""That both sides compute the same: log-probabilities and gradients of the same completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.fast_path.case import gradients

MAX_LOGPROB_DIFFERENCE = 1e-5  # nats, in fp32
MAX_GRADIENT_DIFFERENCE = 1e-4  # relative, in fp32


@dataclass(frozen=True)
class Equality:
    """How far two sides are apart."""

    logprob: float  # largest absolute difference, nats
    gradient: float  # |a - b| / |b| over all parameters together
    worst_gradient: float  # the same of the parameter where it is largest
    worst_parameter: str

    @property
    def holds(self) -> bool:
        """Within the bounds for fp32."""
        return self.logprob <= MAX_LOGPROB_DIFFERENCE and self.gradient <= MAX_GRADIENT_DIFFERENCE


def compare_updates(ours: Any, theirs: Any) -> Equality:
    """Both sides after one update each. Raises ValueError where their prompts differ."""
    group = ours.case.row.group_size
    if [ids for ids in ours.prompt_ids() for _ in range(group)] != theirs.prompt_ids():
        raise ValueError("the two sides build different prompts")
    logprob = float((ours.logprobs() - theirs.logprobs()).abs().max())
    return Equality(logprob, *relative_difference(gradients(ours.model), gradients(theirs.model)))


def relative_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[float, float, str]:
    """|a - b| / |b| over all tensors, and of the worst of those whose norm is not negligible, with its name.

    Negligible: below a millionth of the whole. A key bias, say, has no gradient but rounding: softmax
    cancels it.
    """
    if a.keys() != b.keys():
        raise ValueError("the two sides train different parameters")
    apart = {name: torch.linalg.vector_norm(a[name] - b[name]).item() for name in b}
    norms = {name: torch.linalg.vector_norm(b[name]).item() for name in b}
    whole = sum(n**2 for n in norms.values()) ** 0.5
    shares = {name: apart[name] / norms[name] for name in b if norms[name] > 1e-6 * whole}
    worst = max(shares, key=lambda name: shares[name])
    return sum(d**2 for d in apart.values()) ** 0.5 / whole, shares[worst], worst
