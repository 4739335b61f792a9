"""Run folders in, one HTML page out: no script, no network, nothing outside the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osler.evaluate.compare import Comparison
from osler.evaluate.summary import read_findings
from osler.report.comparison import comparison_sections
from osler.report.confidence import confidence_sections
from osler.report.curves import Legend, Level, Panel, training_panels, validation_panel
from osler.report.examples import cards_for
from osler.report.gallery import CARDS_PER_KIND, Asked, galleries
from osler.report.groups import Group, groups_of
from osler.report.looking import looking_sections
from osler.report.rendering import render, write_whole
from osler.report.runs import Run, find_runs, read_run
from osler.report.tables import flatten, overview, strip_grid, test_sets
from osler.report.thinking import thinking_sections

CARDS_PER_TEST_SET = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFacts:
    """What was written."""

    path: Path
    runs: tuple[str, ...]
    test_sets: tuple[str, ...]
    num_cards: int
    num_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunSection:
    key: str
    label: str
    panels: tuple[Panel, ...]
    groups: tuple[Group, ...]
    config: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    evaluations: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    title: str = "Osler report",
    cards: int = CARDS_PER_TEST_SET,
    progress: Callable[[str], None] = lambda text: None,
    comparisons: Sequence[Comparison] = (),
) -> PageFacts:
    """Write one page about all runs under `paths` (run folders, or folders that hold them) to `out`.

    `comparisons` are of runs among them and get a section each, before everything else.
    Raises BadInput where a path holds no run or a file in it is damaged.
    """
    runs = []
    for label, path in find_runs(paths):
        progress(f"reading {label}")
        runs.append(read_run(label, path))
    tables = test_sets(runs)
    examples = []
    for table in tables:
        progress(f"examples of {table.name}")
        examples.append((table.name, cards_for(table.name, runs, cards)))
    sections = []
    for number, run in enumerate(runs, start=1):
        progress(f"curves of {run.label}")
        sections.append(_section(f"run{number}", run))
    compared = comparison_sections(comparisons, runs)
    values = {
        "title": title,
        "overview": overview(runs),
        "test_sets": tables,
        "grid": strip_grid(),
        "examples": [(name, found) for name, found in examples if found],
        "galleries": galleries(list(_reasoning(runs))),
        "cards_per_kind": CARDS_PER_KIND,
        "sections": sections,
        "comparisons": compared,
        "looking": looking_sections(runs),
        "thinking": thinking_sections(runs),
        "confidences": confidence_sections(runs),
        "is_phantom": _asked_about_phantoms(runs),
    }
    out = write_whole(render("page.html.j2", ("style.css", "thinking.css"), values), Path(out))
    return PageFacts(
        path=out,
        runs=tuple(run.label for run in runs),
        test_sets=tuple(table.name for table in tables),
        num_cards=sum(len(c) for _, c in examples),
        num_bytes=out.stat().st_size,
        notes=tuple(f"{run.label}: {note}" for run in runs for note in run.notes),
    )


def _section(key: str, run: Run) -> _RunSection:
    first = validation_panel(run.metrics, _validation_levels(run), key)
    panels = [] if first is None else [replace(first, legend=tuple(_with_interval(first.legend, run)))]
    panels += training_panels(run.metrics, key)
    headers = [
        (e.summary.header.name, tuple(flatten({**e.summary.header.identity, "data": e.summary.header.data})))
        for e in run.evaluations
    ]
    return _RunSection(
        key=key,
        label=run.label,
        panels=tuple(panels),
        groups=groups_of(run),
        config=tuple(flatten(run.config)),
        environment=tuple(flatten(run.environment)),
        evaluations=tuple(headers),
        notes=run.notes,
    )


def _reasoning(runs: Sequence[Run]) -> Iterator[tuple[str, list[Asked]]]:
    """The evaluations of every run whose reasoning was not examined: that section has cards of its own."""
    for run in runs:
        examined = read_findings(run.path, "thinking")
        yield run.label, [(run, e) for e in run.evaluations if e.summary.header.name not in examined]


def _validation_levels(run: Run) -> dict[str, list[Level]]:
    """Chance and blind marks of the validation sets, as the training run recorded them."""
    found: dict[str, list[Level]] = {}
    for name, facts in run.validation.items():
        marks = [Level(f"{name}: {word}", facts[key]) for key, word in _MARKS if facts.get(key) is not None]
        found[name] = marks
    return found


def _with_interval(legend: Sequence[Legend], run: Run) -> Iterator[Legend]:
    """The last accuracy of a validation set gets its 95 % interval and n."""
    for line in legend:
        bounds = [run.metrics.get(f"eval/accuracy_{end}/{line.name}", ()) for end in ("low", "high")]
        n = run.validation.get(line.name, {}).get("n")
        if all(bounds) and n is not None:
            low, high = (points[-1][1] for points in bounds)
            line = replace(line, last=f"{line.last} ({low:.3g}–{high:.3g}, n {n})")
        yield line


_MARKS = (("chance", "chance"), ("blind_accuracy", "blind baseline"))


def _asked_about_phantoms(runs: Sequence[Run]) -> bool:
    """Whether any answer is about a drawn image, so that the page says what such accuracies mean."""
    # Nothing else in a phantom differs from real data, by design; the name of its data sets is what stays
    # with an answer through conversion, filtering and evaluation. Data that calls itself phantom gets the
    # caveat too: one too many does no harm, a missing one would.
    sets = {p.dataset for run in runs for e in run.evaluations for p in e.stored.predictions}
    return any("phantom" in name.lower() for name in sets)
