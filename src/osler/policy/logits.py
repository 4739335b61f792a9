"""The one logits processor: placeholder tokens masked, temperature applied.

Sampler, trainer and reference all use it, so that the log-probabilities of the three are of the same
distribution. A sampled image placeholder would desynchronise text and image features later.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitsProcessor:
    """Turns raw logits into the logits of the sampling distribution."""

    masked_ids: tuple[int, ...] = ()  # token ids that can never be sampled
    temperature: float = 1.0  # 0 means greedy: the logits are masked and left unscaled

    def __call__(self, logits: Tensor) -> Tensor:
        """[..., V] in any dtype -> [..., V] in fp32; a new tensor, safe to differentiate through."""
        logits = logits.float()
        if self.temperature not in (0.0, 1.0):
            logits = logits / self.temperature
        if self.masked_ids:
            logits = logits.index_fill(-1, column_index(self.masked_ids, logits.device), float("-inf"))
        return logits


@lru_cache(maxsize=64)  # a captured decoding step cannot copy from the host
def column_index(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Token ids as an index of columns on the device."""
    return torch.tensor(ids, dtype=torch.long, device=device)
