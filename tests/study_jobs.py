"""A study of small fake jobs, run in a process of its own so that it can be killed.

python study_jobs.py STUDY [ray]  runs four jobs, each of which appends lines to its result
python study_jobs.py job OUT N    is one of them
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from osler.study import local, ray_launcher
from osler.study.graph import Job, key_of
from osler.study.store import Store


def fake_jobs(version: int = 0) -> tuple[Job, ...]:
    """first -> (left, right) -> last; `version` is an input of "left" alone."""

    def job(name: str, *parents: Job, extra: int = 0) -> Job:
        return Job(
            name=name,
            kind="train",
            command=("job", "{out}", name),
            key=key_of("train", {"name": name, "extra": extra}, parents),
            parents=tuple(parent.name for parent in parents),
            work=1.0,
            like="fake",
        )

    first = job("first")
    left, right = job("left", first, extra=version), job("right", first)
    return first, left, right, job("last", left, right)


def work(out: Path, name: str) -> None:
    """Ten short steps, of which an interrupted one goes on with the next."""
    out.mkdir(parents=True, exist_ok=True)
    steps = out / "steps"
    begun = len(steps.read_text().splitlines()) if steps.exists() else 0
    for step in range(begun, 10):
        time.sleep(0.05)
        with steps.open("a") as file:
            file.write(f"{name} {step}\n")


def steps(study: Path) -> dict[str, list[str]]:
    """What every job has appended so far."""
    store = Store(study)
    found = {}
    for job in fake_jobs():
        path = store.result(job) / "steps"
        found[job.name] = path.read_text().splitlines() if path.exists() else []
    return found


WHOLE = {name: [f"{name} {i}" for i in range(10)] for name in ("first", "left", "right", "last")}


def paths() -> dict[str, str]:
    """An environment in which these tests and the program can be imported."""
    folder = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent / "src")])}


def main() -> None:
    if sys.argv[1] == "job":
        work(Path(sys.argv[2]), sys.argv[3])
        return
    from osler.signals import SignalWatch
    from osler.study.run import run_jobs

    if "ray" in sys.argv:
        ray_launcher.program = lambda job: [__file__]
        chosen = ray_launcher.connected(fake_jobs(), 0)
    else:
        local.program = lambda job: [__file__]
        chosen = contextlib.nullcontext(local.LocalLauncher(local.Devices(cores=2, gpus=0)))
    with chosen as launcher:
        ended = run_jobs(fake_jobs(), Store(Path(sys.argv[1])), launcher, SignalWatch)
    sys.exit(0 if ended.stopped_by is None else 128 + ended.stopped_by)


if __name__ == "__main__":
    main()
