"""The values used last, within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Keeps values by key; beyond `max_bytes` those used longest ago go, the newest always stays."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._held: OrderedDict[str, tuple[V, int]] = OrderedDict()

    def get(self, key: str) -> V | None:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: str, value: V, num_bytes: int) -> V:
        """Keep a value under a key that is not held yet, and return it."""
        self._held[key] = (value, num_bytes)
        self.num_bytes += num_bytes
        while self.num_bytes > self.max_bytes and len(self._held) > 1:
            _, (_, freed) = self._held.popitem(last=False)
            self.num_bytes -= freed
        return value
