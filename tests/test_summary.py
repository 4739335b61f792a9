"""Summaries: every number against a slow, obvious count or an independent oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from osler.audit.blind import fit_blind
from osler.errors import BadInput
from osler.evaluate.predictions import Header
from osler.evaluate.stats import cluster_bootstrap_interval
from osler.evaluate.summary import (
    BlindBaseline,
    blind_baseline,
    cluster_of,
    macro_interval,
    read_summaries,
    summarize,
    summary_from_json,
    summary_to_json,
    write_summary,
)
from osler.evaluate.summary_table import print_summary
from osler.records import Extraction, Modality, Outcome, Prediction, Question, QuestionType

HEADER = Header(
    name="t", data="d", model="m", model_digest="x", template="think", prompt_digest="y", settings={"seed": 0}
)
NO_BLIND = BlindBaseline(source="not fitted, test")
CHEST = ("Kidney", "Liver", "Lung", "Spleen")


def prediction(
    i: int, outcome: Outcome | None, image: str = "", choices: int = 4, **changes: object
) -> Prediction:
    read = outcome in (Outcome.CORRECT, Outcome.WRONG)
    values: dict[str, object] = {
        "question_id": f"q{i}",
        "text": "",
        "extraction": Extraction(0 if read else None, "exact" if read else "none"),
        "outcome": outcome,
        "answer_index": 0,
        "num_choices": choices,
        "image_digest": image or f"image{i}",
        "modality": Modality.CT,
        "question_type": QuestionType.UNKNOWN,
        "dataset": "d",
    }
    return Prediction(**(values | changes))  # type: ignore[arg-type]


def test_counts_by_hand() -> None:
    outcomes = (
        [Outcome.CORRECT] * 5 + [Outcome.WRONG] * 2 + [Outcome.UNPARSED, Outcome.TRUNCATED, Outcome.REFUSED]
    )
    made = [prediction(i, o, truncated=i in (0, 8)) for i, o in enumerate(outcomes)]
    made += [prediction(10, None, error="image x.png: damaged"), prediction(11, Outcome.CORRECT, choices=2)]
    row = summarize(made, HEADER, NO_BLIND).overall
    assert (row.n, row.num_correct, row.accuracy) == (12, 6, 0.5)
    assert row.num_parsed == 8 and row.parse_rate == 8 / 12 and row.parsed_accuracy == 6 / 8
    assert row.outcomes == {"correct": 6, "wrong": 2, "unparsed": 1, "truncated": 1, "refused": 1, "error": 1}
    assert row.num_truncated == 2
    assert row.chance == pytest.approx((11 / 4 + 1 / 2) / 12)
    assert row.blind_accuracy is None and row.blind_n == 0


def test_technical_failures_are_in_n_and_listed() -> None:
    summary = summarize([prediction(0, None, error="gone"), prediction(1, Outcome.CORRECT)], HEADER, NO_BLIND)
    assert summary.errors == {"q0": "gone"} and summary.overall.n == 2 and summary.overall.accuracy == 0.5


def test_wilson_where_every_image_has_one_question() -> None:
    made = [prediction(i, Outcome.CORRECT if i < 78 else Outcome.WRONG) for i in range(100)]
    interval = summarize(made, HEADER, NO_BLIND).overall.interval
    expected = binomtest(78, 100).proportion_ci(method="wilson")
    assert interval.method == "Wilson"
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_cluster_bootstrap_where_images_have_several_questions() -> None:
    made = [
        prediction(i, Outcome.CORRECT if i % 3 else Outcome.WRONG, image=f"im{i // 2}") for i in range(60)
    ]
    summary = summarize(made, HEADER, NO_BLIND)
    expected = cluster_bootstrap_interval([p.correct for p in made], [f"im{i // 2}" for i in range(60)])
    assert summary.overall.interval == expected and summary.cluster_unit == "image"


def test_subject_is_the_cluster_where_known() -> None:
    a = prediction(0, Outcome.CORRECT, image="x", subject_id="p1")
    b = prediction(1, Outcome.CORRECT, image="y", subject_id="p1")
    assert cluster_of(a) == cluster_of(b) != cluster_of(replace(b, subject_id="p2"))
    # The same number in two data sets is two patients.
    assert cluster_of(a) != cluster_of(replace(a, dataset="other"))
    assert cluster_of(replace(a, subject_id="", image_digest="")) == "question:q0"
    assert (
        summarize([a, b, prediction(2, Outcome.WRONG)], HEADER, NO_BLIND).cluster_unit == "image or subject"
    )


def test_groups_and_macro_by_hand() -> None:
    made = [prediction(i, Outcome.CORRECT if i < 3 else Outcome.WRONG) for i in range(4)]
    made += [
        prediction(i, Outcome.CORRECT if i < 12 else Outcome.WRONG, modality=Modality.MRI, choices=2)
        for i in range(10, 30)
    ]
    summary = summarize(made, HEADER, NO_BLIND)
    by_value = {(g.scope, g.value): g for g in summary.groups}
    assert set(by_value) == {("modality", "ct"), ("modality", "mri")}  # one data set, one type: no rows
    assert by_value["modality", "ct"].accuracy == 0.75 and by_value["modality", "mri"].accuracy == 0.1
    (macro,) = summary.macro
    assert macro.num_groups == 2 and macro.accuracy == pytest.approx(0.425)
    assert macro.chance == pytest.approx(0.375) and macro.blind_accuracy is None
    assert macro.interval.low < 0.425 < macro.interval.high


def test_macro_interval_against_drawing_clusters_one_by_one() -> None:
    rng = np.random.default_rng(3)
    clusters = [f"c{i}" for i in rng.integers(0, 25, 90)]
    labels = [str(v) for v in rng.choice(["a", "b", "c"], 90, p=[0.6, 0.3, 0.1])]
    correct = [bool(v) for v in rng.random(90) < 0.6]
    names = sorted(set(clusters))
    draws = []
    for _ in range(4000):
        rows = [i for name in rng.choice(names, len(names)) for i in range(90) if clusters[i] == name]
        groups = [[correct[i] for i in rows if labels[i] == g] for g in "abc"]
        draws.append(np.mean([np.mean(g) for g in groups if g]))
    got = macro_interval(correct, labels, clusters)
    assert (got.low, got.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.012)


def test_macro_interval_by_full_enumeration() -> None:
    # Three clusters, 27 equally likely resamples: the bootstrap's quantiles must be among their values.
    correct, labels, clusters = [1, 0, 1, 1, 0], ["a", "b", "a", "b", "b"], ["x", "x", "y", "z", "z"]
    rows = {c: [i for i in range(5) if clusters[i] == c] for c in "xyz"}
    values = []
    for draw in product("xyz", repeat=3):
        picked = [i for c in draw for i in rows[c]]
        groups = [[correct[i] for i in picked if labels[i] == g] for g in "ab"]
        values.append(np.mean([np.mean(g) for g in groups if g]))
    got = macro_interval([bool(c) for c in correct], labels, clusters)
    assert min(values) <= got.low <= got.high <= max(values)
    assert (got.low, got.high) == pytest.approx(np.quantile(values, [0.025, 0.975], method="inverted_cdf"))


def test_macro_interval_has_width_where_all_answers_are_right() -> None:
    got = macro_interval([True] * 6, ["a", "b"] * 3, ["x", "x", "y", "y", "z", "z"])
    assert got.high == 1.0 and got.low < 0.9


def questions(n: int, prefix: str, shortcut: bool) -> list[Question]:
    rng = np.random.default_rng(len(prefix))
    made = []
    for i in range(n):
        answer = int(rng.integers(4))
        choices = [f"{CHEST[int(k)]}" for k in rng.permutation(4)]
        if shortcut:
            choices[answer] = f"Certain {CHEST[answer]}"
        made.append(
            Question(
                id=f"{prefix}{i}",
                text="Which organ?",
                choices=tuple(choices),
                answer_index=answer,
                dataset="d",
            )
        )
    return made


def test_blind_baseline_fitted_on_training_questions() -> None:
    train, test = questions(80, "train", True), questions(40, "t", True)
    blind = blind_baseline(test, {}, train, "train.json")
    expected = fit_blind(train).predict(test)
    assert blind.source == "fitted on train.json (80 questions)"
    assert [blind.correct[q.id] for q in test] == [
        c == q.answer_index for c, q in zip(expected, test, strict=True)
    ]
    assert sum(blind.correct.values()) >= 38  # the planted word gives the answer


def test_blind_baseline_cross_validates_by_image_and_says_so() -> None:
    test = questions(60, "t", True)
    blind = blind_baseline(test, {q.id: f"im{i // 2}" for i, q in enumerate(test)})
    assert "5-fold cross-validation by image" in blind.source and len(blind.correct) == 60
    few = blind_baseline(test[:4], {q.id: q.id for q in test[:4]})
    assert few.source.startswith("not fitted, give --blind-from") and few.correct == {}
    with pytest.raises(BadInput, match="no questions to fit on"):
        blind_baseline(test, {}, [], "empty.json")


def test_blind_figures_of_subgroups_have_their_own_n() -> None:
    made = [prediction(i, Outcome.WRONG, modality=Modality.CT if i < 4 else Modality.MRI) for i in range(10)]
    blind = BlindBaseline(source="s", correct={f"q{i}": i < 2 for i in range(6)})
    summary = summarize(made, HEADER, blind)
    ct, mri = summary.groups
    assert (ct.blind_n, ct.blind_accuracy, mri.blind_n, mri.blind_accuracy) == (4, 0.5, 2, 0.0)
    assert summary.overall.blind_n == 6 and summary.overall.blind_accuracy == pytest.approx(2 / 6)
    expected = binomtest(2, 4).proportion_ci(method="wilson")
    assert ct.blind_interval is not None
    assert (ct.blind_interval.low, ct.blind_interval.high) == pytest.approx((expected.low, expected.high))


def test_round_trip_and_merging(tmp_path: Path) -> None:
    made = [prediction(i, Outcome.CORRECT, modality=Modality.CT if i < 4 else Modality.MRI) for i in range(9)]
    summary = summarize(made, HEADER, BlindBaseline(source="s", correct={"q1": True}))
    assert summary_from_json(json.loads(json.dumps(summary_to_json(summary)))) == summary
    (tmp_path / "summary.json").write_text('{"kind": "train"}')
    write_summary(tmp_path, summary)
    other = replace(summary, header=replace(HEADER, name="second"))
    write_summary(tmp_path, other)
    write_summary(tmp_path, summary)
    assert read_summaries(tmp_path) == (summary, other)
    assert json.loads((tmp_path / "summary.json").read_text())["kind"] == "train"
    assert read_summaries(tmp_path / "nowhere") == ()
    (tmp_path / "summary.json").write_text('{"evaluations": {"a": {}}}')
    with pytest.raises(BadInput, match="not a summary"):
        read_summaries(tmp_path)


def test_nothing_to_summarise() -> None:
    with pytest.raises(BadInput, match="no predictions"):
        summarize([], HEADER, NO_BLIND)


def test_table_shows_every_number_and_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    made = [prediction(i, Outcome.CORRECT if i < 78 else Outcome.WRONG) for i in range(100)]
    made[3] = replace(made[3], dataset="[bold]x")
    summary = summarize(made, HEADER, BlindBaseline(source="fitted on X", correct={"q1": True}))
    print_summary(summary, Console(width=80))
    text = capsys.readouterr().out
    for part in (
        "78.0",
        "68.9–85.0",
        "100",
        "25.0",
        "Wilson",
        "fitted on X",
        "[bold]x",
        "not a medical device",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 80
