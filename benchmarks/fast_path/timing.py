"""Seconds of several sides, taken in turns in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from osler.ceilings import wait


@dataclass(frozen=True)
class Seconds:
    """One run: by the clock on the wall, and of this process on the CPU."""

    wall: float
    process: float

    def on(self, device: str) -> float:
        """What counts: on a CPU the process's own time, which other work does not stretch."""
        return self.process if device == "cpu" else self.wall


def clock_of(device: str) -> Callable[[], float]:
    """The clock that counts there, as `Seconds.on` says."""
    return time.process_time if device == "cpu" else time.perf_counter


def free(device: str) -> None:
    """Give up what nobody holds any more; a trainer refers to itself and would otherwise stay for a while."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def timed(work: Callable[[], object], device: str) -> Seconds:
    """One run of `work`, the device idle before and after."""
    gc.collect()
    wait(device)
    wall, process = time.perf_counter(), time.process_time()
    work()
    wait(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - process)


def take_turns(
    sides: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, list[Seconds]]:
    """`repeats` runs of every side; each round goes through all of them and starts with another one."""
    names = list(sides)
    seconds: dict[str, list[Seconds]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(timed(sides[name], device))
    return seconds


def median(seconds: list[Seconds], device: str) -> float:
    return statistics.median(s.on(device) for s in seconds)
