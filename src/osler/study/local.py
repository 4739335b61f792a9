"""Jobs as processes of this machine that share its devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osler.study.graph import Job
from osler.study.run import Ended
from osler.study.store import Held, Store


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


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    gpu: int | None
    started: float
    in_one_piece: bool


class LocalLauncher:
    """At most `workers` processes at a time; by default one per GPU, else one per core with one thread."""

    def __init__(self, devices: Devices, workers: int = 0) -> None:
        self.devices = devices
        self.device = devices.kind
        self.slots = workers or devices.slots
        self._running: dict[str, _Running] = {}

    def start(self, job: Job, arguments: Sequence[str], store: Store, held: Held) -> str:
        """Start `osler arguments`; it keeps the lock, should this process die."""
        gpu = self._least_used_gpu() if self.devices.gpus and job.processes == 1 else None
        in_one_piece = not store.has_begun(job)
        with store.log(job).open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, *program(job), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches the study alone, which then asks each job once.
                start_new_session=True,
                pass_fds=(held.fd,),
                env=self._environment(gpu),
            )
        held.say_who(process.pid)
        self._running[job.name] = _Running(process, gpu, time.monotonic(), in_one_piece)
        return f"started {job.name}"

    def poll(self, say: Callable[[str], None]) -> dict[str, Ended]:
        """The jobs that ended since the last call."""
        ended = {}
        for name, one in list(self._running.items()):
            if (code := one.process.poll()) is not None:
                del self._running[name]
                seconds = time.monotonic() - one.started
                ended[name] = Ended(code, seconds if one.in_one_piece else None)
        return ended

    def stop(self) -> None:
        """Ask every job to save and leave, and wait until all have; a second signal kills them."""
        processes = [one.process for one in self._running.values()]
        for process in processes:
            _signal(process, signal.SIGTERM)
        try:
            for process in processes:
                process.wait()
        except KeyboardInterrupt:
            for process in processes:
                _signal(process, signal.SIGKILL)
            for process in processes:
                process.wait()

    def _least_used_gpu(self) -> int:
        used = Counter(one.gpu for one in self._running.values())
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


def program(job: Job) -> list[str]:
    """What Python is given, before the job's own arguments."""
    if job.processes == 1:
        return ["-m", "osler"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.processes}"]
    return [*torchrun, "-m", "osler"]


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
