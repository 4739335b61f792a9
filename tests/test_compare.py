"""`osler compare`: every number counted again, refusals, and what is said about unlike runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_oracle
from statsmodels.stats.multitest import multipletests

from osler.cli import main
from osler.errors import BadInput
from osler.evaluate.compare import Comparison, compare_runs
from osler.evaluate.compare_table import print_comparison, sentences
from osler.evaluate.power import minimal_detectable_difference, paired_sample_size
from osler.evaluate.predictions import Header, PredictionWriter
from osler.records import Extraction, Modality, Outcome, Prediction, QuestionType
from osler.report.page import write_report
from test_report import EVIL, assert_self_contained, make_questions, read, write_evaluation

HEADER = Header(
    name="t", data="d", model="m", model_digest="x", template="think", prompt_digest="y", settings={"seed": 0}
)


def answers(right: Sequence[bool], per_image: int = 1, **changes: Any) -> list[Prediction]:
    made = []
    for i, hit in enumerate(right):
        values: dict[str, Any] = {
            "question_id": f"q{i}",
            "text": f"<answer>{'A' if hit else 'B'}</answer>",
            "extraction": Extraction(0 if hit else 1, "exact", (8, 9)),
            "outcome": Outcome.CORRECT if hit else Outcome.WRONG,
            "answer_index": 0,
            "num_choices": 4,
            "image_digest": f"image{i // per_image}",
            "modality": Modality.CT if i % 3 else Modality.MRI,
            "question_type": QuestionType.UNKNOWN,
            "dataset": f"set{i % 2}",
        }
        made.append(Prediction(**(values | changes)))
    return made


def write(run: Path, predictions: Sequence[Prediction], blind: bool = True, **header: Any) -> Path:
    head = replace(HEADER, **header)
    with PredictionWriter(run / "predictions" / f"{head.name}.jsonl", head, print) as writer:
        writer.append((p, f"digest of {p.question_id}") for p in predictions)
    (run / "questions").mkdir(exist_ok=True)
    rows = [
        {"id": p.question_id, "text": f"Which {p.question_id}?", "choices": list("abcd"), "images": []}
        for p in predictions
    ]
    (run / "questions" / f"{head.name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if blind:
        (run / "blind").mkdir(exist_ok=True)
        values = {"source": "fitted on T", "correct": {p.question_id: False for p in predictions}}
        (run / "blind" / f"{head.name}.json").write_text(json.dumps(values))
    return run


@pytest.fixture
def right() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.random(300) < 0.6
    return a, np.where(rng.random(300) < 0.3, rng.random(300) < 0.75, a)


@pytest.fixture
def runs(right: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a", answers(right[0])), write(tmp_path / "b", answers(right[1]))


def one(*arguments: Any) -> Comparison:
    (found,) = compare_runs(*arguments)
    return found


def test_overall_numbers_counted_again(runs: tuple[Path, Path], right: tuple[np.ndarray, ...]) -> None:
    a, b = right
    found = one(*runs).overall
    cells = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    table = found.table
    assert [[table.both, table.only_a], [table.only_b, table.neither]] == cells
    assert table.exact_p == pytest.approx(mcnemar_oracle(cells, exact=True).pvalue)
    assert table.exact_p == pytest.approx(binomtest(int(cells[0][1]), table.discordant).pvalue)
    assert found.cluster_p == pytest.approx(table.mid_p), "one question per image"
    assert found.difference == pytest.approx(b.mean() - a.mean())
    error = np.std(b.astype(int) - a.astype(int)) / np.sqrt(300)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (found.a.accuracy, found.b.accuracy) == pytest.approx((a.mean(), b.mean()))
    assert found.a.interval.method == "Wilson" and found.a.chance == 0.25
    assert found.a.blind_accuracy == 0.0 and found.b.blind_n == 300
    share = table.discordant / 300
    assert found.detectable == minimal_detectable_difference(300, share)
    assert one(*runs).needed[0.05] == paired_sample_size(0.05, share)


def test_gained_and_lost_are_those_and_lead_to_their_lines(
    runs: tuple[Path, Path], right: tuple[np.ndarray, ...]
) -> None:
    a, b = right
    found = one(*runs)
    assert [c.question_id for c in found.gained] == [f"q{i}" for i in np.flatnonzero(~a & b)]
    assert [c.question_id for c in found.lost] == [f"q{i}" for i in np.flatnonzero(a & ~b)]
    for change in (*found.gained, *found.lost):
        for path, line in zip(found.files, (change.line_a, change.line_b), strict=True):
            row = json.loads(Path(path).read_text().splitlines()[line - 1])
            assert row["question_id"] == change.question_id
    first = found.gained[0]
    assert (first.a, first.b, first.answer) == ("B wrong", "A correct", "A")
    assert first.text == f"Which {first.question_id}?"


def test_groups_are_tests_of_one_family(runs: tuple[Path, Path], right: tuple[np.ndarray, ...]) -> None:
    a, b = right
    found = one(*runs)
    assert [(g.scope, g.value) for g in found.groups] == [
        ("modality", "ct"), ("modality", "mri"), ("dataset", "set0"), ("dataset", "set1"),
    ]  # fmt: skip
    mri = found.groups[1]
    assert mri.a.n == 100 and mri.difference == pytest.approx(b[::3].mean() - a[::3].mean())
    p = [g.cluster_p for g in found.groups]
    assert [g.holm_p for g in found.groups] == pytest.approx(multipletests(p, method="holm")[1])
    assert found.overall.holm_p == found.overall.cluster_p


def test_a_scope_that_repeats_an_earlier_one_is_left_out(tmp_path: Path) -> None:
    made = [replace(p, dataset=p.modality.value) for p in answers([True, False] * 20)]
    a, b = write(tmp_path / "a", made), write(tmp_path / "b", made)
    assert {g.scope for g in one(a, b).groups} == {"modality"}


def test_questions_about_one_image_count_together(tmp_path: Path) -> None:
    a = np.repeat(np.random.default_rng(1).random(60) < 0.5, 5)
    b = np.repeat(np.random.default_rng(2).random(60) < 0.7, 5)
    runs = [write(tmp_path / n, answers(r, per_image=5)) for n, r in (("a", a), ("b", b))]
    found = one(*runs).overall
    alone = one(*(write(tmp_path / n, answers(r)) for n, r in (("c", a), ("d", b)))).overall
    assert found.design_effect == pytest.approx(5) and alone.design_effect == 1
    assert found.table == alone.table and found.cluster_p > alone.cluster_p
    assert found.interval.high - found.interval.low > 2 * (alone.interval.high - alone.interval.low)
    assert found.detectable == minimal_detectable_difference(300, found.discordant_share, design_effect=5)


@pytest.mark.parametrize(("kept", "margin", "verdict"), [(1.0, 0.05, "pass"), (0.5, 0.05, "fail")])
def test_non_inferiority(tmp_path: Path, kept: float, margin: float, verdict: str) -> None:
    a = np.random.default_rng(0).random(400) < 0.8
    b = a & (np.random.default_rng(1).random(400) < kept)
    found = one(write(tmp_path / "a", answers(a)), write(tmp_path / "b", answers(b)), margin)
    assert found.overall.verdict == verdict
    assert all(g.verdict is not None for g in found.groups)
    assert any(f"margin 5 points: {verdict.upper()}" in line for line in sentences(found))


def test_failures_and_unparsed_answers_are_not_right_and_stay_in(tmp_path: Path) -> None:
    made = answers([True] * 10)
    failed = replace(made[0], text="", extraction=Extraction(None, "none"), outcome=None, error="gone")
    unparsed = replace(made[1], extraction=Extraction(None, "none"), outcome=Outcome.UNPARSED)
    a = write(tmp_path / "a", made)
    with PredictionWriter(tmp_path / "b/predictions/t.jsonl", HEADER, print) as writer:
        # Without its image the failed question has another digest: it is the same question all the same.
        writer.append([(replace(failed, image_digest=""), "other"), (unparsed, "digest of q1")])
        writer.append((p, f"digest of {p.question_id}") for p in made[2:])
    found = one(a, tmp_path / "b")
    assert (found.overall.a.accuracy, found.overall.b.accuracy, found.overall.b.n) == (1.0, 0.8, 10)
    assert [c.b for c in found.lost] == ["error", "unparsed"]
    assert found.overall.b.num_parsed == 8
    assert found.overall.b.blind_accuracy is None and "not fitted" in found.blind_sources[1]


def test_what_differs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    a = write(tmp_path / "a", answers([True, False] * 30))
    b = write(
        tmp_path / "b",
        answers([True] * 60),
        template="nothink",
        scorer="letter-logprob",
        settings={"seed": 0, "max_pixels": 12},
    )
    found = one(a, b)
    assert set(found.differing) == {"template", "scorer", "settings.max_pixels"}
    print_comparison(found, Console(width=80))
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "scorer differs (a osler, b letter-logprob)",
        "template differs (a think, b nothink)",
        "max_pixels differs: a not recorded, b 12",
        "both runs asked the same weights",
        "50.0 (37.7–62.3)",
        "100.0 (94.0–100.0)",
        "MDD",
        "fitted on T",
        "gained: 30 questions that only b answers right",
        "not a medical device",
    ):
        assert part in text, part


def test_different_questions_are_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a", answers([True] * 10))
    with pytest.raises(BadInput, match=r"10 questions, .* 7: 3 are only in the first"):
        compare_runs(a, write(tmp_path / "b", answers([True] * 7)))
    with PredictionWriter(tmp_path / "c/predictions/t.jsonl", HEADER, print) as writer:
        writer.append((p, "other text") for p in answers([True] * 10))
    with pytest.raises(BadInput, match=r"10 questions have the same id and another text"):
        compare_runs(a, tmp_path / "c")
    with pytest.raises(BadInput, match="same run twice"):
        compare_runs(a, a)
    with pytest.raises(BadInput, match="no predictions in it"):
        compare_runs(a, tmp_path)
    with pytest.raises(BadInput, match="above 0"):
        compare_runs(a, tmp_path / "c", -0.02)


def test_test_sets_are_matched_by_name_or_as_the_only_ones(tmp_path: Path) -> None:
    made = answers([True, False] * 10)
    a = write(tmp_path / "a", made, name="first")
    b = write(tmp_path / "b", made, name="second")
    assert [h.name for h in one(a, b).headers] == ["first", "second"]
    write(tmp_path / "a", made, name="third")
    write(tmp_path / "b", made, name="fourth")
    with pytest.raises(BadInput, match="no test set in common"):
        compare_runs(a, b)
    write(tmp_path / "b", made, name="first")
    write(tmp_path / "b", made, name="third")
    assert [c.headers[0].name for c in compare_runs(a, b)] == ["first", "third"]


def test_the_command(runs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, runs)
    assert main(["compare", a, b, "--margin", "3", "--json"]) == 0
    (values,) = json.loads(capfd.readouterr().out)["test_sets"]
    found = one(*runs)
    assert values["margin"] == 0.03 and values["overall"]["table"]["exact_p"] == found.overall.table.exact_p
    assert len(values["gained"]) == found.overall.table.only_b
    assert main(["compare", a, str(tmp_path / "nowhere")]) == 2
    assert "no predictions" in capfd.readouterr().err


def test_the_page_has_the_numbers_and_cards_of_what_changed(tmp_path: Path) -> None:
    """Data that would like to be markup, and a folder name that would."""
    made = make_questions(tmp_path / "images", text=f"Which? {EVIL}")
    a, b = tmp_path / "a", tmp_path / "<b>&b"
    write_evaluation(a, made, texts=["<answer>A</answer>"] * 12)
    write_evaluation(b, made, texts=[f"<answer>{q.answer_letter}</answer>" for q in made])
    found = compare_runs(a, b, 0.05)
    write_report([a, b], tmp_path / "page.html", comparisons=found)
    html, page = read(tmp_path / "page.html")
    assert_self_contained(html, page)
    overall = found[0].overall
    for part in (
        *sentences(found[0]),
        f"{100 * overall.difference:+.1f}",
        f"{100 * overall.a.accuracy:.1f}",
        "p, Holm",
        "MDD",
        f"Gained: only <b>&b is right, {overall.table.only_b} questions",
    ):
        assert part in page.text, part
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    cards = [link for link in links if str(link).startswith("#c1-")]
    assert len(cards) == overall.table.discordant == 8 and {str(link)[1:] for link in links} <= ids
    assert "<b>&b" not in html and "onerror=alert(1)>" not in html
