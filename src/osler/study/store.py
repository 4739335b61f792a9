"""The results of a study on disk: every job in a folder named after its key, marked when it is complete.

    STUDY/study.json                       the plan: recipe, jobs, cells
    STUDY/jobs/NAME-KEY/NAME/              what the command wrote
    STUDY/jobs/NAME-KEY/done.json          written last, in one move
    STUDY/jobs/NAME-KEY/failed.json        exit code and last lines, until it is tried again
    STUDY/jobs/NAME-KEY/log.txt            what the command said
    STUDY/jobs/NAME-KEY/lock               held by whoever works on it

A lock is an advisory lock on an open file. It is the process's, not the file's: where the process dies,
however it dies, the lock is gone, so none can be left behind. A job's own process inherits it and keeps it
should the study be killed, and the next start waits for that process instead of working beside it. On a
cluster it is taken where the job runs (`study/keeper.py`), on a file system that all nodes share.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.study.graph import Job
from osler.tracking import write_json

STUDY_FILE = "study.json"
TAIL_LINES = 12
_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Failure:
    """How a job failed."""

    exit_code: int
    tail: tuple[str, ...]  # last lines of its log


@dataclass(slots=True)
class Held:
    """A lock that is held; releasing it, or dying, lets go."""

    fd: int

    def say_who(self, pid: int) -> None:
        """Note in the file which process works on the job, for whoever finds the lock held."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{pid} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let go; nothing happens where that was done before."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Store:
    """The job folders of one study."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self.root = study / "jobs"

    def result(self, job: Job) -> Path:
        """The folder that the job's command writes."""
        return self.root / job.folder

    def place(self, job: Job) -> Path:
        """The folder of the job: result, log, lock and marker."""
        return self.result(job).parent

    def log(self, job: Job) -> Path:
        return self.place(job) / "log.txt"

    def is_done(self, job: Job) -> bool:
        """Whether a complete result of exactly this job is there."""
        values = read_object(self.place(job) / "done.json")
        return values is not None and values.get("key") == job.key and self.result(job).exists()

    def is_whole(self, job: Job) -> bool:
        """Whether it is done and no server left a question without an answer, which may be asked again."""
        facts = [read_object(path) or {} for path in self.result(job).glob("endpoint/*.json")]
        return self.is_done(job) and not any(one.get("unanswered") for one in facts)

    def lacks_only_the_mark(self, job: Job) -> bool:
        """Whether there is nothing to run: a data set appears complete or not at all."""
        return self.is_whole(job) or (job.kind == "data" and self.has_begun(job))

    def failure(self, job: Job) -> Failure | None:
        values = read_object(self.place(job) / "failed.json")
        return None if values is None else Failure(int(values["exit_code"]), tuple(values["tail"]))

    def mark_done(self, job: Job, seconds: float | None) -> None:
        """`seconds` of a job that ran in one piece, else None: only such times predict others."""
        (self.place(job) / "failed.json").unlink(missing_ok=True)
        values = {"key": job.key, "seconds": seconds, "work": job.work, "like": job.like}
        write_json(self.place(job) / "done.json", {**values, "finished": datetime.now(UTC).isoformat()})

    def mark_failed(self, job: Job, exit_code: int) -> Failure:
        failure = Failure(exit_code, self.tail(job))
        write_json(
            self.place(job) / "failed.json", {"exit_code": failure.exit_code, "tail": list(failure.tail)}
        )
        return failure

    def tail(self, job: Job) -> tuple[str, ...]:
        """The last lines of the job's log, without what redraws a progress bar."""
        try:
            with self.log(job).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ()
        lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return tuple(line for line in lines if line)[-TAIL_LINES:]

    def hold(self, job: Job) -> Held | None:
        """The job's lock, or None where another process works on it."""
        self.place(job).mkdir(parents=True, exist_ok=True)
        fd = os.open(self.place(job) / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return Held(fd)

    def holder(self, job: Job) -> str:
        """The process that last said it works on the job; "" where none did."""
        path = self.place(job) / "lock"
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    def has_begun(self, job: Job) -> bool:
        return self.result(job).exists()

    def seconds_per_work(self) -> dict[str, float]:
        """Like-word -> median seconds per unit of work, of all jobs that were ever done in one piece."""
        rates: dict[str, list[float]] = {}
        for path in self.root.glob("*/done.json"):
            values = read_object(path) or {}
            if values.get("seconds") and values.get("work"):
                rates.setdefault(values["like"], []).append(values["seconds"] / values["work"])
        return {like: statistics.median(found) for like, found in rates.items()}

    def measured_seconds(self, job: Job) -> float | None:
        values = read_object(self.place(job) / "done.json")
        return None if values is None else values.get("seconds")

    def write_plan(self, values: Mapping[str, Any]) -> None:
        write_json(self.study / STUDY_FILE, values)


def read_plan(study: Path) -> dict[str, Any]:
    """What `study.json` holds. Raises BadInput where there is none or it cannot be read."""
    path = study / STUDY_FILE
    if not path.is_file():
        raise BadInput(f"{study}: no {STUDY_FILE} in it; give the --out of osler study")
    values = read_object(path)
    if values is None or "jobs" not in values:
        raise BadInput(f"{path}: damaged; the same osler study command writes it again")
    return values


def is_study(path: Path) -> bool:
    return (path / STUDY_FILE).is_file()


def done_jobs(store: Store, jobs: Sequence[Job]) -> set[str]:
    """Names of the jobs whose results are complete."""
    return {job.name for job in jobs if store.is_done(job)}


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is none or it is torn."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None
