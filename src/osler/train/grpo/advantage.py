"""Group-relative advantages (GRPO, arXiv 2402.03300, section 4.1.2).

Shapes: B questions, G rollouts of each.
"""

from __future__ import annotations

from torch import Tensor

STD_EPS = 1e-4  # as TRL, R1-V and both papers' code have it (grpo_trainer.py:498 of MedVLM-R1)


def group_advantages(rewards_BG: Tensor, normalize_std: bool = True) -> Tensor:
    """Reward minus group mean, divided by (group standard deviation + 1e-4) where `normalize_std`.

    The standard deviation is the sample one (N - 1 in the denominator). A group whose rewards are all
    equal gets advantage 0, not rounding noise.
    """
    centered = rewards_BG - rewards_BG.mean(dim=1, keepdim=True)
    centered = centered.masked_fill(zero_variance(rewards_BG)[:, None], 0.0)
    if not normalize_std:
        return centered
    return centered / (rewards_BG.std(dim=1, keepdim=True) + STD_EPS)


def zero_variance(rewards_BG: Tensor) -> Tensor:
    """Bool [B]: groups whose rewards are all equal, and that therefore teach nothing."""
    return (rewards_BG == rewards_BG[:, :1]).all(dim=1)
