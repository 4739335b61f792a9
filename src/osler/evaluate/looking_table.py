"""Is it looking? The answer for the terminal, and its words, which the page prints too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from osler.evaluate.looking_records import Effect, Looking, Quadrant, Rate
from osler.evaluate.printed import (
    NONE,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    printable,
)
from osler.evaluate.summary import Row
from osler.evaluate.variants import BLANK, QUESTION_ONLY, SWAPPED

_NUMBERS = ("n", "as it is (95 %)", "variant (95 %)", "chance", "blind", "points lost (95 %)", "p", "Holm")
QUADRANTS = {
    (True, True): "same choice in every order, another without the image",
    (True, False): "same choice in every order, and without the image",
    (False, True): "changes with the order, and without the image",
    (False, False): "changes with the order, not without the image",
}


def print_looking(found: Looking, console: Console) -> None:
    """Print what each variant costs, blind solvability, order sensitivity, letters and quadrants."""
    console.rule("is it looking?")
    whole = [e for e in found.effects if e.scope == "overall"]
    if whole:
        console.print(effects_table(f"{found.test_set}: variants of the same questions, in %", whole))
    for variant in (BLANK, SWAPPED):
        groups = [e for e in found.effects if e.variant == variant and e.scope != "overall"]
        if groups:
            console.print(effects_table(f"{variant}, by group, in %", groups, by_group=True))
    if found.order:
        console.print(_order_table(found))
        console.print(_letters_table(found))
    if found.quadrants:
        overall = [q for q in found.quadrants if q.scope == "overall"]
        console.print(_quadrants_table(found, overall))
    for line in sentences(found):
        console.print(escape(line), highlight=False)


def effects_table(title: str, effects: Sequence[Effect], by_group: bool = False) -> Table:
    """One line per effect: both accuracies of the same questions, and the difference."""
    table = _table(title, *_NUMBERS)
    for e in effects:
        table.add_row(
            escape(group_name(e.scope, e.value)) if by_group else e.variant,
            str(e.real.n),
            accuracy(e.real),
            accuracy(e.changed),
            percent(e.real.chance),
            percent(e.real.blind_accuracy),
            f"{points(e.difference)} ({points_range(e.interval)})",
            p_value(e.cluster_p),
            p_value(e.holm_p),
        )
    return table


def _order_table(found: Looking) -> Table:
    table = _table(
        "all rotations of the choices, in %; in brackets 95 % interval, behind it what guessing gives",
        *("n", "as it is", "chance", "blind", "mean of rotations", "all right", "flip rate"),
    )
    for o in found.order:
        cells = [accuracy(o.vanilla), percent(o.vanilla.chance), percent(o.vanilla.blind_accuracy)]
        cells += [rate(r) for r in (o.mean, o.all_right, o.flips)]
        table.add_row(escape(group_name(o.scope, o.value)), str(o.vanilla.n), *cells)
    return table


def _letters_table(found: Looking) -> Table:
    table = _table("the right answer under each letter, in %", "n", "found (95 %), guessing", "letter chosen")
    for one in found.letters:
        table.add_row(one.letter, str(one.recall.n), rate(one.recall), percent(one.chosen))
    return table


def _quadrants_table(found: Looking, quadrants: Sequence[Quadrant]) -> Table:
    table = _table(
        f"the same choice in every order? another one with {found.reliance_variant}? in %",
        *("n", "share (95 %)", "accuracy (95 %)", "chance", "blind", "right only\nwith image"),
    )
    for q in quadrants:
        table.add_row(QUADRANTS[q.consistent, q.reliant], *quadrant_cells(q))
    return table


def quadrant_cells(quadrant: Quadrant) -> list[str]:
    """n, share, accuracy, chance, blind and the number right only with the image, as printed."""
    row, share = quadrant.accuracy, quadrant.share
    return [
        "0" if row is None else str(row.n),
        f"{percent(share.share)} ({percent_range(share.interval)})",
        NONE if row is None else accuracy(row),
        NONE if row is None else percent(row.chance),
        NONE if row is None else percent(row.blind_accuracy),
        str(quadrant.only_with_image),
    ]


def sentences(found: Looking) -> Iterator[str]:
    """What the tables do not hold, in words."""
    for one in found.solvability:
        if one.scope == "overall":
            names = " or ".join(one.variants)
            yield f"Right without seeing ({names}): {_told(one.any_right)}."
            if len(one.variants) > 1:
                yield f"Right in all of these: {_told(one.all_right)}."
            yield f"Right with the image, and in none of these: {_told(one.only_with_image)}."
    if found.texts_by_sum is not None:
        row = found.texts_by_sum
        yield (
            f"{QUESTION_ONLY} compares the choices' texts per byte; summed without regard to length: "
            f"{accuracy(row)}, n {row.n}, chance {percent(row.chance)}, blind {percent(row.blind_accuracy)}."
        )
    for order in found.order[:1]:
        yield (
            "Flip rate: questions that do not get the same readable choice in every order; "
            f"{order.num_unread} of them had an order from which nothing could be read."
        )
    for variant, reasons in found.left_out.items():
        for reason, count in reasons.items():
            yield f"{variant}: {count} of {found.n} questions left out: {reason}."
    if found.effects:
        yield "p: mid-p of McNemar's test with whole images; Holm over the lines of all tables of its kind."
    yield "Every variant is compared with the same questions as they are; intervals by image."


def rate(value: Rate) -> str:
    """
    >>> from osler.evaluate.stats import Interval
    >>> rate(Rate(n=10, share=0.5, interval=Interval(0.25, 0.75, "Wilson"), chance=0.25))
    '50.0 (25.0–75.0), 25.0'
    """
    chance = "" if value.chance is None else f", {percent(value.chance)}"
    return f"{percent(value.share)} ({percent_range(value.interval)}){chance}"


def _told(value: Rate) -> str:
    shown = f"{percent(value.share)} % ({percent_range(value.interval)}), n {value.n}"
    return f"{shown}; guessing gives {percent(value.chance)}"


def accuracy(row: Row) -> str:
    """Accuracy and interval of a row, as printed."""
    return f"{percent(row.accuracy)} ({percent_range(row.interval)})"


def group_name(scope: str, value: str) -> str:
    """How a group of questions is called in a table."""
    if scope == "overall":
        return "all questions"
    return printable(value if scope == "dataset" else value.replace("_", " "))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold", min_width=14)
    for name in columns:
        table.add_column(name, justify="right")
    return table
