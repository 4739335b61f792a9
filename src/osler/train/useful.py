"""Useful operations of a step, from the tokens and patches that really went through the model."""

from __future__ import annotations

from collections.abc import Iterable

from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme, rollout_flops, update_flops
from osler.costs.shape import model_shape
from osler.policy.load import Policy


class UsefulFlops:
    """Adds up the operations of this process's part of a step, as `osler.costs.flops` counts them."""

    def __init__(self, config: TrainConfig, policy: Policy) -> None:
        self.shape = model_shape(policy.model.config.to_dict(), policy.path)
        self.scheme = Scheme.of(config)
        self._total = 0

    def add_rollout(self, works: Iterable[GroupWork]) -> None:
        self._total += sum(rollout_flops(self.shape, w, self.scheme).useful for w in works)

    def add_update(self, works: Iterable[GroupWork]) -> None:
        self._total += sum(update_flops(self.shape, w, self.scheme).useful for w in works)

    def take(self) -> int:
        """The sum since the last call."""
        total, self._total = self._total, 0
        return total
