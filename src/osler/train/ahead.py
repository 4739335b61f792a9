"""The next step's inputs, made on a thread of their own while the device works on this one's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

A = TypeVar("A")
R = TypeVar("R")


def works_beside(device: torch.device) -> bool:
    """Whether the host has time to spare. Where it computes too, a second thread would only take turns."""
    return device.type == "cuda"


class Ahead(Generic[A, R]):
    """`make` of every item of a batch, in order; while a batch is used, the next one is being made.

    `items_of` gives the items of batch 0 to `count` - 1. Results never depend on whether a thread made them:
    an error comes up when its batch is taken, as it would without one.
    """

    def __init__(
        self, items_of: Callable[[int], Sequence[A]], count: int, make: Callable[[A], R], *, beside: bool
    ) -> None:
        self.items_of, self.count, self.make = items_of, count, make
        self._thread = ThreadPoolExecutor(1, "osler-ahead") if beside else None
        self._index, self._next = -1, list[Future[R]]()

    def take(self, index: int) -> list[R]:
        """The results of this batch; the one behind it is begun."""
        if self._index == index:
            made = [future.result() for future in self._next]
        else:  # the first one, or the first after a resume
            self._drop()
            made = [self.make(item) for item in self.items_of(index)]
        if self._thread is not None and index + 1 < self.count:
            self._next = [self._thread.submit(self.make, item) for item in self.items_of(index + 1)]
            self._index = index + 1
        return made

    def close(self) -> None:
        """Stop making; waits for the one item that is being made."""
        self._drop()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _drop(self) -> None:
        for future in self._next:
            future.cancel()
        self._index, self._next = -1, []
