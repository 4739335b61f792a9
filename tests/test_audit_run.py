"""`osler audit` from end to end: what phantom planted is found, and nothing is where nothing was planted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.audit.findings import Level
from osler.audit.run import AuditReport, audit
from osler.cli import main
from osler.phantom.benchmark import write_benchmark
from osler.records import Modality
from osler.report.audit_page import write_audit_page

TEXT = {"wrong_never_right", "option_prior", "stem_lookup", "blind_baseline"}
IMAGES = {"image_overlap", "image_question_overlap"}
# The planted wrong choices are one word longer, too.
ALSO_TEXT = {"odd_one_out", "length", "label_free_prior"}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Path]:
    folder = tmp_path_factory.mktemp("phantoms")
    made = {plant: folder / str(plant) for plant in (None, "leak", "shortcut")}
    for plant, out in made.items():
        write_benchmark(out, 90, 1, plant, workers=1, modalities=(Modality.CT, Modality.MRI))
    return made


@pytest.fixture(scope="module")
def reports(phantoms: dict[str | None, Path]) -> dict[str | None, AuditReport]:
    return {plant: audit(str(out / "train"), str(out / "test"), workers=1) for plant, out in phantoms.items()}


def raised(report: AuditReport) -> set[str]:
    return {f.check for f in report.findings if f.level in (Level.FAULT, Level.WARNING)}


def test_it_is_silent_where_nothing_is_planted(reports: dict[str | None, AuditReport]) -> None:
    assert raised(reports[None]) == set()
    assert reports[None].images_read == 162 and reports[None].notes == ()


def test_it_finds_a_planted_leak_and_nothing_else(
    reports: dict[str | None, AuditReport], phantoms: dict[str | None, Path]
) -> None:
    report = reports["leak"]
    assert raised(report) == IMAGES
    planted = json.loads((phantoms["leak"] / "phantom.json").read_text())["planted"]
    (whole,) = (f for f in report.findings if (f.check, f.scope) == ("image_overlap", "all"))
    assert whole.level is Level.FAULT
    assert whole.share * whole.n == pytest.approx(2 * len(planted["copies"]))  # two questions on each image
    assert all(" = " in line for line in whole.evidence)


def test_it_finds_a_planted_shortcut_and_nothing_else(reports: dict[str | None, AuditReport]) -> None:
    report = reports["shortcut"]
    assert TEXT <= raised(report) <= TEXT | ALSO_TEXT
    (blind,) = (f for f in report.findings if (f.check, f.scope) == ("blind_baseline", "all"))
    assert blind.level is Level.FAULT and blind.share > 0.95 and blind.chance == 0.25


def test_findings_come_worst_first_and_every_scope_has_every_check(
    reports: dict[str | None, AuditReport],
) -> None:
    report = reports["shortcut"]
    order = [list(Level).index(f.level) for f in report.findings]
    assert order == sorted(order)
    assert [scope.name for scope in report.scopes] == ["all", "ct", "mri"]
    scopes = [{f.check for f in report.findings if f.scope == scope.name} for scope in report.scopes]
    assert scopes[0] == scopes[1] == scopes[2] and len(scopes[0]) == 18
    assert {(cell.train, cell.test) for cell in report.matrix} == {
        (a, b) for a in ("ct", "mri") for b in ("ct", "mri")
    }
    for curve in ("ct", "mri"):
        last = [p for p in report.curves if p.modality == curve][-1]
        (cell,) = (c for c in report.matrix if c.train == c.test == curve)
        assert (last.num_train, last.accuracy) == (108, cell.accuracy)


# --- the command ------------------------------------------------------------------------------------


def run_audit(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["audit", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_json_page_and_table_say_the_same(
    phantoms: dict[str | None, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [str(phantoms["leak"] / part) for part in ("train", "test")]
    values = run_audit(capfd, *paths, "--out", str(tmp_path / "a" / "out"))
    written = tmp_path / "a" / "out"
    assert json.loads((written / "audit.json").read_text()) == values
    assert values["findings"][0]["check"] == "image_overlap" and values["findings"][0]["level"] == "fault"
    assert values["checks"]["image_overlap"]["fault"] == 0.01
    assert main(["audit", *paths]) == 0
    table = capfd.readouterr().out
    page = (written / "audit.html").read_text()
    assert "Test images that are also training images" in page and "25.9" in page
    assert re.search(r"fault +image overlap +25\.9 ", table) and len(table.splitlines()) < 30
    assert "--split image" in table


def test_a_repaired_folder_shows_before_and_after(
    phantoms: dict[str | None, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fixed"
    assert main(["data", "convert", str(phantoms["shortcut"]), str(out), "--rebuild-choices", "--json"]) == 0
    capfd.readouterr()
    values = run_audit(capfd, f"{out}#train", f"{out}#test", "--out", str(tmp_path / "page"))
    assert [row["modality"] for row in values["repair"]] == ["ct", "mri"]
    for row in values["repair"]:
        assert row["before"]["share"] > 0.9 and row["num_test_before"] == 54
        assert row["num_test"] + sum(row["dropped"].values()) >= row["num_test"]
        assert row["refit"]["interval"]["low"] <= row["refit"]["chance"] <= row["refit"]["interval"]["high"]
    raised_now = {f["check"] for f in values["findings"] if f["level"] in ("fault", "warning")}
    assert not raised_now & TEXT
    assert "Before and after the repair" in (tmp_path / "page" / "audit.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere", "/nowhere/else"], "/nowhere"),
        (["TRAIN", "TRAIN"], "are the same"),
        (["TRAIN", "TEST", "--out", "FILE"], "is a file"),
        (["TRAIN", "TEST", "--images", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    said: str,
    phantoms: dict[str | None, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    named = {"TRAIN": phantoms[None] / "train", "TEST": phantoms[None] / "test", "FILE": tmp_path / "file"}
    assert main(["audit", *(str(named.get(word, word)) for word in arguments)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and said in err


def test_missing_images_are_said_and_the_text_is_audited_all_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = {
        part: [
            {"id": f"{part}{n}", "text": "Seen?", "choices": ["cyst", "stone"], "answer_index": n % 2,
             "images": [f"images/{(n if part == 'train' else n + 5)}.png"]}
            for n in range(10)
        ]
        for part in ("train", "test")
    }  # fmt: skip
    for part, own in rows.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    paths = [str(tmp_path / part) for part in rows]
    values = run_audit(capfd, *paths)
    assert values["images_read"] == 0 and "compared by path" in values["notes"][0]
    overlap = next(f for f in values["findings"] if f["check"] == "image_overlap")
    assert overlap["share"] == 0.5
    (tmp_path / "test" / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "test" / "images" / "5.png")
    values = run_audit(capfd, *paths)
    assert values["images_read"] == 1 and "image files are missing" in values["notes"][0]


def test_no_torch_is_imported(phantoms: dict[str | None, Path]) -> None:
    program = (
        "import sys\nfrom osler.cli import main\ncode = main(sys.argv[1:])\n"
        "sys.exit(9 if {'torch', 'transformers'} & set(sys.modules) else code)\n"
    )
    paths = [str(phantoms[None] / part) for part in ("train", "test")]
    command = [sys.executable, "-c", program, "audit", *paths, "--no-images"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the page -------------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_inert(reports: dict[str | None, AuditReport], tmp_path: Path) -> None:
    for plant, report in reports.items():
        html = write_audit_page(report, tmp_path / f"{plant}.html").read_text()
        assert "<script" not in html and "http://" not in html and "https://" not in html
        (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in html and " style=" not in html
        ids = re.findall(r' id="([^"]+)"', html)
        assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)


def test_texts_of_the_data_cannot_become_markup(tmp_path: Path) -> None:
    rows = [
        {"id": f"<b>{n}", "text": "Which?", "choices": ["<i>x</i>", "y", "Y."], "answer_index": 0,
         "images": ["<img src=x>.png"]}
        for n in range(3)
    ]  # fmt: skip
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = audit(str(tmp_path / "train"), str(tmp_path / "test"), workers=1)
    html = write_audit_page(report, tmp_path / "audit.html").read_text()
    assert "<i>x" not in html and "<b>0" not in html and "<img" not in html
    assert "&lt;img src=x&gt;" in html
