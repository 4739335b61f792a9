"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

import torch

OTHER = "other"  # what belongs to no part: waiting for other processes, metrics, bookkeeping


class Timeline(Protocol):
    """Marks moments, and says later how far apart they lie."""

    def mark(self) -> Any: ...

    def seconds(self, marks: list[Any]) -> list[float]:
        """Between each mark and the next one."""
        ...


class HostTimeline:
    """The clock of a host that computes itself; that of its process where other work must not count."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def mark(self) -> float:
        return self.clock()

    def seconds(self, marks: list[float]) -> list[float]:
        return [after - before for before, after in pairwise(marks)]


class CudaTimeline:
    """Events on the current stream: when the device got there, however far the host has run ahead.

    Nothing waits for the device until the seconds are asked for.
    """

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: list[torch.cuda.Event]) -> list[float]:
        marks[-1].synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(marks)]


def timeline_of(device: torch.device) -> Timeline:
    return CudaTimeline() if device.type == "cuda" else HostTimeline()


class Clock:
    """Splits a step into parts: every moment belongs to the innermost part that is open, or to `other`.

    Parts therefore sum to the step. On a device that runs behind its host, work that the device never
    waits for costs nothing: prompts prepared while it computes are no seconds of `data`.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self._open = [OTHER]
        self._parts: list[str] = []
        self._marks: list[Any] = []
        self._mark()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._open.append(name)
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    def _mark(self) -> None:
        self._parts.append(self._open[-1])
        self._marks.append(self.timeline.mark())

    def stop(self) -> dict[str, float]:
        """Seconds so far by part, and `time/step`, their sum. On CUDA this waits for the device."""
        self._mark()
        spans = self.timeline.seconds(self._marks)
        seconds = {f"time/{OTHER}": 0.0}
        for name, span in zip(self._parts, spans, strict=False):
            seconds[f"time/{name}"] = seconds.get(f"time/{name}", 0.0) + span
        return {**seconds, "time/step": sum(spans)}
