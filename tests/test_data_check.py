"""The numbers of `osler data check`, counted again by hand."""

from __future__ import annotations

import io
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from osler.data.check import build_report, chance_level, render_report
from osler.data.load import load_questions
from osler.records import Question


def write(root: Path, rows: list[dict[str, Any]]) -> Path:
    root.mkdir(exist_ok=True)
    lines = [json.dumps({"text": "Q?", "choices": ["a", "b"], "answer_index": 0} | row) for row in rows]
    (root / "questions.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {
            "id": "1",
            "images": ["one.png"],
            "modality": "ct",
            "question_type": "lesion_grading",
            "split": "train",
        },
        {
            "id": "2",
            "images": ["one.png"],
            "modality": "ct",
            "choices": ["a", "b", "c", "d"],
            "answer_index": 3,
        },
        {"id": "3", "images": ["copy.png"], "modality": "mri", "choices": ["a", "b", "c"], "answer_index": 1},
        {"id": "4", "images": ["deep.png"], "modality": "mri", "choices": ["a", "b", "B", "d"]},
        {"id": "5", "images": ["broken.png"], "split": "test"},
        {"id": "6", "images": ["gone.png"]},
        {"id": "6", "answer_index": 9},
    ]
    root = write(tmp_path / "data", rows)
    Image.new("RGB", (8, 8)).save(root / "one.png")
    shutil.copy(root / "one.png", root / "copy.png")
    Image.new("I;16", (8, 8)).save(root / "deep.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "broken.png")
    (root / "broken.png").write_bytes((root / "broken.png").read_bytes()[:5000])
    return root


def test_counts(data: Path) -> None:
    report = build_report(load_questions(data, skip_bad=True))
    assert (report.format, report.files) == ("osler", ("questions.jsonl",))
    assert (report.num_rows, report.num_questions) == (7, 5)
    assert report.table == {
        "ct": {"lesion_grading": 1, "unknown": 1},
        "mri": {"unknown": 2},
        "unknown": {"unknown": 1},
    }
    assert report.splits == {"": 3, "test": 1, "train": 1}
    assert report.num_choices == {2: 2, 3: 1, 4: 2}
    assert report.answer_letters == {"A": 3, "B": 1, "D": 1}
    chance = sum((Fraction(1, k) for k in (2, 4, 3, 4, 2)), Fraction()) / 5
    assert report.chance == pytest.approx(float(chance))
    assert report.chance_by_modality["ct"] == pytest.approx(0.375)
    assert report.num_questions_without_subject == 5
    assert report.max_questions_per_image == 3  # by content: one.png and its copy
    assert report.num_images_in_several_splits == 1
    assert report.warnings["nearly_equal_choices"] == 1
    assert report.bad_kinds == {"answer": 1, "missing_image": 1}
    assert report.bad_rows[0] == 'questions.jsonl row 6: the image "gone.png" is not there'
    assert not report.ok


def test_images(data: Path) -> None:
    report = build_report(load_questions(data, skip_bad=True))
    images = report.images
    assert images is not None
    assert (images.num_paths, images.num_contents, images.num_missing) == (4, 3, 1)
    assert [[Path(p).name for p in group] for group in images.duplicates] == [["one.png", "copy.png"]]
    (unreadable,) = images.unreadable
    assert unreadable.startswith("questions.jsonl row 5: image broken.png: damaged")
    assert images.formats == {"PNG": 3}
    assert images.conversions == {"rescaled to 8 bits": 1}


def test_headers_only_do_not_see_a_truncated_body(data: Path) -> None:
    images = build_report(load_questions(data, skip_bad=True), decode=False).images
    assert images is not None
    assert not images.decoded
    assert not images.unreadable


def test_without_images(data: Path) -> None:
    report = build_report(load_questions(data, skip_bad=True, no_images=True))
    assert report.images is None
    assert report.num_questions == 6
    assert report.max_questions_per_image == 2


def test_json_and_rendering(data: Path) -> None:
    report = build_report(load_questions(data, skip_bad=True))
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["ok"] is False
    assert values["num_questions"] == 5
    out = io.StringIO()
    render_report(report, Console(file=out, width=200, color_system=None))
    text = out.getvalue()
    assert "5 questions from 1 file (osler); chance level 36.7 %" in text
    assert "bad row questions.jsonl row 6" in text
    assert "bad image questions.jsonl row 5" in text
    assert "nearly equal choices: 1 (such as questions.jsonl row 4)" in text
    assert "can be used" not in text


@pytest.mark.parametrize("modality", ["ct", ""])
def test_the_table_stands_on_80_columns_with_every_word_whole(tmp_path: Path, modality: str) -> None:
    kinds = [
        *("modality_recognition", "anatomy_identification", "disease_diagnosis", "lesion_grading"),
        *("other_biological_attributes", ""),
    ]
    rows = [
        {"id": str(n), "text": f"Q{n}?", "modality": modality, "question_type": kind}
        for n, kind in enumerate(kinds)
    ]
    out = io.StringIO()
    report = build_report(load_questions(write(tmp_path / "data", rows), no_images=True))
    render_report(report, Console(file=out, width=80, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    heads = "modality recognition anatomy disease grading other unknown all chance %"
    assert lines[2].split() == heads.split()
    assert lines[4].split() == [modality or "unknown", *"111111", "6", "50.0"]
    assert lines[6].split() == ["all", *"111111", "6", "50.0"]


def test_markup_in_data_is_text(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [{"id": "1"}, {"id": "2", "answer": "[red]x[/red]", "answer_index": 1}])
    out = io.StringIO()
    render_report(build_report(load_questions(data, skip_bad=True)), Console(file=out, width=200))
    assert "[red]x[/red]" in out.getvalue()


def test_progress_and_a_clean_report(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [{"id": "1", "images": ["a.png"]}])
    Image.new("L", (8, 8)).save(data / "a.png")
    seen: list[tuple[int, int]] = []
    report = build_report(load_questions(data), progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert seen == [(1, 1)]
    out = io.StringIO()
    render_report(report, Console(file=out, width=120))
    assert "all 1 rows can be used" in out.getvalue()


def test_chance_level_of_mixed_counts() -> None:
    questions = [Question(id="q", text="?", choices=("a",) * k, answer_index=0) for k in (2, 3, 4, 26)]
    assert chance_level(questions) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 26) / 4)
