"""Useful operations of a step, from the tokens and patches that really went through the model.

A frozen tower counts where an image walks it: once in a run, while its features are held, and not at all in
a step whose images are known already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme, StepFlops, rollout_flops, tower_flops, update_flops
from osler.costs.shape import model_shape
from osler.policy.load import Policy


class UsefulFlops:
    """Adds up the operations of this process's part of a step, as `osler.costs.flops` counts them."""

    def __init__(self, config: TrainConfig, policy: Policy) -> None:
        self.shape = model_shape(policy.model.config.to_dict(), policy.path)
        self.scheme = Scheme.of(config)
        self.features = policy.features
        self._total = self._walked = 0

    def start(self) -> None:
        """A step begins: what walked the tower before, in a validation say, is not of it."""
        self._total, self._walked = 0, len(self._patches_walked)

    def add_rollout(self, works: Iterable[GroupWork]) -> None:
        self._add(rollout_flops(self.shape, self._beyond_features(w), self.scheme) for w in works)

    def add_update(self, works: Iterable[GroupWork]) -> None:
        self._add(update_flops(self.shape, self._beyond_features(w), self.scheme) for w in works)

    def of_step(self) -> int:
        """The sum since the step began."""
        walked = self._patches_walked[self._walked :]
        return self._total + sum(sum(tower_flops(self.shape.tower, patches)) for patches in walked)

    def _add(self, works: Iterable[StepFlops]) -> None:
        self._total += sum(work.useful for work in works)

    def _beyond_features(self, work: GroupWork) -> GroupWork:
        return work if self.features is None else replace(work, image_patches=())

    @property
    def _patches_walked(self) -> list[int]:
        return [] if self.features is None else self.features.walked
