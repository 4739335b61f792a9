"""A comparison for the terminal: accuracies, differences, and what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.compare import Change, Comparison, Contrast, in_order_of_hash
from osler.evaluate.printed import (
    NONE,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    printable,
)

CHANGES_SHOWN = 8
_TEXT_SHOWN = 48


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print both sides' accuracies and the difference, by group, and the first gained and lost questions."""
    a, b = comparison.headers
    console.rule(escape(a.name if a.name == b.name else f"{a.name} and {b.name}"))
    for side, header, path in zip("ab", comparison.headers, comparison.files, strict=True):
        console.print(
            f"[bold]{side}[/bold]  {escape(header.model)}, {header.template}, scorer {header.scorer}: "
            f"{escape(path)}",
            highlight=False,
            soft_wrap=True,
        )
    for line in warnings(comparison):
        console.print(f"[yellow]{escape(line)}[/yellow]", highlight=False)
    console.print(_two_by_two(comparison.overall))
    for line in sentences(comparison):
        console.print(escape(line), highlight=False)
    console.print(_accuracies(comparison))
    for line in blind_sentences(comparison):
        console.print(escape(line), highlight=False)
    console.print(_differences(comparison))
    for name, changes in (("gained", comparison.gained), ("lost", comparison.lost)):
        if changes:
            console.print(_changes(name, changes))
    console.print("For research only, not a medical device.")


def warnings(comparison: Comparison) -> Iterator[str]:
    """What was not the same in both runs, the most telling first."""
    explained = {
        "scorer": "the answers were read by different rules, so the difference is of the rules as well",
        "template": "the models were asked in different words",
    }
    differing = comparison.differing
    for key, why in explained.items():
        if key in differing:
            yield f"{key} differs (a {differing[key][0]}, b {differing[key][1]}): {why}."
    if "prompt_digest" in differing and "template" not in differing:
        yield "the wording of the template changed between the two runs."
    for key in differing:
        if key.startswith("settings."):
            name = key.removeprefix("settings.")
            yield f"{name} differs: a {_value(differing[key][0])}, b {_value(differing[key][1])}."
    if "model_digest" not in differing:
        yield "both runs asked the same weights."


def sentences(comparison: Comparison) -> Iterator[str]:
    """The overall result in words: difference, tests, what could have been found, verdict."""
    one = comparison.overall
    yield (
        f"b - a: {points(one.difference)} points, 95 % interval {points_range(one.interval)} "
        f"({one.interval.method} by {comparison.cluster_unit})."
    )
    yield (
        f"McNemar: exact p {p_value(one.table.exact_p)}, mid-p {p_value(one.table.mid_p)}; "
        f"by {comparison.cluster_unit}, whole clusters: mid-p {p_value(one.cluster_p)}."
    )
    share = f"{percent(one.discordant_share)} % of the questions tell the two apart"
    if one.detectable is None:
        yield f"{share}: too few of {one.a.n} to find any difference with 80 % power."
    else:
        yield (
            f"{share}: with {one.a.n} questions a true difference of {100 * one.detectable:.1f} points "
            "is found with 80 % power (the minimal detectable difference, MDD)."
        )
    if comparison.needed:
        wanted = ", ".join(f"{n:,} for {100 * d:g}" for d, n in comparison.needed.items())
        yield f"Questions needed at this share, by points of difference: {wanted}."
    if one.verdict is not None and comparison.margin is not None:
        yield (
            f"Non-inferiority of b, margin {100 * comparison.margin:g} points: {one.verdict.upper()}. "
            "The margin counts only if it was fixed before the answers were seen."
        )


def blind_sentences(comparison: Comparison) -> Iterator[str]:
    """Parse rates, and where the blind figures come from."""
    for side, row in (("a", comparison.overall.a), ("b", comparison.overall.b)):
        among = NONE if row.parsed_interval is None else f"{percent(row.parsed_accuracy)} %"
        bounds = "" if row.parsed_interval is None else f" ({percent_range(row.parsed_interval)})"
        yield (
            f"Parsed, {side}: {row.num_parsed} of {row.n} ({percent(row.parse_rate)} %), accuracy among them "
            f"{among}{bounds}."
        )
    a, b = comparison.blind_sources
    yield f"Blind baseline: {a}." if a == b else f"Blind baseline: a {a}; b {b}."


def _two_by_two(one: Contrast) -> Table:
    table = Table(title="Questions", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "b right", "b not right"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("a right", str(one.table.both), str(one.table.only_a))
    table.add_row("a not right", str(one.table.only_b), str(one.table.neither))
    return table


def _accuracies(comparison: Comparison) -> Table:
    title = "Accuracy in % (95 % interval); unparsed counts as wrong"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold", min_width=14)
    for name in ("n", "a", "b", "chance", "blind"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in _sectioned(comparison, table):
        table.add_row(
            _name(one),
            str(one.a.n),
            *(f"{percent(row.accuracy)} ({percent_range(row.interval)})" for row in (one.a, one.b)),
            percent(one.a.chance),
            blind_text(one),
        )
    return table


def _differences(comparison: Comparison) -> Table:
    table = Table(title="b - a in points", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold", min_width=14)
    names = ["b - a", "95 % interval", "p", "p, Holm", "MDD"]
    for name in [*names, *([] if comparison.margin is None else ["verdict"])]:
        table.add_column(name, justify="right", no_wrap=True)
    for one in _sectioned(comparison, table):
        cells = [
            points(one.difference),
            points_range(one.interval),
            p_value(one.cluster_p),
            p_value(one.holm_p),
            "none" if one.detectable is None else f"{100 * one.detectable:.1f}",
        ]
        table.add_row(_name(one), *cells, *([] if one.verdict is None else [one.verdict.value]))
    return table


def _sectioned(comparison: Comparison, table: Table) -> Iterator[Contrast]:
    scope = comparison.overall.scope
    for one in (comparison.overall, *comparison.groups):
        if one.scope != scope:
            table.add_section()
            scope = one.scope
        yield one


def _changes(name: str, changes: Sequence[Change]) -> Table:
    side = "b" if name == "gained" else "a"
    more = "" if len(changes) <= CHANGES_SHOWN else f"; {CHANGES_SHOWN} shown, all with --json"
    title = f"{name}: {len(changes)} questions that only {side} answers right{more}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("question", "a (line)", "b (line)"):
        table.add_column(column, overflow="fold")
    for change in in_order_of_hash(changes)[:CHANGES_SHOWN]:
        text = change.text if len(change.text) <= _TEXT_SHOWN else change.text[: _TEXT_SHOWN - 1] + "…"
        shown = f"{change.question_id}: {text}" if text else change.question_id
        table.add_row(
            escape(printable(shown)), f"{change.a} ({change.line_a})", f"{change.b} ({change.line_b})"
        )
    return table


def _name(one: Contrast) -> str:
    shown = one.value if one.scope == "dataset" else one.value.replace("_", " ")
    return escape(printable(shown)) or "all questions"


def blind_text(one: Contrast) -> str:
    """The blind baseline's accuracy; both figures where the two runs fitted it on other questions."""
    a, b = percent(one.a.blind_accuracy), percent(one.b.blind_accuracy)
    return a if a == b else f"{a} / {b}"


def _value(value: Any) -> str:
    return "not recorded" if value is None else str(value)
