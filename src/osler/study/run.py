"""Running the jobs of a study: what is done is kept, what failed is reported, the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from osler.study.graph import Job, command_line, descendants
from osler.study.store import Failure, Held, Store

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    exit_code: int
    seconds: float | None  # None where it did not run in one piece
    reason: str = ""  # of a job that failed without a word of its command


class Launcher(Protocol):
    """Starts commands somewhere and says when they ended.

    `start` is given the job's lock: it hands it to the command, or lets go where the command takes its own.
    It returns what to tell about the start. `poll` gives the jobs that ended since the last call. `stop` asks
    all to save and leave, and returns when they have; the next `poll` says how.
    """

    device: str  # "cuda" or "cpu"
    slots: int  # processes at a time

    def start(self, job: Job, arguments: Sequence[str], store: Store, held: Held) -> str: ...

    def poll(self, say: Callable[[str], None]) -> dict[str, Ended]: ...

    def stop(self) -> None: ...


@dataclass
class Progress:
    """What happened so far; handed to whoever shows it after every event."""

    total: int
    done: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # job -> the failed one that it needs
    running: list[str] = field(default_factory=list)
    stopped_by: int | None = None  # signal number


@dataclass
class _Running:
    job: Job
    held: Held


class Signals(Protocol):
    """Remembers a signal that asked to stop."""

    received: int | None


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    launcher: Launcher,
    watch: Callable[[], AbstractContextManager[Signals]],
    tell: Callable[[str, Progress], None] = lambda text, progress: None,
) -> Progress:
    """Run every job of `jobs` (parents first) that is not done; returns what came of them.

    A job whose lock another process holds is waited for. Where a signal asked to stop, running jobs are
    asked to save, and what they reached is kept.
    """
    scheduler = _Scheduler(jobs, store, launcher, tell)
    with watch() as signals:
        try:
            while scheduler.step():
                if signals.received is not None:
                    scheduler.progress.stopped_by = signals.received
                    break
                time.sleep(POLL_SECONDS)
        finally:
            scheduler.stop()
    return scheduler.progress


class _Scheduler:
    def __init__(
        self, jobs: Sequence[Job], store: Store, launcher: Launcher, tell: Callable[[str, Progress], Any]
    ) -> None:
        self.jobs, self.store, self.launcher, self.tell = jobs, store, launcher, tell
        self.by_name = {job.name: job for job in jobs}
        self.progress = Progress(total=len(jobs))
        self.running: dict[str, _Running] = {}
        self.elsewhere: set[str] = set()
        self.waiting = []
        for job in jobs:
            if store.is_whole(job):
                self.progress.done.append(job.name)
            else:
                self.waiting.append(job)

    def step(self) -> bool:
        """Take note of what ended, start what can start; False where nothing is left to do."""
        for name, ended in self.launcher.poll(self._say).items():
            self._ended(name, ended)
        for job in list(self.waiting):
            if set(job.parents) <= set(self.progress.done) and self._has_room(job):
                self._begin(job)
        return bool(self.running or self.waiting)

    def stop(self) -> None:
        """Ask what runs to save and leave; what ended well meanwhile counts as done."""
        if self.running:
            self._say(f"stopping {len(self.running)} jobs; what they reached is kept")
        self.launcher.stop()
        for name, ended in self.launcher.poll(self._say).items():
            one = self.running.pop(name)
            if ended.exit_code == 0:
                self.store.mark_done(one.job, ended.seconds)
                self.progress.done.append(name)
            one.held.release()

    def _has_room(self, job: Job) -> bool:
        used = sum(one.job.processes for one in self.running.values())
        return not used or used + job.processes <= self.launcher.slots

    def _begin(self, job: Job) -> None:
        held = self.store.hold(job)
        if held is None:
            if job.name not in self.elsewhere:
                self.elsewhere.add(job.name)
                self._say(f"{job.name}: process {self.store.holder(job)} still works on it; waiting for that")
            return
        self.waiting.remove(job)
        if self.store.lacks_only_the_mark(job):
            self._finish(job, held, self.store.measured_seconds(job))
            return
        arguments = command_line(job, self.by_name, self.store.root)
        said = self.launcher.start(job, arguments, self.store, held)
        self.running[job.name] = _Running(job, held)
        self._say(said)

    def _ended(self, name: str, ended: Ended) -> None:
        one = self.running.pop(name)
        if ended.exit_code == 0:
            self._finish(one.job, one.held, ended.seconds)
            return
        if ended.reason:
            with self.store.log(one.job).open("a", encoding="utf-8") as log:
                log.write(f"{ended.reason}\n")
        self.progress.failed[name] = self.store.mark_failed(one.job, ended.exit_code)
        one.held.release()
        dropped = descendants(self.jobs, name)
        self.waiting = [job for job in self.waiting if job.name not in dropped]
        self.progress.blocked |= {job: name for job in dropped if job not in self.progress.blocked}
        self._say(f"FAILED {name}, exit code {ended.exit_code}; log: {self.store.log(one.job)}")
        for line in self.progress.failed[name].tail:
            self._say(f"    {line}")

    def _finish(self, job: Job, held: Held, seconds: float | None) -> None:
        self.store.mark_done(job, seconds)
        held.release()
        self.progress.done.append(job.name)
        self._say(f"done {job.name}" + ("" if seconds is None else f", {seconds:.0f} s"))

    def _say(self, text: str) -> None:
        self.progress.running = list(self.running)
        self.tell(text, self.progress)
