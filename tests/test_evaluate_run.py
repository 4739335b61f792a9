"""`osler evaluate` as a whole, with a random tiny model: folders, defaults, refusals, blind baseline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from osler.cli import main
from osler.config import TrainConfig, to_json
from osler.data.folder import write_folder
from osler.data.load import load_questions
from osler.errors import BadInput
from osler.evaluate import run
from osler.evaluate.passes import MainPass, Pass
from osler.evaluate.predictions import read_predictions
from osler.evaluate.run import (
    BlindFit,
    Request,
    name_of,
    run_evaluation,
    without_test_questions,
)
from osler.evaluate.summary import read_findings, read_summaries
from osler.evaluate.trained import how_trained, stored_pixel_bounds
from osler.policy.load import model_digest
from osler.records import Question


def questions(images: Path, n: int = 8, prefix: str = "q", split: str = "") -> list[Question]:
    return [
        Question(
            id=f"{prefix}{i}",
            text=f"Which side in case {prefix}{i}?",
            choices=("left", "right", "both"),
            answer_index=i % 3,
            images=(str(images / f"{i % 4}.png"),),
            dataset="d",
            split=split,
        )
        for i in range(n)
    ]


@pytest.fixture
def data(tmp_path: Path, image_folder: Path) -> Path:
    both = [*questions(image_folder, 6, "train", "train"), *questions(image_folder, 8, "test", "test")]
    write_folder(both, tmp_path / "data")
    return tmp_path / "data"


def request(tiny: Path, folder: Path, out: Path, **changes: object) -> Request:
    values = {"model": str(tiny), "data": f"{folder}#test", "out": out, "template": "think"}
    return Request(**{**values, "max_completion_tokens": 4, **changes})  # type: ignore[arg-type]


def test_names_of_test_sets(tmp_path: Path) -> None:
    assert name_of("phantom/test") == "phantom-test"
    assert name_of("files/CT(Computed Tomography)_test.json") == "CT_Computed_Tomography_test"
    assert name_of("mine#validation") == "mine-validation"
    (tmp_path / "odd#name").mkdir()
    assert name_of(str(tmp_path / "odd#name")) == "odd_name"


def test_one_split_of_a_data_set(data: Path) -> None:
    assert len(load_questions(str(data)).questions) == 14
    assert {q.split for q in load_questions(f"{data}#test").questions} == {"test"}  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        load_questions(f"{data}#nothing")  # type: ignore[arg-type]


def test_a_whole_evaluation_and_the_same_again(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    notes: list[str] = []
    summary = run_evaluation(request(tiny_folder, data, out, template=None), note=notes.append).summary
    assert "--template not given: think, the default" in notes
    assert summary.overall.n == 8 and summary.overall.chance == pytest.approx(1 / 3)
    # Four images cannot make five folds.
    assert summary.blind_source.startswith("not fitted, give --blind-from")
    assert read_summaries(out) == (summary,)
    config = json.loads((out / "config.json").read_text())
    assert config["kind"] == "evaluate" and config["template"] == "think"
    assert config["max_pixels"] == 401408 and len(config["model_digest"]) == 64
    assert json.loads((out / "environment.json").read_text())["model_digest"] == config["model_digest"]
    before = (out / "predictions/data-test.jsonl").read_bytes()
    again = run_evaluation(request(tiny_folder, data, out), note=notes.append).summary
    assert again == summary and (out / "predictions/data-test.jsonl").read_bytes() == before
    assert notes[-1] == "data-test: 8 of 8 questions were already answered"
    with pytest.raises(BadInput, match="template"):
        run_evaluation(request(tiny_folder, data, out, template="nothink"))
    second = run_evaluation(request(tiny_folder, data, out, data=str(data), limit=3)).summary
    assert [s.header.name for s in read_summaries(out)] == ["data-test", "data"] and second.overall.n == 3
    assert set(json.loads((out / "config.json").read_text())["test_sets"]) == {"data-test", "data"}


def test_batching_and_limits_do_not_change_an_answer(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    def answers(out: str, **changes: object) -> dict[str, str]:
        run_evaluation(request(tiny_folder, data, tmp_path / out, temperature=1.0, **changes))
        lines = (tmp_path / out / "predictions/data-test.jsonl").read_text().splitlines()[1:]
        return {row["question_id"]: row["text"] for row in map(json.loads, lines)}

    whole = answers("a")
    assert answers("b", batch_size=1) == whole
    some = answers("c", limit=5)
    assert len(some) == 5 and some.items() <= whole.items()


def test_blind_baseline_from_other_data(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    arguments = ["evaluate", "--model", str(tiny_folder), "--data", f"{data}#test", "--out", out]
    arguments += ["--max-completion-tokens", "2"]
    assert main([*arguments, "--blind-from", f"{data}#train"]) == 0
    (summary,) = read_summaries(out)
    assert summary.blind_source == f"fitted on {data}#train (6 questions)" and summary.overall.blind_n == 8
    stored = json.loads((tmp_path / "run/blind/data-test.json").read_text())
    assert set(stored["correct"]) == {f"test{i}" for i in range(8)}
    assert main([*arguments, "--blind-from", f"{data}#test"]) == 2


def test_test_questions_never_enter_the_blind_fit(image_folder: Path) -> None:
    test, notes = questions(image_folder), []
    fit: Sequence[Question] = [*questions(image_folder, 4, "other"), *test[:3]]
    kept = without_test_questions(BlindFit(name="X", questions=fit), test, notes.append)
    assert [q.id for q in kept.questions] == [f"other{i}" for i in range(4)]
    assert kept.name == "X, without its 3 test questions" and len(notes) == 1
    same_id_other_text = [replace(q, text="Other?") for q in test]
    assert without_test_questions(BlindFit(name="X", questions=same_id_other_text), test, notes.append)
    with pytest.raises(BadInput, match="every question of X"):
        without_test_questions(BlindFit(name="X", questions=test), test, notes.append)


def training_run(folder: Path, tiny: Path) -> Path:
    checkpoint = folder / "checkpoints/step_000002"
    shutil.copytree(tiny, checkpoint)
    (checkpoint / "COMPLETE").write_text("{}")
    config = TrainConfig()
    config = replace(config, template="nothink", model=replace(config.model, max_pixels=12544))
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    return folder


def test_a_run_is_asked_as_it_was_trained(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    run = training_run(tmp_path / "trained", tiny_folder)
    how = how_trained(str(run))
    assert (how.template, how.max_pixels, how.run) == ("nothink", 12544, run)
    assert how_trained(str(run / "checkpoints/step_000002")) == how
    config = (run / "config.json").read_bytes()
    notes: list[str] = []
    summary = run_evaluation(
        request(tiny_folder, data, run, model=str(run), template=None), note=notes.append
    ).summary
    assert "--template not given: nothink, as trained was trained" in notes
    assert summary.header.template == "nothink" and summary.header.settings["max_pixels"] == 12544
    assert (run / "config.json").read_bytes() == config  # the training's own configuration stays
    with pytest.raises(BadInput, match="another model"):
        run_evaluation(request(tiny_folder, data, run))


def test_unreadable_training_questions_are_said_and_cross_validation_takes_over(
    tiny_folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = training_run(tmp_path / "trained", tiny_folder)
    out = str(tmp_path / "out")
    arguments = ["evaluate", "--model", str(run), "--data", f"{data}#test", "--out", out]
    assert main([*arguments, "--max-completion-tokens", "2", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["overall"]["n"] == 8
    assert "training questions of trained cannot be read" in captured.err


@dataclass(frozen=True)
class Counted:
    n: int
    right: int


def test_passes_run_side_by_side_after_the_main_one(
    tiny_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same policy, a variant's answers in a file of its own, the finding beside the numbers."""
    out = tmp_path / "run"

    def backwards(main: MainPass) -> Counted:
        ask = main.variant("backwards", [replace(q, text=q.text[::-1]) for q in main.questions[:3]])
        (answers,) = main.answer([ask])
        return Counted(n=len(answers), right=sum(p.correct for p in answers))

    def second(main: MainPass) -> Counted:
        assert read_findings(out, "backwards"), "the first finding is on disk before the second pass begins"
        return Counted(n=len(main.predictions), right=sum(p.correct for p in main.predictions))

    def show(values: Counted, console: object) -> None:
        raise AssertionError("nothing is printed here")

    passes = [Pass(kind="backwards", ask=backwards, show=show), Pass(kind="again", ask=second, show=show)]
    monkeypatch.setattr(run, "passes_of", lambda request: passes)
    found = run_evaluation(request(tiny_folder, data, out))
    assert [f.kind for f in found.findings] == ["backwards", "again"]
    stored = read_predictions(out / "variants/backwards/predictions/data-test.jsonl")
    assert len(stored.predictions) == 3 and stored.header.settings["variant"] == "backwards"
    assert stored.header.settings["max_completion_tokens"] == 4
    assert read_findings(out, "backwards") == {"data-test": asdict(found.findings[0].values)}
    assert read_findings(out, "again")["data-test"]["n"] == 8
    assert read_summaries(out) == (found.summary,)
    # What another evaluation writes leaves the findings where they are.
    run_evaluation(request(tiny_folder, data, out, data=str(data), limit=3))
    assert set(read_findings(out, "again")) == {"data-test", "data"}
    assert read_findings(out, "never") == read_findings(tmp_path, "never") == {}


def test_pixel_bounds_of_a_checkpoint_folder(tmp_path: Path) -> None:
    def bounds(values: object) -> tuple[int, int]:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        return stored_pixel_bounds(tmp_path)

    assert stored_pixel_bounds(tmp_path) == (3136, 401408)
    assert bounds({"size": {"shortest_edge": 784, "longest_edge": 12544}}) == (784, 12544)
    assert bounds({"min_pixels": 3136, "max_pixels": 12845056}) == (3136, 401408)
    assert bounds({"size": None}) == (3136, 401408)
    with pytest.raises(BadInput, match="pixel bounds"):
        bounds([1])
    with pytest.raises(BadInput, match="no such folder"):
        how_trained("./nowhere/at/all")


def test_digest_is_of_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    first = model_digest(tiny_folder)
    assert model_digest(copy) == first
    (copy / "model.safetensors").rename(copy / "model-other.safetensors")
    (copy / "model.safetensors").write_bytes((copy / "model-other.safetensors").read_bytes())
    (copy / "model-other.safetensors").unlink()
    assert model_digest(copy) == first
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(data))
    assert model_digest(copy) != first
