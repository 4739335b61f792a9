"""The GRPO objective on padded tensors: clipped policy term, KL to the reference, aggregation.

Pure functions, no model. The sums over the tokens of one micro-batch are divided by denominators of the
whole step, so that neither micro-batching nor the number of processes changes the gradient.

Shapes: N rollouts of the micro-batch, T completion tokens (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Denominators:
    """What a step's loss is divided by; counts over the whole step and all processes."""

    num_rollouts: int
    num_tokens: int  # trained completion tokens
    max_completion_tokens: int


@dataclass(frozen=True)
class LossTerms:
    """One micro-batch: the loss to differentiate, and sums over its trained tokens for the log."""

    loss: Tensor  # scalar, already divided
    policy: Tensor  # scalar, the policy part of `loss`
    kl: Tensor  # scalar, sum of the KL estimates
    ratio: Tensor  # scalar, sum of the importance ratios
    clipped: Tensor  # scalar, number of tokens whose ratio was clipped


def kl_estimate(logprobs_NT: Tensor, ref_logprobs_NT: Tensor, estimator: str) -> Tensor:
    """Per-token estimate of KL(policy to reference) from samples of the policy.

    k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1, with d = reference - policy log-probability
    (J. Schulman, "Approximating KL divergence", 2020).
    """
    d = ref_logprobs_NT - logprobs_NT
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return d.exp() - d - 1
    raise ValueError(f"unknown KL estimator {estimator}")


def aggregate(values_NT: Tensor, mask_NT: Tensor, aggregation: str, over: Denominators) -> Tensor:
    """Sum of this micro-batch's share of the step's mean.

    sequence_mean: mean over rollouts of each rollout's token mean (GRPO paper, equation 3).
    token_mean: mean over all trained tokens of the step (DAPO, arXiv 2503.14476).
    constant: sum over rollouts / (rollouts x max completion tokens) (Dr. GRPO, arXiv 2503.20783).
    A rollout without trained tokens counts in the number of rollouts and adds nothing.
    """
    masked = values_NT * mask_NT
    if aggregation == "sequence_mean":
        per_rollout = masked.sum(1) / mask_NT.sum(1).clamp(min=1)
        return per_rollout.sum() / over.num_rollouts
    if aggregation == "token_mean":
        return masked.sum() / max(1, over.num_tokens)
    if aggregation == "constant":
        return masked.sum() / (over.num_rollouts * over.max_completion_tokens)
    raise ValueError(f"unknown aggregation {aggregation}")


def grpo_loss(
    logprobs_NT: Tensor,
    old_logprobs_NT: Tensor,
    advantages_N: Tensor,
    mask_NT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    aggregation: str,
    over: Denominators,
    kl_coef: float = 0.0,
    kl_estimator: str = "k3",
    ref_logprobs_NT: Tensor | None = None,
) -> LossTerms:
    """GRPO paper, equation 3, with separate clips (DAPO, section 3.1).

    `old_logprobs_NT` carries no gradient; on policy it is `logprobs_NT.detach()`, the ratio is 1 and the
    gradient is REINFORCE with the group baseline. `mask_NT` is 1.0 on trained tokens.
    """
    ratio = (logprobs_NT - old_logprobs_NT).exp()
    advantages = advantages_N[:, None]
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    policy = aggregate(per_token, mask_NT, aggregation, over)
    loss, kl = policy, torch.zeros_like(policy)
    if kl_coef > 0:
        if ref_logprobs_NT is None:
            raise ValueError("kl_coef > 0 needs ref_logprobs_NT")
        kl_NT = kl_estimate(logprobs_NT, ref_logprobs_NT, kl_estimator)
        loss = policy + kl_coef * aggregate(kl_NT, mask_NT, aggregation, over)
        kl = (kl_NT.detach() * mask_NT).sum()
    with torch.no_grad():
        too_low = (ratio < 1 - clip_low) & (advantages < 0)
        too_high = (ratio > 1 + clip_high) & (advantages > 0)
        clipped = ((too_low | too_high) * mask_NT).sum()
    return LossTerms(loss, policy.detach(), kl, (ratio.detach() * mask_NT).sum(), clipped)
