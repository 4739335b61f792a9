"""What this machine can do at best: operations per second of a matrix product, bytes per second of a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch

MATMUL_SIDES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192)}
LONGEST_PRODUCT = 4  # a side whose one product would take this many times `seconds_per_side` is left out
PRODUCTS_PER_LOOK = {"cpu": 1, "cuda": 20}  # between two looks at the clock
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
COPIES = 5
CALLS = 1000


@lru_cache
def matmul_ceiling(
    device: str,
    dtype: torch.dtype,
    seconds_per_side: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations per second of the fastest square matrix product with the threads that torch has now.

    Measured once per process. With `time.process_time` other work on the machine does not count, but
    that is right for one thread only.
    """
    best = 0.0
    generator = torch.Generator(device).manual_seed(0)  # the global stream belongs to the run
    for side in MATMUL_SIDES[device]:
        a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
        out, runs = a @ b, 0
        wait(device)
        start = clock()
        while clock() - start < seconds_per_side:
            for _ in range(PRODUCTS_PER_LOOK[device]):
                torch.mm(a, b, out=out)
            runs += PRODUCTS_PER_LOOK[device]
            wait(device)
        taken = (clock() - start) / runs
        best = max(best, 2 * side**3 / taken)
        if 8 * taken > LONGEST_PRODUCT * seconds_per_side:  # a CPU without bf16 units is that slow
            break
    return best


def copy_ceiling(device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second of a copy, counting those read and those written."""
    a = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    b = torch.ones_like(a)
    best = 0.0
    for _ in range(COPIES):
        wait(device)
        start = clock()
        b.copy_(a)
        wait(device)
        best = max(best, 2 * a.numel() / (clock() - start))
    return best


def wait(device: str) -> None:
    """Until the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def call_seconds(device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds to start one small operation; on CUDA as a captured graph replays it."""
    x = torch.ones(64, device=device)
    if device == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                x.add_(1)
        run = graph.replay
    else:

        def run() -> None:
            for _ in range(CALLS):
                x.add_(1)

    run()
    wait(device)
    start = clock()
    run()
    wait(device)
    return (clock() - start) / CALLS
