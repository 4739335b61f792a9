"""Peak memory of one update beyond weights, gradients and optimizer state; each side in a process of its own.

    python -m benchmarks.fast_path.memory SIDE SPEC FOLDER

SIDE is `osler` or `trl`, SPEC the row and scale as JSON. Policy and reference are loaded, every gradient is
allocated and written, one update has already run; then the update runs once more and the peak beyond what is
held before it is printed. On CUDA this is the allocator's own count. On a CPU it is the resident memory that
Linux reports (VmHWM after a reset, less VmRSS), with glibc told to hand every block of 64 KiB or more back to
the system when it is freed.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.fast_path import osler_side
from benchmarks.fast_path.case import make_case
from benchmarks.fast_path.rows import Row, Scale
from osler.ceilings import wait
from osler.peak_memory import held_bytes, peak_bytes, reset_peak

SIDES = ("osler", "trl")
RUNS = 3


def measure_memory(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    """Both sides in turns, three processes each; the ratio is that of the medians.

    One question, so that one micro-batch holds the same G rows on both sides.
    """
    one = replace(scale, questions=1)
    found: dict[str, list[int]] = {side: [] for side in SIDES}
    for _ in range(RUNS):
        for side in SIDES:
            found[side].append(bytes_in_own_process(side, row, one, folder))
    ratio = median(found["trl"]) / median(found["osler"])
    return {"ratios": {"trl": ratio}, "clock": "bytes", "bytes": found}


def bytes_in_own_process(side: str, row: Row, scale: Scale, folder: Path) -> int:
    """`update_bytes` in a fresh process. Raises RuntimeError with its last words where it fails."""
    spec = json.dumps({"row": asdict(row), "scale": asdict(scale)})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fast_path.memory", side, spec, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    if done.returncode != 0:
        raise RuntimeError(f"memory of {side}, {row.name}: {done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def update_bytes(side: str, row: Row, scale: Scale, folder: Path) -> int:
    """Peak bytes of one side's update beyond what it holds before it, in this process."""
    case = make_case(row, scale, folder)
    if side == "osler":
        ours = osler_side.build_update(case)
        model, update = ours.model, ours.update_in_place
    else:
        from benchmarks.fast_path.trl_side import TrlUpdate, Variant, equal_weights

        theirs = TrlUpdate(case, Variant("TRL", case.rows_per_step, False, equal_weights(scale)))
        model, update = theirs.model, theirs.update_in_place
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight).zero_()
    update()
    gc.collect()
    return _peak_beyond(update, torch.device(scale.device))


def _peak_beyond(work: Any, device: torch.device) -> int:
    wait(device.type)
    if not reset_peak(device):
        raise RuntimeError("this system does not let a process reset its peak memory")
    before = held_bytes(device)
    work()
    return peak_bytes(device) - before


if __name__ == "__main__":
    side, spec, folder = sys.argv[1:]
    torch.set_num_threads(1)
    given = json.loads(spec)
    print(update_bytes(side, Row(**given["row"]), Scale(**given["scale"]), Path(folder)))
