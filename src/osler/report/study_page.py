"""The page of a study: table, claims, heat maps, domains, ways of thinking, curves, subgroups, traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from osler.evaluate.predictions import QuestionText, read_questions
from osler.evaluate.printed import NONE, p_value, percent, percent_range, points, points_range
from osler.report.comparison import DifferenceStrip, difference_grid, difference_reach, difference_strip
from osler.report.confidence import confidence_sections
from osler.report.cost_curves import cost_panels
from osler.report.examples import cards_for
from osler.report.gallery import CARDS_PER_KIND, Asked, galleries
from osler.report.heat_maps import HeatGroup, heat_group
from osler.report.looking import looking_sections
from osler.report.page import PageFacts
from osler.report.rendering import render, write_whole
from osler.report.runs import Run, read_run
from osler.report.study_curves import study_curves
from osler.report.study_findings import look_matrix, served_texts
from osler.report.tables import Matrix, flatten, line_of, strip_grid
from osler.report.thinking import thinking_sections
from osler.report.traces import traces_of
from osler.study.claims import GRPO, NOTHINK, SFT, THINK_AFTER, ZERO_SHOT, check_claims, training_tokens
from osler.study.effects import Effect, Pooled, effect, lines_of, pooled, subgroups
from osler.study.published import Published, published_for
from osler.study.results import Line, StudyResults, read_results
from osler.study.store import Store

CARDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledText:
    """An accuracy with all that stands beside it, as printed."""

    accuracy: str
    interval: str
    n: str
    chance: str
    blind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectText:
    """A difference as printed, with its place in a drawing."""

    name: str
    n: str
    a: str
    b: str
    difference: str
    interval: str
    p: str
    holm_p: str
    strip: DifferenceStrip


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """One comparison by groups of questions."""

    title: str
    lines: tuple[EffectText, ...]
    grid: tuple[tuple[float, str], ...]


def write_study_page(folder: Path, out: Path, title: str = "") -> PageFacts:
    """Write the page of the study in `folder`, as far as it got, to `out`.

    Raises BadInput where there is no study or a result is damaged.
    """
    results = read_results(folder)
    runs = {line.folder: read_run(line.name, line.folder) for line in results.lines}
    first = [runs[line.folder] for line in _examples(results)]
    sets = dict.fromkeys(line.header.name for line in results.lines)
    examples = [(name, cards_for(name, first, CARDS)) for name in sets]
    values = {
        "title": title or results.study.title,
        "study": results.study,
        "is_phantom": results.study.is_phantom,
        "counts": {"jobs": len(results.jobs), "unfinished": len(results.unfinished)},
        "failures": [(name, failure) for name, failure in results.failures.items()],
        "empty": _empty(results),
        "left_out": results.left_out,
        "table": _table(results) if results.lines else None,
        "seed_means": list(_seed_means(results)),
        "published": [_published(one, results) for one in _figures(results)],
        "claims": [(claim, _effect_text("", claim.effect)) for claim in check_claims(results)],
        "heat": list(_heat(results)),
        "domains": list(_domains(results)),
        "modes": list(_modes(results)),
        "costs": cost_panels(results),
        "curves": study_curves(results),
        "forests": list(_forests(results)),
        "traces": _traces(results),
        "look": look_matrix(results, runs),
        "looking": looking_sections(list(runs.values())),
        "thinking": thinking_sections(list(runs.values())),
        "confidences": confidence_sections(list(runs.values())),
        "grid": strip_grid(),
        "servers": served_texts(results),
        "galleries": galleries(list(_reasoning(results, runs))),
        "cards_per_kind": CARDS_PER_KIND,
        "examples": [(name, cards) for name, cards in examples if cards],
        "recipe": flatten(asdict(results.study)),
        "digests": list(results.digests.items()),
        "environment": flatten(first[0].environment) if first else [],
        "jobs": _jobs(results),
    }
    written = write_whole(render("study.html.j2", ("style.css", "study.css", "thinking.css"), values), out)
    notes = [f"{len(results.unfinished)} of {len(results.jobs)} jobs are not done"] * bool(results.unfinished)
    return PageFacts(
        path=written,
        runs=tuple(line.name for line in results.lines),
        test_sets=tuple(sets),
        num_cards=sum(len(cards) for _, cards in examples),
        num_bytes=written.stat().st_size,
        notes=tuple(notes),
    )


def _empty(results: StudyResults) -> list[str]:
    texts = [f"no training question for {value.replace('_', ' ')}" for value in results.untrained]
    return texts + [f"no test question for {value.replace('_', ' ')}" for value in results.untested]


def _table(results: StudyResults) -> Matrix:
    rows = []
    for line in results.lines:
        cells = [
            line_of(line.name, line.summary, line.cells[c].row) if c in line.cells else None
            for c in results.columns
        ]
        rows.append((line.name, line.template, tuple(cells)))
    columns = tuple(column.replace("_", " ") for column in results.columns)
    return Matrix(title="Every model on every column", columns=columns, rows=tuple(rows))


def _groups(results: StudyResults, row: str) -> dict[str, list[Line]]:
    """What was trained on -> its lines, one per seed."""
    found: dict[str, list[Line]] = {}
    for line in lines_of(results, row):
        found.setdefault(line.on, []).append(line)
    return found


def _seed_means(results: StudyResults) -> Iterator[tuple[str, list[str]]]:
    """Mean and range over seeds, where there are several."""
    for row in results.study.chosen_rows:
        for on, lines in _groups(results, row).items():
            if len(lines) < 2:
                continue
            cells = []
            for column in results.columns:
                found = [line.cells[column].row.accuracy for line in lines if column in line.cells]
                mean = sum(found) / len(found) if found else None
                bounds = f" ({percent(min(found))} to {percent(max(found))})" if found else ""
                cells.append(percent(mean) + bounds)
            yield f"{lines[0].label}, {on.replace('_', ' ')}, {len(lines)} seeds", cells


def _figures(results: StudyResults) -> tuple[Published, ...]:
    figures = published_for(results.study.paper, results.study.axis)
    return tuple(one for one in figures if not one.on or one.on in results.trained_on)


def _published(one: Published, results: StudyResults) -> tuple[str, str, list[str], str, str]:
    """(label, mark, one number per column, mean, source)."""
    show = points if one.kind == "difference" else percent
    label = f"{one.label}, trained on {one.on.replace('_', ' ')}" if one.on else one.label
    n = "" if one.n is None else f"; n {one.n} per column"
    return label, one.mark, [show(one.values.get(c)) for c in results.columns], show(one.mean), one.source + n


@cache
def _texts(folder: Path, name: str) -> dict[str, QuestionText]:
    path = folder / "questions" / f"{name}.jsonl"
    return read_questions(path) if path.is_file() else {}


def _heat(results: StudyResults) -> Iterator[HeatGroup]:
    def texts(line: Line) -> dict[str, QuestionText]:
        return _texts(line.folder, line.header.name)

    if len(results.trained_on) <= 1:
        rows = [(lines[0].label, lines) for row in results.study.rows if (lines := lines_of(results, row))]
        if rows:
            yield heat_group(results, "all models, seeds together", "all", rows, texts)
        return
    for row, spec in results.study.chosen_rows.items():
        groups = [(on.replace("_", " "), lines) for on, lines in _groups(results, row).items() if on]
        if groups:
            yield heat_group(results, spec.label, row, groups, texts)


def _pooled_text(one: Pooled | None) -> PooledText | None:
    if one is None:
        return None
    return PooledText(
        accuracy=percent(one.accuracy),
        interval=percent_range(one.interval),
        n=f"{one.n:,}",
        chance=percent(one.chance),
        blind=percent(one.blind),
    )


def _effect_text(name: str, one: Effect | None, reach: float = 1.0) -> EffectText | None:
    if one is None:
        return None
    return EffectText(
        name=name,
        n=f"{one.n:,}",
        a=percent(one.accuracy_a),
        b=percent(one.accuracy_b),
        difference=points(one.difference),
        interval=points_range(one.interval),
        p=p_value(one.p),
        holm_p=p_value(one.holm_p),
        strip=difference_strip(one.difference, one.interval, reach),
    )


_Domain = tuple[str, PooledText | None, PooledText | None, EffectText | None, EffectText | None]


def _domains(results: StudyResults) -> Iterator[_Domain]:
    """(row, in-domain, out of domain, gain over the base in-domain, and out of domain)."""
    trained = [line for line in results.lines if line.on]
    for row, spec in results.study.chosen_rows.items():
        lines = lines_of(results, row)
        if not lines or not trained:
            continue
        inside, outside = (pooled(results, lines, domain, like=trained) for domain in ("in", "out"))
        base = ZERO_SHOT if spec.recipe and lines_of(results, ZERO_SHOT) else ""
        gains = [effect(results, base, row, d) if base else None for d in ("in", "out")]
        texts = [_effect_text("", gain) for gain in gains]
        yield spec.label, _pooled_text(inside), _pooled_text(outside), texts[0], texts[1]


_Mode = tuple[str, PooledText, str, str, str, str, str, str]


def _modes(results: StudyResults) -> Iterator[_Mode]:
    """(row, accuracy, parsed %, tokens in the test, questions, steps, tokens and seconds of a training)."""
    for row, spec in results.study.chosen_rows.items():
        lines = lines_of(results, row)
        one = _pooled_text(found := pooled(results, lines)) if lines else None
        if one is None or found is None:
            continue
        trainings = [line.training for line in lines if line.training is not None]

        def mean(values: Sequence[float | None]) -> str:
            known = [v for v in values if v is not None]
            return f"{sum(known) / len(known):,.0f}" if known else NONE

        tokens = training_tokens(lines)
        yield (
            spec.label,
            one,
            percent(found.parse_rate),
            NONE if found.num_tokens is None else f"{found.num_tokens:.1f}",
            mean([t.num_questions for t in trainings]),
            mean([t.steps for t in trainings]),
            NONE if tokens is None else f"{tokens:,.0f}",
            mean([t.seconds for t in trainings]),
        )


_COMPARED = ((ZERO_SHOT, GRPO), (SFT, GRPO), (GRPO, NOTHINK), (NOTHINK, THINK_AFTER))


def _forests(results: StudyResults) -> Iterator[Forest]:
    for a, b in _COMPARED:
        if not (lines_of(results, a) and lines_of(results, b)):
            continue
        overall = effect(results, a, b)
        groups = subgroups(results, a, b)
        if overall is None:
            continue
        shown = [("all questions", overall)]
        shown += [(one.value.replace("_", " "), one.effect) for one in groups]
        reach = difference_reach([one.interval for _, one in shown])
        rows = results.study.rows
        texts = [_effect_text(name, one, reach) for name, one in shown]
        yield Forest(
            title=f"{rows[b].label} minus {rows[a].label}",
            lines=tuple(text for text in texts if text is not None),
            grid=tuple(difference_grid(reach)),
        )


def _examples(results: StudyResults) -> list[Line]:
    """One line of each kind, of the first training set and seed: what the example cards compare."""
    first: dict[str, Line] = {}
    for line in results.lines:
        first.setdefault(line.row, line)
    return list(first.values())


def _traces(results: StudyResults) -> tuple[str, tuple] | None:
    for line in lines_of(results, GRPO):
        if line.training is not None and (found := traces_of(line.training.folder)):
            return line.name, found
    return None


def _reasoning(results: StudyResults, runs: Mapping[Path, Run]) -> Iterator[tuple[str, list[Asked]]]:
    """Every kind of model, what it was trained on and the seeds together."""
    for row, spec in results.study.chosen_rows.items():
        of_row = [runs[line.folder] for line in lines_of(results, row)]
        yield spec.label, [(run, evaluated) for run in of_row for evaluated in run.evaluations]


def _jobs(results: StudyResults) -> list[tuple[str, str, str, str]]:
    """(name, key, seconds, command)."""
    store = Store(results.folder)
    rows = []
    for job in results.jobs:
        seconds = store.measured_seconds(job)
        took = (
            "not done"
            if job.name in results.unfinished
            else "resumed"
            if seconds is None
            else f"{seconds:.0f}"
        )
        rows.append((job.name, job.key, took, " ".join(["osler", *job.command])))
    return rows
