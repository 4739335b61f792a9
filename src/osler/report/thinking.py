"""The section on reasoning: every rate with its interval, and example cards to be filtered by flag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from osler.data.permutation import draw_key
from osler.errors import BadInput
from osler.evaluate.printed import NONE, percent, percent_range
from osler.evaluate.stats import Interval
from osler.evaluate.summary import Row, read_findings
from osler.evaluate.thinking.rates import Rate, ThinkingSummary, thinking_from_json
from osler.evaluate.thinking.records import EDITS, FLAGS, HINTED, Examined, read_examined
from osler.evaluate.thinking.table import WORDS, name_of, notes, share_groups
from osler.records import LETTERS
from osler.report.examples import Card, cards_about
from osler.report.runs import Run
from osler.report.tables import strip_place

CARDS_PER_FLAG = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareStrip:
    """Positions of the marks of one line, in percent of the drawing's width."""

    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLine:
    """One rate or accuracy, every number as printed."""

    name: str
    n: str
    share: str
    interval: str
    strip: ShareStrip | None  # None where there is no question
    chance: str = ""
    blind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBlock:
    """Lines under one heading."""

    title: str
    lines: tuple[ShareLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answer under one condition."""

    condition: str
    answer: str
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedCard:
    """A card with what became of its answer."""

    card: Card
    flags: tuple[tuple[str, str], ...]  # name and meaning
    answers: tuple[Answered, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One flag to choose cards by."""

    flag: str
    meaning: str
    count: int  # of all examined questions
    shown: int  # of the cards


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingSection:
    """One model on one test set."""

    key: str
    model: str
    test_set: str
    examined: str
    shares: tuple[ShareBlock, ...]
    accuracies: tuple[ShareLine, ...]
    notes: tuple[str, ...]
    filters: tuple[Filter, ...]
    cards: tuple[ExaminedCard, ...]


def thinking_sections(runs: Sequence[Run]) -> list[ThinkingSection]:
    """One section for every test set of every run whose reasoning was examined.

    Raises BadInput where a finding has no evaluation beside it or cannot be read.
    """
    found: list[ThinkingSection] = []
    for run in runs:
        evaluated = {e.summary.header.name: e for e in run.evaluations}
        for name, values in read_findings(run.path, "thinking").items():
            path = run.path / "thinking" / f"{name}.jsonl"
            if name not in evaluated or not path.exists():
                raise BadInput(f"{run.path}: summary.json has reasoning of {name!r}, its files are missing")
            try:
                summary = thinking_from_json(values)
            except (KeyError, TypeError) as error:
                raise BadInput(f"{run.path}/summary.json: reasoning of {name!r}: {error!r}") from error
            examined = read_examined(path)
            chosen = _choose(examined)
            cards = cards_about([(run, evaluated[name])], [one.question_id for one in chosen])
            shown = tuple(_card(one, cards[one.question_id]) for one in chosen if one.question_id in cards)
            found.append(_section(f"thinking{len(found) + 1}", run, name, summary, examined, shown))
    return found


def _section(
    key: str,
    run: Run,
    name: str,
    summary: ThinkingSummary,
    examined: Sequence[Examined],
    cards: tuple[ExaminedCard, ...],
) -> ThinkingSection:
    counts = Counter(flag for one in examined for flag in one.flags)
    on_cards = Counter(flag for card in cards for flag, _ in card.flags)
    left_out = "".join(f"; {n} {why}" for why, n in summary.left_out.items())
    return ThinkingSection(
        key=key,
        model=run.label,
        test_set=name,
        examined=f"{summary.num_examined} of {summary.num_questions} questions examined{left_out}",
        shares=tuple(_blocks(summary)) if summary.num_examined else (),
        accuracies=tuple(_accuracy_line(row) for row in summary.accuracies),
        notes=tuple(notes(summary)) if summary.num_examined else (),
        filters=tuple(
            Filter(flag=flag, meaning=FLAGS[flag], count=counts[flag], shown=on_cards[flag])
            for flag in FLAGS
            if counts[flag]
        ),
        cards=cards,
    )


def _blocks(summary: ThinkingSummary) -> Iterator[ShareBlock]:
    same = [(WORDS[condition], summary.rate(condition, "same answer")) for condition in EDITS]
    yield ShareBlock(
        title="Same answer, the reasoning", lines=tuple(_rate_line(word, rate) for word, rate in same)
    )
    for title, rates in share_groups(summary):
        yield ShareBlock(title=title, lines=tuple(_rate_line(rate.measure, rate) for rate in rates))


def _rate_line(name: str, rate: Rate) -> ShareLine:
    return ShareLine(
        name=name,
        n=str(rate.n),
        share=percent(rate.share),
        interval=percent_range(rate.interval),
        strip=_strip(rate.share, rate.interval),
    )


def _accuracy_line(row: Row) -> ShareLine:
    return ShareLine(
        name=name_of(row),
        n=str(row.n),
        share=percent(row.accuracy),
        interval=percent_range(row.interval),
        strip=_strip(row.accuracy, row.interval),
        chance=percent(row.chance),
        blind=percent(row.blind_accuracy),
    )


def _strip(share: float | None, interval: Interval | None) -> ShareStrip | None:
    if share is None or interval is None:
        return None
    return ShareStrip(
        share=strip_place(share), low=strip_place(interval.low), high=strip_place(interval.high)
    )


def _choose(examined: Sequence[Examined]) -> list[Examined]:
    """The first few of every flag in the order of a hash of the question's id; nobody chose them."""
    ordered = sorted(examined, key=lambda one: draw_key(one.question_id))
    chosen: dict[str, Examined] = {}
    for flag in FLAGS:
        missing = CARDS_PER_FLAG - sum(flag in one.flags for one in chosen.values())
        waiting = [one for one in ordered if flag in one.flags and one.question_id not in chosen]
        chosen.update({one.question_id: one for one in waiting[: max(0, missing)]})
    return list(chosen.values())


def _card(one: Examined, card: Card) -> ExaminedCard:
    answers = []
    for again in (a for a in one.answers if not a.error):
        condition, text = WORDS[again.condition], NONE
        if again.condition == HINTED and one.hinted is not None:
            condition += f" ({LETTERS[one.hinted]} was claimed)"
        if again.index is not None:
            text = f"{LETTERS[again.index]}) {card.choices[again.index].text}"
        answers.append(Answered(condition=condition, answer=text, changed=again.index != one.index))
    return ExaminedCard(card=card, flags=tuple((f, FLAGS[f]) for f in one.flags), answers=tuple(answers))
