"""Values worth making once, within a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class BoundedCache(Generic[V]):
    """Values by key; together they never take more than `limit` bytes, those used longest ago leave first.

    Threads may share one: a value is made once, and who else wants one meanwhile waits.
    """

    def __init__(self, limit: int, bytes_of: Callable[[V], int]) -> None:
        self.limit, self.bytes_of = limit, bytes_of
        self.held_bytes = 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of `key`, made where it is not held. A value over the limit is returned and not held."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            value = self._values[key] = make()
            self.held_bytes += self.bytes_of(value)
            while self.held_bytes > self.limit:
                _, dropped = self._values.popitem(last=False)
                self.held_bytes -= self.bytes_of(dropped)
            return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self.held_bytes = 0
