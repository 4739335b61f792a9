"""The jobs of a study as a graph: ordinary `osler` command lines, and what their results depend on."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from osler import __version__

RESULTS_VERSION = 1  # raised whenever the same commands give other results
_KEY_SHOWN = 10
_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "data": ("numpy", "pillow"),
    "train": ("torch", "transformers", "peft", "numpy", "pillow"),
    "evaluate": ("torch", "transformers", "peft", "numpy", "pillow", "scikit-learn"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command.

    `command` holds `{out}` for the job's own folder and `{NAME}` for that of a parent, so that it can be
    planned before it is known where the results lie.
    """

    name: str  # unique in the graph; letters, digits, "_", "-"
    kind: str  # "data", "train" or "evaluate"
    command: tuple[str, ...]  # without "osler"
    key: str  # SHA-256 of all that the result depends on
    parents: tuple[str, ...] = ()  # names
    processes: int = 1
    work: float = 0.0  # floating-point operations, predicted; 0 where nobody knows
    like: str = ""  # jobs of the same word take time in proportion to their work
    facts: Mapping[str, Any] = field(default_factory=dict)  # for pages: row, seed, trained on

    @property
    def folder(self) -> str:
        """Where its result lies, from the study's `jobs/`."""
        return f"{self.name}-{self.key[:_KEY_SHOWN]}/{self.name}"


def key_of(kind: str, depends_on: Mapping[str, Any], parents: Sequence[Job]) -> str:
    """The content address of a job: configuration, digests of its input, parents' keys, versions of code."""
    values = {
        "kind": kind,
        "depends_on": depends_on,
        "parents": sorted(parent.key for parent in parents),
        "osler": __version__,
        "results": RESULTS_VERSION,
        "versions": versions(kind),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def versions(kind: str) -> dict[str, str]:
    """Of the libraries that compute a job of this kind, as they are installed here."""
    return {name: version(name) for name in _VERSIONS[kind]}


def in_order(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """The jobs, parents before children, otherwise as given.

    Raises ValueError for a name that occurs twice, an unknown parent, or a circle.
    """
    by_name = {job.name: job for job in jobs}
    if len(by_name) != len(jobs):
        raise ValueError("two jobs have one name")
    placed: dict[str, Job] = {}

    def place(job: Job, above: tuple[str, ...]) -> None:
        if job.name in above:
            raise ValueError(f"job {job.name} needs itself")
        for parent in job.parents:
            if parent not in by_name:
                raise ValueError(f"job {job.name} needs {parent}, which is no job")
            if parent not in placed:
                place(by_name[parent], (*above, job.name))
        placed.setdefault(job.name, job)

    for job in jobs:
        place(job, ())
    return tuple(placed.values())


def descendants(jobs: Sequence[Job], name: str) -> set[str]:
    """Names of all jobs that need `name`, directly or not; `jobs` in order."""
    found: set[str] = set()
    for job in jobs:
        if name in job.parents or found & set(job.parents):
            found.add(job.name)
    return found


def command_line(job: Job, jobs: Mapping[str, Job], root: Path) -> list[str]:
    """The arguments of `osler`, folders filled in. `root` is the folder of all jobs."""
    places = {name: str(root / jobs[name].folder) for name in job.parents}
    places["out"] = str(root / job.folder)
    # str.format would read braces of the recipe's own values.
    return [_fill(word, places) for word in job.command]


def _fill(word: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", place)
    return word


def shell_lines(jobs: Sequence[Job], root: Path) -> Iterator[str]:
    """Every job as a line for a shell, with what it needs above it."""
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        needs = f"  needs: {', '.join(job.parents)}" if job.parents else ""
        yield f"# {job.name}{needs}"
        start = ["torchrun", f"--nproc-per-node={job.processes}", "-m"] if job.processes > 1 else []
        yield shlex.join([*start, "osler", *command_line(job, by_name, root)])


def job_to_json(job: Job) -> dict[str, Any]:
    return {**asdict(job), "folder": job.folder}


def job_from_json(values: Mapping[str, Any]) -> Job:
    kept = {key: value for key, value in values.items() if key != "folder"}
    return Job(**{**kept, "command": tuple(kept["command"]), "parents": tuple(kept["parents"])})
