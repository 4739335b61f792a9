"""Is it looking? What a model's answers owe to the image, and what to the order of the choices.

Everything here is arithmetic on stored predictions: of the questions as they are ("real"), and of variants in
which the image, the stem or the order of the choices is changed (`osler.evaluate.variants`). A variant is
compared with the real answers to the same questions only, and the unit of every interval is the real image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from osler.evaluate.looking_records import (
    Answers,
    Effect,
    LetterRecall,
    Looking,
    OrderSensitivity,
    Quadrant,
    Rate,
    Solvability,
)
from osler.evaluate.scoring import TEXT_LOGPROB, read_logprobs
from osler.evaluate.stats import (
    accuracy_interval,
    cluster_flip_test,
    holm,
    mcnemar,
    mean_interval,
    paired_cluster_bootstrap,
)
from osler.evaluate.summary import SCOPES, BlindBaseline, cluster_of, row_of
from osler.evaluate.variants import BLANK, CHOICES_ONLY, FAILED, QUESTION_ONLY, SWAPPED
from osler.records import LETTERS, Extraction, Outcome, Prediction

BLIND_VARIANTS = (BLANK, CHOICES_ONLY)  # those that count for blind solvability
RELIANCE_VARIANTS = (BLANK, SWAPPED)  # the first of them that was asked divides the quadrants


def looking(
    test_set: str,
    real: Sequence[Prediction],
    variants: Mapping[str, Answers],
    rotations: Sequence[Answers],
    blind: BlindBaseline,
) -> Looking:
    """Every number. `rotations` [r - 1] holds the questions with more than r choices, turned by r."""
    asked = {p.question_id: p for p in real if not p.error}
    answers = {name: _beside(asked, a.predictions) for name, a in variants.items()}
    effects = [e for name in answers for e in _effects(name, asked, answers[name], blind)]
    away = [name for name in RELIANCE_VARIANTS if name in answers]
    consistency = _Rotated(asked, rotations) if rotations else None
    quadrants: list[Quadrant] = []
    if consistency is not None and away:
        quadrants = list(_quadrants(asked, answers[away[0]], consistency, blind))
    without = {name: answers[name] for name in BLIND_VARIANTS if name in answers}
    texts = list(answers.get(QUESTION_ONLY, {}).values())
    return Looking(
        test_set=test_set,
        n=len(real),
        left_out={name: _counts(a, answers[name], len(real)) for name, a in variants.items()},
        effects=tuple(_adjusted(effects)),
        solvability=tuple(_solvability(asked, without)) if without else (),
        order=tuple(_order(asked, consistency, blind)) if consistency else (),
        letters=tuple(_letters(asked, consistency)) if consistency else (),
        reliance_variant=away[0] if quadrants else "",
        quadrants=tuple(quadrants),
        texts_by_sum=row_of([_by_sum(p) for p in texts], "overall", "", blind) if texts else None,
    )


def _beside(real: Mapping[str, Prediction], variant: Sequence[Prediction]) -> dict[str, Prediction]:
    """A variant's answers under the real image, which stays the unit of sampling."""
    return {
        p.question_id: dataclasses.replace(p, image_digest=real[p.question_id].image_digest)
        for p in variant
        if p.question_id in real and not p.error
    }


def _counts(answers: Answers, kept: Mapping[str, Prediction], total: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in answers.left_out.values():
        counts[reason] = counts.get(reason, 0) + 1
    failed = total - len(kept) - sum(counts.values())
    return counts | ({FAILED: counts.get(FAILED, 0) + failed} if failed else {})


def _groups(asked: Mapping[str, Prediction], ids: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(scope, value, question ids): all of them, then every scope that cuts them in a new way."""
    if ids:
        yield "overall", "", list(ids)
    cuts: list[list[list[str]]] = []
    for scope, key in SCOPES.items():
        members: dict[str, list[str]] = {}
        for i in ids:
            members.setdefault(key(asked[i]), []).append(i)
        cut = sorted(members.values())
        if len(members) > 1 and cut not in cuts:
            cuts.append(cut)
            yield from ((scope, value, members[value]) for value in sorted(members))


def _clusters(asked: Mapping[str, Prediction], ids: Sequence[str]) -> list[str]:
    return [cluster_of(asked[i]) for i in ids]


def _rate(
    hits: Sequence[bool], asked: Mapping[str, Prediction], ids: Sequence[str], chance: float | None
) -> Rate:
    interval = accuracy_interval(hits, _clusters(asked, ids))
    return Rate(n=len(ids), share=sum(hits) / len(ids), interval=interval, chance=chance)


def _effects(
    variant: str, asked: Mapping[str, Prediction], answers: Mapping[str, Prediction], blind: BlindBaseline
) -> Iterator[Effect]:
    for scope, value, ids in _groups(asked, [i for i in asked if i in answers]):
        with_image, without = [asked[i] for i in ids], [answers[i] for i in ids]
        a, b = ([p.correct for p in rows] for rows in (without, with_image))
        clusters = _clusters(asked, ids)
        table = mcnemar(a, b)
        yield Effect(
            variant=variant,
            scope=scope,
            value=value,
            real=row_of(with_image, scope, value, blind),
            changed=row_of(without, scope, value, blind),
            difference=(table.only_b - table.only_a) / len(ids),
            interval=paired_cluster_bootstrap(a, b, clusters),
            table=table,
            cluster_p=cluster_flip_test(a, b, clusters)[1],
            holm_p=1.0,  # known once every test of the family is
        )


def _adjusted(effects: Sequence[Effect]) -> Iterator[Effect]:
    families = [[e for e in effects if (e.scope == "overall") == whole] for whole in (True, False)]
    adjusted = {
        id(effect): float(p)
        for family in families
        for effect, p in zip(family, holm([e.cluster_p for e in family]), strict=True)
    }
    return (dataclasses.replace(e, holm_p=adjusted[id(e)]) for e in effects)


def _solvability(
    asked: Mapping[str, Prediction], without: Mapping[str, Mapping[str, Prediction]]
) -> Iterator[Solvability]:
    common = [i for i in asked if all(i in answers for answers in without.values())]
    m = len(without)
    for scope, value, ids in _groups(asked, common):
        right = {i: [answers[i].correct for answers in without.values()] for i in ids}
        guess = np.array([1 / asked[i].num_choices for i in ids])
        none = (1 - guess) ** m
        only = [asked[i].correct and not any(right[i]) for i in ids]
        yield Solvability(
            variants=tuple(without),
            scope=scope,
            value=value,
            any_right=_rate([any(right[i]) for i in ids], asked, ids, float((1 - none).mean())),
            all_right=_rate([all(right[i]) for i in ids], asked, ids, float((guess**m).mean())),
            only_with_image=_rate(only, asked, ids, float((guess * none).mean())),
        )


class _Rotated:
    """What each question got at every rotation; only questions with an answer at all of them."""

    def __init__(self, asked: Mapping[str, Prediction], rotations: Sequence[Answers]) -> None:
        turned: dict[str, list[Prediction]] = {i: [p] for i, p in asked.items()}
        for answers in rotations:
            for prediction in answers.predictions:
                if prediction.question_id in asked and not prediction.error:
                    turned[prediction.question_id].append(prediction)
        whole = [i for i, rows in turned.items() if len(rows) == asked[i].num_choices]
        self.predictions = {i: turned[i] for i in whole}
        # Rotation r shows in place c the choice that the given order has in place c + r.
        self.chosen = {
            i: [
                None if p.extraction.index is None else (p.extraction.index + r) % len(turned[i])
                for r, p in enumerate(turned[i])
            ]
            for i in whole
        }

    def consistent(self, question_id: str) -> bool:
        chosen = self.chosen[question_id]
        return None not in chosen and len(set(chosen)) == 1


def _order(
    asked: Mapping[str, Prediction], rotated: _Rotated, blind: BlindBaseline
) -> Iterator[OrderSensitivity]:
    for scope, value, ids in _groups(asked, list(rotated.predictions)):
        rows = [rotated.predictions[i] for i in ids]
        shares = [sum(p.correct for p in row) / len(row) for row in rows]
        guess = [1 / len(row) for row in rows]
        same = [g ** (len(row) - 1) for g, row in zip(guess, rows, strict=True)]
        mean = Rate(
            n=len(ids),
            share=float(np.mean(shares)),
            interval=mean_interval(shares, _clusters(asked, ids)),
            chance=float(np.mean(guess)),
        )
        every = [all(p.correct for p in row) for row in rows]
        flips = [not rotated.consistent(i) for i in ids]
        all_by_chance = float(np.mean([g * s for g, s in zip(guess, same, strict=True)]))
        yield OrderSensitivity(
            scope=scope,
            value=value,
            vanilla=row_of([asked[i] for i in ids], scope, value, blind),
            mean=mean,
            all_right=_rate(every, asked, ids, all_by_chance),
            flips=_rate(flips, asked, ids, 1 - float(np.mean(same))),
            num_unread=sum(None in rotated.chosen[i] for i in ids),
        )


def _letters(asked: Mapping[str, Prediction], rotated: _Rotated) -> Iterator[LetterRecall]:
    rows = [p for row in rotated.predictions.values() for p in row]
    for index, letter in enumerate(LETTERS):
        there = [p for p in rows if p.num_choices > index]
        gold = [p for p in there if p.answer_index == index]
        if not gold:
            return
        yield LetterRecall(
            letter=letter,
            recall=_rate(
                [p.correct for p in gold],
                asked,
                [p.question_id for p in gold],
                float(np.mean([1 / p.num_choices for p in gold])),
            ),
            chosen=sum(p.extraction.index == index for p in there) / len(there),
        )


def _quadrants(
    asked: Mapping[str, Prediction],
    without: Mapping[str, Prediction],
    rotated: _Rotated,
    blind: BlindBaseline,
) -> Iterator[Quadrant]:
    common = [i for i in rotated.predictions if i in without]
    reliant = {i: asked[i].extraction.index != without[i].extraction.index for i in common}
    for scope, value, ids in _groups(asked, common):
        for consistent in (True, False):
            for relies in (True, False):
                inside = [rotated.consistent(i) == consistent and reliant[i] == relies for i in ids]
                members = [i for i, yes in zip(ids, inside, strict=True) if yes]
                yield Quadrant(
                    scope=scope,
                    value=value,
                    consistent=consistent,
                    reliant=relies,
                    share=_rate(inside, asked, ids, None),
                    accuracy=row_of([asked[i] for i in members], scope, value, blind) if members else None,
                    only_with_image=sum(asked[i].correct and not without[i].correct for i in members),
                )


def _by_sum(prediction: Prediction) -> Prediction:
    """A question-only answer under the rule that does not divide by length."""
    found = read_logprobs(prediction.choice_logprobs)
    if found.index is None:
        return dataclasses.replace(prediction, extraction=found, outcome=Outcome.UNPARSED)
    right = found.index == prediction.answer_index
    return dataclasses.replace(
        prediction,
        extraction=Extraction(found.index, TEXT_LOGPROB, None),
        outcome=Outcome.CORRECT if right else Outcome.WRONG,
    )
