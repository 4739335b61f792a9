"""Drawing tokens: one uniform number per token, keyed by what the sample is and never by where it runs.

The stream of a sample depends on (seed, step, question id, sample index) alone. Rank, row, batch size
and the other questions of the batch do not enter, so one process and many draw the same completions.

Shapes: N rows, V vocabulary, T tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Temperature 0 is greedy."""

    max_completion_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


def uniforms(seed: int, step: int, question_id: str, index: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) of one sample, float64 [T]."""
    key = hashlib.sha256(f"{seed}\x1f{step}\x1f{question_id}\x1f{index}".encode()).digest()
    words = np.frombuffer(key[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words)).random(count)


def draw(logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """Inverse-CDF draw of one token per row, int64 [N]; logits are fp32 and already processed."""
    cumulative_NV = logits_NV.softmax(-1).cumsum(-1)
    total_N1 = cumulative_NV[:, -1:].contiguous()
    target_N1 = uniforms_N.to(total_N1)[:, None] * total_N1
    token_N1 = torch.searchsorted(cumulative_NV, target_N1, right=True)
    # Rounding may put the target on the total itself; the last token with any probability is then meant,
    # never a masked one behind it.
    last_N1 = torch.searchsorted(cumulative_NV, total_N1, right=False)
    return torch.minimum(token_N1, last_N1)[:, 0]
