"""The demo end to end, scaled down: every stage runs, the numbers agree, and a stopped one goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osler import demo
from osler.evaluate.predictions import read_predictions
from osler.tracking import JsonLines

SIZE = demo.Size(images=20, num_questions=16, epochs=1.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, demo.run(out, seed=1, size=SIZE)


def test_every_model_is_tested_on_the_same_questions(finished: tuple[Path, dict]) -> None:
    out, numbers = finished
    asked = []
    for model in demo.MODELS:
        (path,) = (out / model.folder / "predictions").glob("*.jsonl")
        predictions = read_predictions(path).predictions
        asked.append({p.question_id for p in predictions})
        for modality in demo.TESTED:
            mine = [p.correct for p in predictions if p.modality is modality]
            row = numbers["accuracy"][model.folder][modality.value]
            assert row["n"] == len(mine) == 12
            assert row["accuracy"] == pytest.approx(sum(mine) / len(mine))
            assert row["low"] <= row["accuracy"] <= row["high"] and row["chance"] == 0.25
    assert all(a == asked[0] for a in asked)


def test_only_mri_questions_are_trained_on(finished: tuple[Path, dict]) -> None:
    out, _ = finished
    rollouts = list(JsonLines(out / "grpo_think" / "rollouts.jsonl"))
    assert {r["modality"] for r in rollouts} == {"mri"}
    assert len(rollouts) == 16 and all(len(r["rollouts"]) == 8 for r in rollouts)


def test_sft_rows_match_grpo_in_visits_and_in_steps(finished: tuple[Path, dict]) -> None:
    out, _ = finished
    training = {
        name: json.loads((out / name / "summary.json").read_text())["training"]
        for name in ("sft_visits", "sft_steps", "grpo_think")
    }
    assert training["sft_visits"]["question_visits"] == training["grpo_think"]["question_visits"]
    assert training["sft_steps"]["steps"] == training["grpo_think"]["steps"]


def test_the_page_stands_alone(finished: tuple[Path, dict]) -> None:
    _, numbers = finished
    page = Path(numbers["report"]).read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert "data:image/" in page and "not a medical device" in page.lower()


def test_the_comparison_is_on_the_page_and_has_what_it_could_have_found(
    finished: tuple[Path, dict],
) -> None:
    _, numbers = finished
    found = numbers["grpo_against_zero_shot"]
    assert list(found) == [m.value for m in demo.TESTED]
    for name, row in found.items():
        before, after = (numbers["accuracy"][m][name]["accuracy"] for m in ("zero_shot_think", "grpo_think"))
        assert row["difference"] == pytest.approx(after - before)
        assert row["low"] <= row["difference"] <= row["high"] and row["n"] == 12
        assert "minimal_detectable_difference" in row and 0 <= row["mcnemar_exact_p"] <= 1
    page = Path(numbers["report"]).read_text(encoding="utf-8")
    assert 'id="comparison"' in page and "a = zero_shot_think, b = grpo_think" in page


def test_run_again_nothing_is_done_twice(finished: tuple[Path, dict]) -> None:
    out, numbers = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = demo.run(out, seed=1, size=SIZE)
    assert again["accuracy"] == numbers["accuracy"]
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
