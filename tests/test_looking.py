"""What answers owe to the image and to the order of choices, against slow and obvious versions."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from osler.evaluate.looking import looking
from osler.evaluate.looking_records import Answers, Looking, looking_from_json
from osler.evaluate.looking_table import print_looking
from osler.evaluate.stats import accuracy_interval, mean_interval
from osler.evaluate.summary import BlindBaseline
from osler.records import Extraction, Modality, Outcome, Prediction, QuestionType

BLIND = BlindBaseline(source="test", correct={f"q{i}": i % 3 == 0 for i in range(200)})


def prediction(i: int, chosen: int | None, answer: int, k: int = 4, **changes: Any) -> Prediction:
    outcome = Outcome.UNPARSED if chosen is None else (Outcome.WRONG, Outcome.CORRECT)[chosen == answer]
    values = {
        "question_id": f"q{i}",
        "text": "",
        "extraction": Extraction(chosen, "exact" if chosen is not None else "none"),
        "outcome": outcome,
        "answer_index": answer,
        "num_choices": k,
        "image_digest": f"image{i // 2}",
        "modality": (Modality.CT, Modality.MRI)[i % 2],
        "question_type": QuestionType.UNKNOWN,
        "dataset": "d",
    }
    return Prediction(**{**values, **changes})  # type: ignore[arg-type]


class Drawn:
    """Random answers to 60 questions, their variants and every rotation."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.ks = [rng.choice([2, 3, 4]) for _ in range(60)]
        self.answers = [rng.randrange(k) for k in self.ks]

        def one(i: int, turned: int = 0, **changes: Any) -> Prediction:
            k = self.ks[i]
            answer = (self.answers[i] - turned) % k
            # Half of the time right or the first choice, so that no count is near zero.
            chosen = rng.choice([answer, None, 0, rng.randrange(k)])
            return prediction(i, chosen, answer, k, **changes)

        ids = range(60)
        self.real = [one(i) for i in ids]
        self.real[7] = dataclasses.replace(self.real[7], outcome=None, error="damaged")
        self.blank = [one(i) for i in ids if i != 7]
        self.swapped = [one(i, image_digest="other") for i in ids if i % 5 and i != 7]
        self.choices_only = [one(i, image_digest="") for i in ids if i != 7]
        self.rotations = [[one(i, by) for i in ids if self.ks[i] > by and i != 7] for by in (1, 2, 3)]

    def found(self) -> Looking:
        variants = {
            "blank-image": Answers(predictions=tuple(self.blank), left_out={"q7": "failed technically"}),
            "swapped-image": Answers(
                predictions=tuple(self.swapped),
                left_out={f"q{i}": "alone" for i in range(0, 60, 5)} | {"q7": "failed technically"},
            ),
            "choices-only": Answers(predictions=tuple(self.choices_only)),
        }
        turned = [Answers(predictions=tuple(rows)) for rows in self.rotations]
        return looking("set", self.real, variants, turned, BLIND)


@pytest.fixture(params=[0, 1, 2])
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return Drawn(request.param)


def scopes() -> dict[tuple[str, str], Any]:
    return {
        ("overall", ""): lambda i: True,
        ("modality", "ct"): lambda i: i % 2 == 0,
        ("modality", "mri"): lambda i: i % 2 == 1,
    }


def test_effects(drawn: Drawn) -> None:
    found = drawn.found()
    real = {p.question_id: p for p in drawn.real}
    named = {"blank-image": drawn.blank, "swapped-image": drawn.swapped, "choices-only": drawn.choices_only}
    assert [(e.variant, e.scope, e.value) for e in found.effects] == [
        (name, *scope) for name in named for scope in scopes()
    ]
    for e in found.effects:
        rows = [p for p in named[e.variant] if scopes()[e.scope, e.value](int(p.question_id[1:]))]
        pairs = [(real[p.question_id].correct, p.correct) for p in rows]
        assert e.real.n == e.changed.n == len(rows)
        assert e.real.num_correct == sum(a for a, _ in pairs)
        assert e.changed.num_correct == sum(b for _, b in pairs)
        assert e.difference == pytest.approx(e.real.accuracy - e.changed.accuracy)
        lost, won = sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)
        assert (e.table.only_b, e.table.only_a) == (lost, won)
        tail = sum(comb(lost + won, j) for j in range(min(lost, won) + 1)) / 2 ** (lost + won)
        assert e.table.exact_p == pytest.approx(min(1, 2 * tail))
        # By image, by hand: the sum of each image's differences, whole images drawn.
        by_image: dict[str, list[int]] = {}
        for p, (a, b) in zip(rows, pairs, strict=True):
            by_image.setdefault(real[p.question_id].image_digest, []).append(a - b)
        rng = np.random.default_rng(5)
        groups = list(by_image.values())
        means = []
        for _ in range(4000):
            chosen = [groups[j] for j in rng.integers(len(groups), size=len(groups))]
            means.append(sum(map(sum, chosen)) / sum(map(len, chosen)))
        low, high = np.quantile(means, [0.025, 0.975])
        # A bound lies on a multiple of about 1 / n.
        assert abs(e.interval.low - low) < 0.05 and abs(e.interval.high - high) < 0.05
        chance = [1 / p.num_choices for p in rows]
        assert e.changed.chance == e.real.chance == pytest.approx(sum(chance) / len(chance))
        assert e.changed.blind_n == len(rows)
        assert e.cluster_p <= e.holm_p <= 1
    assert found.left_out["swapped-image"] == {"alone": 12, "failed technically": 1}
    assert found.left_out["choices-only"] == {"failed technically": 1}


def test_blind_solvability(drawn: Drawn) -> None:
    blank = {p.question_id: p.correct for p in drawn.blank}
    choices = {p.question_id: p.correct for p in drawn.choices_only}
    for one in drawn.found().solvability:
        assert one.variants == ("blank-image", "choices-only")
        inside = scopes()[one.scope, one.value]
        ids = [i for i in range(60) if i != 7 and inside(i)]
        n = len(ids)
        either = sum(blank[f"q{i}"] or choices[f"q{i}"] for i in ids)
        both = sum(blank[f"q{i}"] and choices[f"q{i}"] for i in ids)
        only = sum(drawn.real[i].correct and not (blank[f"q{i}"] or choices[f"q{i}"]) for i in ids)
        assert one.any_right.share * n == pytest.approx(either) and one.any_right.n == n
        assert one.all_right.share * n == pytest.approx(both)
        assert one.only_with_image.share * n == pytest.approx(only)
        # Chance by listing every pair of guesses of k equally likely ones, the right one being 0.
        ks = [drawn.ks[i] for i in ids]
        pairs = {k: [(a == 0, b == 0) for a in range(k) for b in range(k)] for k in set(ks)}
        any_chance = np.mean([np.mean([a or b for a, b in pairs[k]]) for k in ks])
        assert one.any_right.chance == pytest.approx(any_chance)
        assert one.all_right.chance == pytest.approx(
            np.mean([np.mean([a and b for a, b in pairs[k]]) for k in ks])
        )
        triples = {
            k: np.mean([c == 0 and not (a or b) for c in range(k) for a, b in pairs[k]]) for k in set(ks)
        }
        assert one.only_with_image.chance == pytest.approx(np.mean([triples[k] for k in ks]))


def texts_of(drawn: Drawn, i: int) -> list[str | None]:
    """The text chosen at each rotation, with the choices written out."""
    choices = list("abcd"[: drawn.ks[i]])
    found: list[str | None] = []
    for by, rows in enumerate([drawn.real, *drawn.rotations]):
        shown = choices[by:] + choices[:by]
        found += [
            None if p.extraction.index is None else shown[p.extraction.index]
            for p in rows
            if p.question_id == f"q{i}"
        ]
    return found


def test_order_sensitivity(drawn: Drawn) -> None:
    for one in drawn.found().order:
        ids = [i for i in range(60) if i != 7 and scopes()[one.scope, one.value](i)]
        texts = {i: texts_of(drawn, i) for i in ids}
        gold = {i: "abcd"[drawn.answers[i]] for i in ids}
        assert all(len(texts[i]) == drawn.ks[i] for i in ids)
        n = len(ids)
        assert one.vanilla.num_correct == sum(texts[i][0] == gold[i] for i in ids)
        shares = [sum(t == gold[i] for t in texts[i]) / drawn.ks[i] for i in ids]
        assert one.mean.share == pytest.approx(sum(shares) / n)
        assert one.all_right.share * n == pytest.approx(sum(all(t == gold[i] for t in texts[i]) for i in ids))
        flips = sum(texts[i][0] is None or any(t != texts[i][0] for t in texts[i]) for i in ids)
        assert one.flips.share * n == pytest.approx(flips)
        assert one.num_unread == sum(None in texts[i] for i in ids)
        assert one.all_right.chance == pytest.approx(np.mean([(1 / drawn.ks[i]) ** drawn.ks[i] for i in ids]))
        guessed = {2: 1 - 2 / 4, 3: 1 - 3 / 27, 4: 1 - 4 / 256}  # not all guesses the same
        assert one.flips.chance == pytest.approx(np.mean([guessed[drawn.ks[i]] for i in ids]))


def test_recall_by_letter(drawn: Drawn) -> None:
    every = [p for rows in (drawn.real, *drawn.rotations) for p in rows if p.question_id != "q7"]
    found = drawn.found().letters
    assert [one.letter for one in found] == ["A", "B", "C", "D"]
    for index, one in enumerate(found):
        gold = [p for p in every if p.answer_index == index]
        # Over all rotations the answer stands once under every letter there is.
        assert one.recall.n == len(gold) == sum(k > index for i, k in enumerate(drawn.ks) if i != 7)
        assert one.recall.share == pytest.approx(sum(p.correct for p in gold) / len(gold))
        there = [p for p in every if p.num_choices > index]
        assert one.chosen == pytest.approx(sum(p.extraction.index == index for p in there) / len(there))


def test_quadrants(drawn: Drawn) -> None:
    found = drawn.found()
    assert found.reliance_variant == "blank-image"
    blank = {p.question_id: p for p in drawn.blank}
    for scope in scopes():
        four = [q for q in found.quadrants if (q.scope, q.value) == scope]
        assert len(four) == 4 and sum(q.share.share for q in four) == pytest.approx(1)
        for q in four:
            members = []
            for i in range(60):
                if i == 7 or not scopes()[scope](i):
                    continue
                texts = texts_of(drawn, i)
                same = None not in texts and len(set(texts)) == 1
                moved = drawn.real[i].extraction.index != blank[f"q{i}"].extraction.index
                if (same, moved) == (q.consistent, q.reliant):
                    members.append(i)
            assert (0 if q.accuracy is None else q.accuracy.n) == len(members)
            if q.accuracy is not None:
                assert q.accuracy.num_correct == sum(drawn.real[i].correct for i in members)
            only = sum(drawn.real[i].correct and not blank[f"q{i}"].correct for i in members)
            assert q.only_with_image == only


def test_swapped_divides_where_no_blank_was_asked_and_nothing_without_rotations(drawn: Drawn) -> None:
    turned = [Answers(predictions=tuple(rows)) for rows in drawn.rotations]
    swapped = {"swapped-image": Answers(predictions=tuple(drawn.swapped))}
    found = looking("set", drawn.real, swapped, turned, BLIND)
    assert found.reliance_variant == "swapped-image" and found.solvability == ()
    assert sum(q.accuracy.n for q in found.quadrants if q.accuracy and q.scope == "overall") == len(
        drawn.swapped
    )
    found = looking("set", drawn.real, swapped, [], BLIND)
    assert found.quadrants == found.order == found.letters == () and found.reliance_variant == ""
    found = looking("set", drawn.real, {}, turned, BLIND)
    assert found.effects == found.quadrants == () and found.order


def test_a_model_that_looks_and_one_that_does_not() -> None:
    """Extremes that need no arithmetic: always right with the image; always the same letter."""
    ids = range(40)
    sees = [prediction(i, i % 4, i % 4) for i in ids]
    lost = [prediction(i, 0, i % 4) for i in ids]
    turned = [
        Answers(predictions=tuple(prediction(i, (i - r) % 4, (i - r) % 4) for i in ids)) for r in (1, 2, 3)
    ]
    found = looking("set", sees, {"blank-image": Answers(predictions=tuple(lost))}, turned, BLIND)
    assert found.effects[0].difference == 0.75 and found.effects[0].cluster_p < 1e-4
    assert found.order[0].flips.share == 0 and found.order[0].all_right.share == 1
    assert [q.share.share for q in found.quadrants[:4]] == [0.75, 0.25, 0, 0]
    stuck = [Answers(predictions=tuple(prediction(i, 0, (i - r) % 4) for i in ids)) for r in (1, 2, 3)]
    found = looking("set", lost, {"blank-image": Answers(predictions=tuple(lost))}, stuck, BLIND)
    assert found.effects[0].difference == 0 and found.effects[0].cluster_p == 1
    assert found.order[0].flips.share == 1 and found.order[0].all_right.share == 0
    assert found.order[0].mean.share == 0.25
    assert [one.recall.share for one in found.letters] == [1, 0, 0, 0]
    assert [one.chosen for one in found.letters] == [1, 0, 0, 0]
    assert [q.share.share for q in found.quadrants[:4]] == [0, 0, 0, 1]


def test_question_only_is_read_by_sum_as_well() -> None:
    rows = [
        prediction(i, 1, 0, choice_logprobs=(-1.0, -2.0, -9.0, -9.0) if i % 4 else (-5.0, -5.0, -9.0, -9.0))
        for i in range(20)
    ]
    real = [prediction(i, 0, 0) for i in range(20)]
    found = looking("set", real, {"question-only": Answers(predictions=tuple(rows))}, [], BLIND)
    assert found.effects[0].changed.accuracy == 0
    assert found.texts_by_sum is not None and found.texts_by_sum.accuracy == 0.75
    assert found.texts_by_sum.parse_rate == 0.75, "two texts in the first place are no choice"


def test_everything_survives_json_and_is_printed(drawn: Drawn) -> None:
    found = drawn.found()
    stored = json.loads(json.dumps(dataclasses.asdict(found)))
    assert looking_from_json(stored) == found
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_looking(found, console)
    shown = console.export_text()
    for words in (
        "blank-image",
        "all right",
        "flip rate",
        "same choice in every order",
        "12 of 60 questions left",
    ):
        assert words in shown
    with pytest.raises((KeyError, TypeError)):
        looking_from_json({"test_set": "x"})


def slow_mean_interval(values: Sequence[float], clusters: Sequence[str]) -> list[float]:
    groups: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    rng, rows, means = np.random.default_rng(1), list(groups.values()), []
    for _ in range(6000):
        drawn = [rows[j] for j in rng.integers(len(rows), size=len(rows))]
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    return [float(q) for q in np.quantile(means, [0.025, 0.975])]


def test_interval_of_a_mean() -> None:
    rng = random.Random(3)
    values = [rng.choice([0, 0.25, 1 / 3, 0.5, 1]) for _ in range(90)]
    clusters = [f"c{rng.randrange(30)}" for _ in values]
    found = mean_interval(values, clusters)
    assert [found.low, found.high] == pytest.approx(slow_mean_interval(values, clusters), abs=0.015)
    # Zeros and ones in clusters: the interval of an accuracy.
    hits = [round(v) for v in values]
    assert mean_interval(hits, clusters) == accuracy_interval(hits, clusters)
    assert mean_interval([0.5, 0.5], ["a", "b"]).method == "Wilson over clusters"
    for bad in ([], [1.5], [-0.1]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            mean_interval(bad, ["a"] * len(bad))
