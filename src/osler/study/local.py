"""Jobs as processes of this machine that share its devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osler.study.graph import Job


@dataclass(frozen=True, slots=True)
class Devices:
    """What the processes share: GPUs where there are any, else cores."""

    cores: int
    gpus: int

    @classmethod
    def of_this_machine(cls) -> Devices:
        import torch

        return cls(len(os.sched_getaffinity(0)), torch.cuda.device_count())

    @property
    def kind(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def slots(self) -> int:
        return self.gpus or self.cores


class LocalLauncher:
    """At most `workers` processes at a time; by default one per GPU, else one per core with one thread."""

    def __init__(self, devices: Devices, workers: int = 0) -> None:
        self.devices = devices
        self.slots = workers or devices.slots
        self._running: dict[str, tuple[subprocess.Popen[bytes], Job, int | None]] = {}

    def start(self, job: Job, arguments: Sequence[str], log: Path, lock_fd: int) -> int:
        """Start `osler arguments`; it keeps the lock, should this process die. Returns its process id."""
        gpu = self._least_used_gpu() if self.devices.gpus and job.processes == 1 else None
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*_program(job), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches the study alone, which then asks each job once.
                start_new_session=True,
                pass_fds=(lock_fd,),
                env=self._environment(gpu),
            )
        self._running[job.name] = (process, job, gpu)
        return process.pid

    def poll(self) -> dict[str, int]:
        """Exit codes of the jobs that ended since the last call."""
        ended = {name: code for name, (p, _, _) in self._running.items() if (code := p.poll()) is not None}
        for name in ended:
            del self._running[name]
        return ended

    def stop(self) -> None:
        """Ask every job to save and leave, and wait until all have; a second signal kills them."""
        for process, _, _ in self._running.values():
            _signal(process, signal.SIGTERM)
        try:
            for process, _, _ in self._running.values():
                process.wait()
        except KeyboardInterrupt:
            for process, _, _ in self._running.values():
                _signal(process, signal.SIGKILL)
            for process, _, _ in self._running.values():
                process.wait()

    def _least_used_gpu(self) -> int:
        used = Counter(gpu for _, _, gpu in self._running.values())
        return min(range(self.devices.gpus), key=lambda gpu: (used[gpu], gpu))

    def _environment(self, gpu: int | None) -> dict[str, str]:
        environment = dict(os.environ)
        if not self.devices.gpus:
            threads = str(max(1, self.devices.cores // self.slots))
            environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(i) for i in range(self.devices.gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = names[gpu]
        return environment


def _program(job: Job) -> list[str]:
    if job.processes == 1:
        return [sys.executable, "-m", "osler"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.processes}"]
    return [sys.executable, *torchrun, "-m", "osler"]


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
