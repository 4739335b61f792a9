"""A frozen model that lives in CPU memory and visits the device while it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class OffloadedModel:
    """Moves a model's weights out of the device; `on_device` brings them back for a while.

    They are never changed, so nothing is copied on the way out. On a GPU they wait in page-locked memory.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.device = device
        model.to(device)  # buffers stay there
        self.parameters = list(model.parameters())
        self.waiting = [self._to_host(p.data) for p in self.parameters]
        self._show(self.waiting)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        self._show([held.to(self.device, non_blocking=True) for held in self.waiting])
        try:
            yield
        finally:
            self._show(self.waiting)

    def _to_host(self, weights: torch.Tensor) -> torch.Tensor:
        held = weights.to("cpu")
        return held.pin_memory() if self.device.type == "cuda" else held

    def _show(self, tensors: list[torch.Tensor]) -> None:
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor
