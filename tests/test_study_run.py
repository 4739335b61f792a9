"""A whole study with the shipped model, as small as it gets: real commands, real jobs, one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osler.cli import main
from osler.evaluate.predictions import read_predictions

TINY = """
extends = "phantom_mini"
title = "tiny"
train_on = ["mri"]
train_questions = 8
test_questions = 6
max_completion_tokens = 24
only = ["zero_shot_think", "grpo_think"]
overrides = ["grpo.group_size=2", "grpo.epochs=1", "grpo.max_completion_tokens=24"]

[data]
phantom_images = 20
"""


def test_a_study_from_recipe_to_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "study"
    recipe.write_text(TINY)
    arguments = ["study", str(recipe), "--out", str(out), "--json"]
    assert main([*arguments, "--dry-run"]) == 0
    planned = json.loads(capfd.readouterr().out)
    assert len(planned["jobs"]) == 4 and planned["seconds_left"] > 0 and not (out / "jobs").exists()

    assert main(arguments) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["done"] == found["jobs"] == 4 and found["failed"] == {}
    assert [row["row"] for row in found["table"]] == ["zero_shot_think", "grpo_think"]
    for row in found["table"]:
        (path,) = out.glob(f"jobs/{row['row']}*-test-*/*/predictions/*.jsonl")
        answers = read_predictions(path).predictions
        for column in ("mri", "ct"):
            mine = [p for p in answers if p.modality.value == column]
            assert row["cells"][column]["n"] == len(mine) == 6
            assert row["cells"][column]["num_correct"] == sum(p.correct for p in mine)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "GRPO, think" in page and "<script" not in page

    before = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/*/**/*") if path.is_file()}
    assert main(arguments) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["table"] == found["table"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert main(["report", str(out), "--out", str(tmp_path / "page.html"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["num_bytes"] > 50_000
