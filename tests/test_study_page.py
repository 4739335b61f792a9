"""What a study says: every pooled number counted again, claims against planted truths, and the page."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from finished_study import PER_COLUMN, finished_plan, write_study
from osler.evaluate.stats import holm, margin_p
from osler.report.cost_curves import reached
from osler.report.study_page import write_study_page
from osler.study.claims import MARGIN, check_claims
from osler.study.effects import effect, lines_of, pooled, subgroups
from osler.study.published import published_figures, published_for
from osler.study.recipe import AXES
from osler.study.results import StudyResults, read_results, results_to_json
from osler.study.store import Store
from osler.study.table import result_table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, Store]:
    folder = tmp_path_factory.mktemp("study")
    store = write_study(folder, finished_plan("seeds=[0, 1]"))
    return read_results(folder), store


def test_every_model_has_its_line_and_every_cell_its_numbers(finished: tuple[StudyResults, Store]) -> None:
    results, _ = finished
    assert [line.name for line in results.lines[:3]] == [
        "zero-shot, think",
        "SFT (ct, seed 0)",
        "SFT (ct, seed 1)",
    ] or [line.on for line in results.lines[:3]] == ["", "mri", "mri"]
    assert len(results.lines) == 1 + 3 * 2 * 2 and not results.unfinished
    for line in results.lines:
        for column, cell in line.cells.items():
            mine = [p for p in line.predictions if p.modality.value == column]
            assert cell.row.n == len(mine) == PER_COLUMN
            assert cell.row.accuracy == pytest.approx(sum(p.correct for p in mine) / len(mine))
            assert cell.num_tokens == (5 if line.row == "grpo_nothink" else 15)
        if line.training is not None:
            assert line.training.seconds == 10.0 and line.training.steps == 5
            assert line.training.tokens == pytest.approx(
                5 * 2 * 8 * (4 if line.row == "grpo_nothink" else 12)
            )
    table = results_to_json(results)["table"]
    assert len(table) == len(results.lines) and table[0]["cells"]["mri"]["n"] == PER_COLUMN


@pytest.mark.parametrize("columns", [2, 8])
def test_the_printed_table_fits_a_terminal_with_every_model_and_number(tmp_path: Path, columns: int) -> None:
    modalities = AXES["modality"][:columns]
    quoted = ", ".join(f'"{m}"' for m in ("mri", "ct", *(m for m in modalities if m not in ("mri", "ct"))))
    write_study(tmp_path, finished_plan(f"test_on=[{quoted}]"))
    results = read_results(tmp_path)
    console = Console(width=80, record=True, file=StringIO())
    console.print(result_table(results))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for line in results.lines:
        row = next(r for r in text.splitlines() if r.strip().startswith(line.name[:12]))
        text = text[text.index(row) + len(row) :]
        for cell in line.cells.values():
            assert f"{100 * cell.row.accuracy:.1f}" in row
    assert "blind baseline (mri)" in text and "blind baseline (ct)" in text


def test_a_table_without_trainings_has_its_blind_baseline(tmp_path: Path) -> None:
    write_study(tmp_path, finished_plan('only=["zero_shot_think"]'))
    results = read_results(tmp_path)
    console = Console(width=80, record=True, file=StringIO())
    console.print(result_table(results))
    (said,) = [row for row in console.export_text().splitlines() if "blind baseline" in row]
    for cell in results.lines[0].cells.values():
        assert cell.row.blind_accuracy is not None
        assert f"{100 * cell.row.blind_accuracy:.1f}" in said


def test_effects_are_counted_again(finished: tuple[StudyResults, Store]) -> None:
    results, _ = finished
    by = {(line.row, line.on, line.seed): line for line in results.lines}
    for domain in ("all", "in", "out"):
        gained = total = 0
        for on in ("mri", "ct"):
            for seed in (0, 1):
                a = {p.question_id: p.correct for p in by["sft", on, seed].predictions}
                for p in by["grpo_think", on, seed].predictions:
                    inside = p.modality.value == on
                    if domain == "all" or inside == (domain == "in"):
                        gained += p.correct - a[p.question_id]
                        total += 1
        found = effect(results, "sft", "grpo_think", domain)  # type: ignore[arg-type]
        assert found is not None and found.n == total
        assert found.difference == pytest.approx(gained / total)
        assert found.interval.low <= found.difference <= found.interval.high
    from_base = effect(results, "zero_shot_think", "grpo_think", "in")
    assert from_base is not None and from_base.n == 4 * PER_COLUMN
    assert effect(results, "zero_shot_think", "grpo_think_after") is None


def test_pooled_numbers_are_counted_again(finished: tuple[StudyResults, Store]) -> None:
    results, _ = finished
    lines = lines_of(results, "sft")
    for domain, own in (("in", True), ("out", False)):
        answers = [
            (p.correct, line.blind[p.question_id])
            for line in lines
            for p in line.predictions
            if (p.modality.value == line.on) == own
        ]
        found = pooled(results, lines, domain)  # type: ignore[arg-type]
        assert found is not None and found.n == len(answers) and found.chance == 0.25
        assert found.accuracy == pytest.approx(sum(right for right, _ in answers) / len(answers))
        assert found.blind == pytest.approx(sum(blind for _, blind in answers) / len(answers))
    base = lines_of(results, "zero_shot_think")
    both = pooled(results, base, "in", like=lines)
    assert both is not None and both.n == 2 * PER_COLUMN and both.blind is None
    assert pooled(results, base).n == 2 * PER_COLUMN  # type: ignore[union-attr]


def test_subgroups_are_adjusted_together(finished: tuple[StudyResults, Store]) -> None:
    results, _ = finished
    groups = subgroups(results, "zero_shot_think", "grpo_think")
    assert {(g.scope, g.value) for g in groups} == {
        ("modality", "mri"),
        ("modality", "ct"),
        ("question_type", "disease_diagnosis"),
        ("question_type", "lesion_grading"),
    }
    assert [g.effect.holm_p for g in groups] == pytest.approx(list(holm([g.effect.p for g in groups])))


def verdicts(results: StudyResults) -> dict[str, str]:
    words = (
        "over the base",
        "fine-tuning",
        "No-thinking",
        "thinking after",
        "question type",
        "larger",
        "emerges",
    )
    return {word: claim.verdict for claim in check_claims(results) for word in words if word in claim.text}


def test_at_least_as_good_is_adjusted_with_the_other_claims(finished: tuple[StudyResults, Store]) -> None:
    found = [c.effect for c in check_claims(finished[0]) if c.effect is not None]
    assert [e.holm_p for e in found] == pytest.approx(list(holm([e.p for e in found])))
    (as_good,) = [e for e in found if e.b == "grpo_nothink"]
    plain = effect(finished[0], as_good.a, as_good.b)
    assert plain is not None and as_good.p == margin_p(plain.difference, plain.interval, MARGIN) != plain.p


def test_claims_find_what_is_true(finished: tuple[StudyResults, Store]) -> None:
    assert verdicts(finished[0]) == {
        "over the base": "holds here",
        "fine-tuning": "holds here",
        "No-thinking": "holds here",
        "thinking after": "not tested here",
        "question type": "not tested here",
        "larger": "not tested here",
        "emerges": "look",
    }


def test_claims_turn_round_with_the_truth_and_stay_silent_without_one(tmp_path: Path) -> None:
    def reversed_truth(row: str, on: str, column: str) -> float:
        return {"grpo_think": 0.3, "grpo_nothink": 0.05}.get(row, 0.9)

    write_study(tmp_path / "a", finished_plan(), reversed_truth)
    found = verdicts(read_results(tmp_path / "a"))
    assert found["over the base"] == found["fine-tuning"] == found["No-thinking"] == "reversed here"
    write_study(tmp_path / "b", finished_plan(), lambda row, on, column: 0.5)
    found = verdicts(read_results(tmp_path / "b"))
    assert found["over the base"] == found["fine-tuning"] == "not shown here"
    assert found["No-thinking"] in ("not shown here", "holds here")


def test_a_larger_model_becomes_a_claim_of_its_own(tmp_path: Path) -> None:
    larger = 'rows.large={label = "large", template = "think", model = "openai:http://x#y"}'
    planned = finished_plan(larger, 'only=["large", "grpo_think"]')
    write_study(tmp_path, planned, lambda row, on, column: 0.95 if row == "grpo_think" else 0.3)
    assert verdicts(read_results(tmp_path))["larger"] == "holds here"


def test_the_page_stands_alone_and_shows_everything(
    finished: tuple[StudyResults, Store], tmp_path: Path
) -> None:
    results, _ = finished
    facts = write_study_page(results.folder, results.folder / "page.html")
    page = facts.path.read_text(encoding="utf-8")
    assert "<script" not in page and 'src="http' not in page and "style=" not in page
    assert "<b>What is" not in page and "&lt;b&gt;What is" in page
    assert "not a medical device" in page.lower() and "drawn by a program" in page
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(re.findall(r'id="([^"]+)"', page)) and any("items-" in t for t in targets)
    for file in set(re.findall(r'href="(jobs/[^"]+)"', page)):
        assert (results.folder / file).is_file()
    for job in results.jobs:
        assert job.key[:16] in page
    assert results.digests == {"phantom-base": "0" * 64} and "0" * 64 in page
    assert "at step 1" in page and "at step 5" in page
    for one in published_for("med_r1", "modality"):
        assert one.source.split(",")[0] in page


def test_what_is_not_done_is_empty_and_what_failed_is_said(tmp_path: Path) -> None:
    planned = finished_plan()
    store = write_study(tmp_path, planned)
    gone = next(job for job in planned.jobs if job.name == "grpo_think-ct-0-test")
    (store.place(gone) / "done.json").unlink()
    store.log(gone).write_text("it went\nwrong here\n")
    store.mark_failed(gone, 1)
    results = read_results(tmp_path)
    assert results.unfinished == (gone.name,) and "grpo_think-ct-0-test" in results.failures
    page = write_study_page(tmp_path, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "wrong here" in page and "1 of them not done" in page
    heat = page.split("<h3>GRPO, think</h3>", 1)[1].split("</table>", 1)[0]
    assert ">0.0<" not in heat


def test_costs_on_the_way_are_summed_up_by_hand() -> None:
    metrics = {
        "eval/accuracy/mri": ((0.0, 0.2), (2.0, 0.6), (3.0, 0.7)),
        "eval/accuracy/ct": ((0.0, 0.4), (2.0, 0.5)),
        "time/step": ((1.0, 2.0), (2.0, 3.0), (3.0, 1.0)),
        "throughput/tokens_per_second": ((1.0, 10.0), (2.0, 20.0), (3.0, 5.0)),
    }
    start, second = reached(metrics)  # at step 3 one set alone was asked
    assert (start.steps, start.tokens, start.seconds) == (0.0, 0.0, 0.0)
    assert (second.steps, second.tokens, second.seconds) == (2.0, 2 * 10 + 3 * 20, 5.0)
    assert start.accuracy == pytest.approx(0.3) and second.accuracy == pytest.approx(0.55)
    assert reached({"time/step": ((1.0, 2.0),)}) == ()


def test_published_figures_are_whole_and_marked() -> None:
    figures = published_figures()
    assert all(one.source and set(one.values) <= set(AXES[one.axis]) for one in figures)
    table = [one for one in figures if one.paper == "medvlm_r1" and one.values]
    assert len(table) == 6 and all(one.recalled and one.mark == "[RECALLED]" for one in table)
    for one in figures:
        if one.values and one.mean is not None and one.kind == "accuracy":
            # The papers' means are of their own cells, to rounding.
            assert sum(one.values.values()) / len(one.values) == pytest.approx(one.mean, abs=6e-5)
    matrix = [one for one in figures if one.kind == "difference" and one.axis == "modality" and one.values]
    diagonal = [one.values[one.on] for one in matrix]
    assert len(matrix) == 8 and sum(diagonal) / 8 == pytest.approx(0.0167, abs=5e-5)
    everything = [value for one in matrix for value in one.values.values()]
    assert len(everything) == 64 and sum(everything) / 64 == pytest.approx(0.0257, abs=5e-5)
    tasks = [
        one for one in figures if one.kind == "difference" and one.axis == "question_type" and one.values
    ]
    assert sum(v for one in tasks for v in one.values.values()) / 25 == pytest.approx(0.0058, abs=5e-5)
