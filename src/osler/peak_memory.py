"""Peak memory of a stretch of work.

On CUDA the allocator's own count of bytes in tensors. On Linux the resident memory of the process, whose
high-water mark the kernel lets a process reset; elsewhere that mark only ever rises.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_HIGH_WATER = "5"  # proc(5): VmHWM starts again from VmRSS


def reset_peak(device: torch.device) -> bool:
    """Start counting anew; False where the peak can only be that of the process so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR_REFS.write_text(RESET_HIGH_WATER)
    except OSError:  # no such file (macOS), or not permitted (some containers)
        return False
    return True


def peak_bytes(device: torch.device) -> int:
    """The peak since `reset_peak`, or of the process so far where that returned False."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.is_file():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes(device: torch.device) -> int:
    """Bytes held now. Raises OSError on a CPU whose system does not say (only Linux does)."""
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _status("VmRSS")


def _status(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")
