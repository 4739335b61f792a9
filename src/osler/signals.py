"""SIGINT and SIGTERM: remembered until there is something to save, then an exit code."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stop(Exception):
    """A signal asked to stop and everything has been saved; `exit_code` is 130 or 143."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


class SignalWatch:
    """Remembers SIGINT and SIGTERM until the loop asks; a second one interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._remember)
            except ValueError:  # not in the main thread: the embedding program keeps its own handlers
                break
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
