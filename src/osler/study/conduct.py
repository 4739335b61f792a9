"""`osler study`: from a recipe to finished jobs, a table and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from osler.errors import BadInput
from osler.signals import SignalWatch
from osler.study.graph import Job, shell_lines
from osler.study.inputs import read_inputs
from osler.study.local import Devices, LocalLauncher
from osler.study.plan import Plan, models_of, plan
from osler.study.predict import Estimate, estimates, makespan
from osler.study.ray_launcher import connected, require_ray
from osler.study.recipe import load_study
from osler.study.results import StudyResults, read_results, results_to_json
from osler.study.run import Launcher, Progress, run_jobs
from osler.study.store import Failure, Store, done_jobs

LAUNCHERS = ("local", "ray")
REPORT_FILE = "report.html"
_INPUTS_FILE = "inputs.json"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for on the command line."""

    recipe: str
    out: Path
    overrides: tuple[str, ...] = ()
    launcher: str = "local"
    workers: int = 0
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Conducted:
    """The plan, how far it got, and what it found."""

    plan: Plan
    store: Store
    device: str
    slots: int
    failed: Mapping[str, Failure] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    stopped_by: int | None = None  # signal number
    results: StudyResults | None = None  # None where nothing was run
    report: Path | None = None

    def estimates(self) -> dict[str, Estimate]:
        return estimates(self.plan.jobs, self.store, self.done, self.device)

    @property
    def done(self) -> set[str]:
        return done_jobs(self.store, self.plan.jobs)

    def seconds_left(self) -> float:
        """Until every job that is not done is, on this machine, as estimated."""
        seconds = {n: 0.0 if e.how == "done" else e.seconds for n, e in self.estimates().items()}
        return makespan(self.plan.jobs, seconds, self.slots)

    def shell_lines(self) -> list[str]:
        return list(shell_lines(self.plan.jobs, self.store.root))

    def plan_to_json(self) -> dict[str, Any]:
        times = {n: {"seconds": e.seconds, "how": e.how} for n, e in self.estimates().items()}
        left = {"slots": self.slots, "device": self.device, "seconds_left": self.seconds_left()}
        return {**self.plan.to_json(), "estimates": times, **left}

    def to_json(self) -> dict[str, Any]:
        return {
            "jobs": len(self.plan.jobs),
            "done": len(self.done),
            "failed": {name: list(f.tail) for name, f in self.failed.items()},
            "blocked": dict(self.blocked),
            "report": None if self.report is None else str(self.report),
            **({} if self.results is None else results_to_json(self.results)),
        }


def conduct(request: Request, note: Callable[[str], None] = lambda text: None) -> Conducted:
    """Plan the study, and unless it is a dry run, run what is not done and write table and page.

    Raises BadInput for a recipe, questions or a launcher that cannot be used.
    """
    if request.launcher not in LAUNCHERS:
        raise BadInput(f"--launcher {request.launcher}: is one of {', '.join(LAUNCHERS)}")
    if request.workers < 0:
        raise BadInput(f"--workers {request.workers}: must be 0 or more")
    if request.launcher == "ray":
        require_ray()  # before minutes of reading images
    out = request.out.resolve()
    study = load_study(request.recipe, request.overrides)
    planned = plan(study, read_inputs(study, models_of(study), out / _INPUTS_FILE))
    store = Store(out)
    for value in planned.untrained:
        note(f"{value}: no training question; its rows stay empty")
    for value in planned.untested:
        note(f"{value}: no test question; its column stays empty")
    if planned.left_out:
        note(f"left out of the training because the test shows it, {planned.left_out}")
    with _launcher(request, planned.jobs) as launcher:
        common: dict[str, Any] = {"plan": planned, "store": store, "device": launcher.device}
        common["slots"] = launcher.slots
        if request.dry_run:
            return Conducted(**common)
        store.write_plan(planned.to_json())
        ended = _run(planned, store, launcher, Conducted(**common).seconds_left())
    results = read_results(out)
    return Conducted(
        **common,
        failed=ended.failed,
        blocked=ended.blocked,
        stopped_by=ended.stopped_by,
        results=results,
        report=_write_page(out, note) if results.lines else None,
    )


@contextmanager
def _launcher(request: Request, jobs: Sequence[Job]) -> Iterator[Launcher]:
    if request.launcher == "ray":
        with connected(jobs, request.workers) as launcher:
            yield launcher
    else:
        yield LocalLauncher(Devices.of_this_machine(), request.workers)


def _write_page(out: Path, note: Callable[[str], None]) -> Path:
    from osler.report.study_page import write_study_page

    facts = write_study_page(out, out / REPORT_FILE)
    for text in facts.notes:
        note(text)
    return facts.path


def _run(planned: Plan, store: Store, launcher: Launcher, seconds: float) -> Progress:
    console = Console(stderr=True)
    left = len(planned.jobs) - len(done_jobs(store, planned.jobs))
    console.print(
        f"{planned.study.title}: {len(planned.jobs)} jobs, {left} to do, {launcher.slots} at a time, "
        f"about {shown_time(seconds)} as estimated",
        highlight=False,
    )
    with _shown(console, planned.jobs) as tell:
        return run_jobs(planned.jobs, store, launcher, SignalWatch, tell)


@contextmanager
def _shown(console: Console, jobs: tuple[Job, ...]) -> Iterator[Callable[[str, Progress], None]]:
    columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(jobs))

        def tell(text: str, progress: Progress) -> None:
            at = f"[{len(progress.done)}/{progress.total}] "
            console.print(at + text, highlight=False, markup=False, soft_wrap=True)
            failed = f", {len(progress.failed)} failed" if progress.failed else ""
            shown = ", ".join(progress.running) + failed
            bar.update(task, completed=len(progress.done), description=shown)

        yield tell


def shown_time(seconds: float) -> str:
    """
    >>> shown_time(42), shown_time(600), shown_time(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
