"""How long jobs will take: as long as like jobs took, in proportion to their work; else a rough guess."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from osler.study.graph import Job
from osler.study.store import Store

# The guess where nothing was measured. A process starts (imports, weights) in START_SECONDS; then operations
# of `costs` at a rate that a small model reaches on one CPU core, and a 2B model in bf16 on one data-centre
# GPU with most of the time spent on sampling token by token. Marked "predicted" wherever it is shown.
START_SECONDS = 8.0
FLOPS_PER_SECOND: Mapping[str, float] = {"cpu": 5e10, "cuda": 2e13}
SERVED = "served"  # the first word of `Job.like` where a server answers; its work is the number of questions
SECONDS_PER_WORK: Mapping[str, float] = {"phantom": 0.03, "convert": 0.01, SERVED: 1.0}


@dataclass(frozen=True, slots=True)
class Estimate:
    """`how` is "done", "like jobs" (measured on other jobs of this study) or "predicted"."""

    seconds: float
    how: str


def estimates(jobs: Sequence[Job], store: Store, done: Collection[str], device: str) -> dict[str, Estimate]:
    """One estimate per job; a done job gives what it took, 0 where it was interrupted."""
    rates = store.seconds_per_work()
    found: dict[str, Estimate] = {}
    for job in jobs:
        if job.name in done:
            found[job.name] = Estimate(store.measured_seconds(job) or 0.0, "done")
        elif job.like in rates:
            found[job.name] = Estimate(rates[job.like] * job.work, "like jobs")
        else:
            found[job.name] = Estimate(_guess(job, device), "predicted")
    return found


def _guess(job: Job, device: str) -> float:
    known = SECONDS_PER_WORK.get(job.like.split()[0])
    if known is not None:
        return START_SECONDS + known * job.work
    return START_SECONDS + job.work / (FLOPS_PER_SECOND[device] * job.processes)


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds until the last job ends, each started in order once its parents are done and a slot is free."""
    ends: dict[str, float] = {}
    running: list[tuple[float, int]] = []  # (end, slots given back)
    free, now = slots, 0.0
    for job in jobs:
        need = min(job.processes, slots)
        ready = max((ends[parent] for parent in job.parents), default=0.0)
        while running and (free < need or running[0][0] <= now):
            end, given = heapq.heappop(running)
            now, free = max(now, end), free + given
        start = max(now, ready)
        ends[job.name] = start + seconds[job.name]
        heapq.heappush(running, (ends[job.name], need))
        free -= need
    return max(ends.values(), default=0.0)
