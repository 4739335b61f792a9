"""The gallery of reasoning: how much of it is of which kind, and examples that nobody chose by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from osler.data.permutation import draw_key
from osler.evaluate.printed import percent, percent_range
from osler.evaluate.recorded_confidence import recorded_confidence
from osler.evaluate.stats import accuracy_interval
from osler.evaluate.summary import cluster_of
from osler.evaluate.thinking.kinds import (
    ELIMINATES,
    KINDS,
    OTHER_CHOICE,
    RIGHT,
    SURE_AND_WRONG,
    WRONG,
    Traced,
    traced,
)
from osler.records import LETTERS, Prediction
from osler.report.examples import Card, cards_about, visible
from osler.report.runs import Evaluated, Run

CARDS_PER_KIND = 2
_QUOTED = 30  # characters shown on either side of what was read
Asked = tuple[Run, Evaluated]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindShare:
    """How many answers are of one kind, as printed."""

    kind: str
    name: str
    meaning: str
    share: str
    interval: str
    count: str  # "12 of 400"
    shown: int  # cards chosen for it


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryCard:
    """One answer with what its reasoning was sorted by."""

    card: Card
    chosen_for: tuple[str, ...]  # kinds
    kinds: tuple[str, ...]  # names of all kinds that hold
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """One kind of model: every share, and cards to choose from."""

    key: str
    label: str
    with_reasoning: str
    confidence: str  # what the confidence is; "" where nobody measured one
    shares: tuple[KindShare, ...]
    cards: tuple[GalleryCard, ...]

    @property
    def filters(self) -> tuple[KindShare, ...]:
        return tuple(share for share in self.shares if share.shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One answer with reasoning, and where it stands."""

    asked: Asked
    prediction: Prediction
    traced: Traced

    @property
    def order(self) -> bytes:
        run, evaluated = self.asked
        return draw_key(f"{evaluated.stored.question_digests[self.prediction.question_id]}\x1f{run.label}")


def galleries(groups: Sequence[tuple[str, Sequence[Asked]]]) -> list[Gallery]:
    """One gallery per (label, evaluations); none where no answer comes with reasoning."""
    found: list[Gallery] = []
    for label, evaluations in groups:
        answers, sources = list[_Found](), dict[str, None]()
        for asked in evaluations:
            source, sorted_ = _sorted(asked)
            answers += sorted_
            sources |= {source: None} if source else {}
        if answers:
            total = sum(len(evaluated.stored.predictions) for _, evaluated in evaluations)
            found.append(_gallery(f"gallery{len(found) + 1}", label, total, answers, " or ".join(sources)))
    return found


def _sorted(asked: Asked) -> tuple[str, list[_Found]]:
    """What the confidence is, and every answer with reasoning whose choices are known."""
    run, evaluated = asked
    predictions, texts = evaluated.stored.predictions, evaluated.questions
    confidence = recorded_confidence(run.path, evaluated.summary.header.name, predictions)
    found: list[_Found] = []
    for p in predictions:
        if p.question_id in texts:
            one = traced(p, texts[p.question_id].choices, confidence.by_id.get(p.question_id))
            found += [] if one is None else [_Found(asked=asked, prediction=p, traced=one)]
    return confidence.source, found


def _gallery(key: str, label: str, total: int, found: Sequence[_Found], source: str) -> Gallery:
    ordered = sorted(found, key=lambda one: one.order)
    shown = (RIGHT, SURE_AND_WRONG if source else WRONG, OTHER_CHOICE, ELIMINATES)
    chosen: dict[int, list[str]] = {}  # place in `ordered` -> kinds that it was chosen for
    for kind in shown:
        places = [i for i, one in enumerate(ordered) if kind in one.traced.kinds]
        for place in places[:CARDS_PER_KIND]:
            chosen.setdefault(place, []).append(kind)
    cards = tuple(
        _card(number, ordered[place], kinds) for number, (place, kinds) in enumerate(chosen.items(), start=1)
    )
    return Gallery(
        key=key,
        label=label,
        with_reasoning=f"{len(found):,} of {total:,} answers were read and come with one piece of reasoning",
        confidence=source,
        shares=tuple(_shares(ordered, bool(source), cards)),
        cards=cards,
    )


def _shares(found: Sequence[_Found], measured: bool, cards: Sequence[GalleryCard]) -> Iterator[KindShare]:
    for kind, meaning in KINDS.items():
        among = [one for one in found if kind != SURE_AND_WRONG or one.traced.confidence is not None]
        if kind == SURE_AND_WRONG and not measured:
            continue
        holds = [kind in one.traced.kinds for one in among]
        clusters = [cluster_of(one.prediction) for one in among]
        yield KindShare(
            kind=kind,
            name=_name(kind),
            meaning=meaning,
            share=percent(sum(holds) / len(holds) if holds else None),
            interval=percent_range(accuracy_interval(holds, clusters) if holds else None),
            count=f"{sum(holds):,} of {len(holds):,}",
            shown=sum(kind in card.chosen_for for card in cards),
        )


def _card(number: int, one: _Found, chosen_for: Sequence[str]) -> GalleryCard:
    question_id = one.prediction.question_id
    card = cards_about([one.asked], [question_id])[question_id]
    return GalleryCard(
        card=replace(card, number=number),
        chosen_for=tuple(chosen_for),
        kinds=tuple(map(_name, one.traced.kinds)),
        said=tuple(_said(one.traced, card)),
    )


def _name(kind: str) -> str:
    return kind.replace("-", " ")


def _said(found: Traced, card: Card) -> Iterator[str]:
    settled = found.conclusion
    if settled.index is not None and settled.span is not None:
        start, end = settled.span
        words = found.body[max(0, start - _QUOTED) : end + _QUOTED].strip()
        yield f"settles on {_choice(card, settled.index)}, read from “{visible(words)}”"
    else:
        yield "settles on: cannot be read"
    if found.elimination.found:
        out = ", ".join(_choice(card, index) for index in found.elimination.rejected)
        yield f"rules out {out or 'choices, without naming them'}"
    if found.confidence is not None:
        yield f"confidence in {_choice(card, found.index)}: {percent(found.confidence)} %"


def _choice(card: Card, index: int) -> str:
    return f"{LETTERS[index]}) {card.choices[index].text}" if index < len(card.choices) else LETTERS[index]
