"""The section that says whether a model looks: variants as bars, orders, letters, quadrants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from osler.evaluate.looking_records import Effect, LetterRecall, Looking, Quadrant, Rate
from osler.evaluate.looking_table import QUADRANTS, group_name, quadrant_cells, rate, sentences
from osler.evaluate.printed import p_value, percent, percent_range, points, points_range
from osler.evaluate.summary import Row
from osler.report.runs import Run
from osler.report.tables import Strip, strip_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One variant, or the questions as they are; every number as printed."""

    name: str
    accuracy: str
    interval: str
    strip: Strip
    n: str
    chance: str
    blind: str
    as_it_is: str  # accuracy and interval of the same questions; "" for these themselves
    lost: str  # points, with interval
    p: str
    holm_p: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterBar:
    """How often the right answer is found under one letter."""

    letter: str
    recall: str
    interval: str
    strip: Strip
    n: str
    chance: str
    chosen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookingSection:
    """One model on one test set."""

    title: str
    bars: tuple[Bar, ...]
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]  # variant, bars by group
    order: tuple[tuple[str, tuple[str, ...]], ...]  # group, cells
    letters: tuple[LetterBar, ...]
    reliance_variant: str
    quadrants: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]  # group, (name, cells) of four
    sentences: tuple[str, ...]


def looking_sections(runs: Sequence[Run]) -> list[LookingSection]:
    """A section for every test set of every run that was asked in variants."""
    found = [(run, e) for run in runs for e in run.evaluations if e.looking is not None]
    return [
        _section(f"{run.label} on {e.summary.header.name}", e.summary.overall, e.looking)
        for run, e in found
        if e.looking is not None
    ]


def _section(title: str, whole: Row, found: Looking) -> LookingSection:
    overall = [e for e in found.effects if e.scope == "overall"]
    names = dict.fromkeys(e.variant for e in found.effects if e.scope != "overall")
    grouped = {n: [e for e in found.effects if e.variant == n and e.scope != "overall"] for n in names}
    return LookingSection(
        title=title,
        bars=(_as_it_is(whole), *(_bar(e.variant, e) for e in overall)) if overall else (),
        groups=tuple(
            (name, tuple(_bar(group_name(e.scope, e.value), e) for e in grouped[name])) for name in names
        ),
        order=tuple(_orders(found)),
        letters=tuple(_letter(one) for one in found.letters),
        reliance_variant=found.reliance_variant,
        quadrants=tuple(_quadrants(found.quadrants)),
        sentences=tuple(sentences(found)),
    )


def _as_it_is(row: Row) -> Bar:
    return Bar(
        name="as it is",
        accuracy=percent(row.accuracy),
        interval=percent_range(row.interval),
        strip=strip_of(row.accuracy, row.interval, row.chance, row.blind_accuracy),
        n=str(row.n),
        chance=percent(row.chance),
        blind=percent(row.blind_accuracy),
        as_it_is="",
        lost="",
        p="",
        holm_p="",
    )


def _bar(name: str, effect: Effect) -> Bar:
    row, real = effect.changed, effect.real
    return Bar(
        name=name,
        accuracy=percent(row.accuracy),
        interval=percent_range(row.interval),
        strip=strip_of(row.accuracy, row.interval, row.chance, row.blind_accuracy),
        n=str(row.n),
        chance=percent(row.chance),
        blind=percent(row.blind_accuracy),
        as_it_is=f"{percent(real.accuracy)} ({percent_range(real.interval)})",
        lost=f"{points(effect.difference)} ({points_range(effect.interval)})",
        p=p_value(effect.cluster_p),
        holm_p=p_value(effect.holm_p),
    )


def _orders(found: Looking) -> Iterator[tuple[str, tuple[str, ...]]]:
    for o in found.order:
        row = o.vanilla
        accuracy = f"{percent(row.accuracy)} ({percent_range(row.interval)})"
        cells = (str(row.n), accuracy, percent(row.chance), percent(row.blind_accuracy))
        yield group_name(o.scope, o.value), (*cells, rate(o.mean), rate(o.all_right), rate(o.flips))


def _letter(one: LetterRecall) -> LetterBar:
    recall: Rate = one.recall
    return LetterBar(
        letter=one.letter,
        recall=percent(recall.share),
        interval=percent_range(recall.interval),
        strip=strip_of(recall.share, recall.interval, recall.chance or 0.0, None),
        n=str(recall.n),
        chance=percent(recall.chance),
        chosen=percent(one.chosen),
    )


def _quadrants(
    quadrants: Sequence[Quadrant],
) -> Iterator[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]]:
    for start in range(0, len(quadrants), len(QUADRANTS)):
        four = quadrants[start : start + len(QUADRANTS)]
        rows = tuple((QUADRANTS[q.consistent, q.reliant], tuple(quadrant_cells(q))) for q in four)
        yield group_name(four[0].scope, four[0].value), rows
