"""The runner: every question once, every answer kept, a killed run goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from osler.errors import BadInput
from osler.evaluate.batches import next_batch
from osler.evaluate.predictions import read_predictions
from osler.evaluate.replies import EngineModel
from osler.evaluate.runner import Ask, answer_all, choose_questions, evaluate
from osler.evaluate.variants import rotate_choices
from osler.prompts import TEMPLATES, Template, get_template
from osler.records import Completion, Modality, Outcome, Question, QuestionType
from osler.rollout.sampling import Sampling

THINK = TEMPLATES["think"]


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    made = []
    for i in range(10):
        path = tmp_path / f"image{i // 2}.png"
        Image.new("L", (8, 8), 20 * (i // 2)).save(path)
        made.append(
            Question(
                id=f"q{i}",
                text=f"What is shown ({i})?",
                choices=("Kidney", "Liver", "Lung", "Spleen"),
                answer_index=i % 4,
                images=(str(path),),
                modality=Modality.CT if i < 6 else Modality.MRI,
                question_type=QuestionType.ANATOMY_IDENTIFICATION,
                dataset="d",
            )
        )
    return made


class FakeEngine:
    """Answers B always; can die before its n-th question; counts what it was asked."""

    def __init__(self, letter: str = "B", die_after: int | None = None, finish: str = "stop") -> None:
        self.letter, self.die_after, self.finish = letter, die_after, finish
        self.asked: list[str] = []

    def __call__(
        self, policy: Any, questions: Sequence[Question], template: Template, sampling: Sampling
    ) -> list[tuple[Completion, ...]]:
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise KeyboardInterrupt
        self.asked += [q.id for q in questions]
        text = f"<think>dark {self.letter}</think><answer>{self.letter}</answer>"
        return [
            (
                Completion(
                    text=text, token_ids=(1, 2), sampled_logprobs=(-0.1, -0.1), finish_reason=self.finish
                ),
            )
            for _ in questions
        ]


def run(
    questions: Sequence[Question], out: Path, engine: FakeEngine, **changes: Any
) -> tuple[Any, list[str]]:
    notes: list[str] = []
    settings: dict[str, Any] = {"model": "m", "model_digest": "d1", "data": "data", "batch_size": 3} | changes
    template = settings.pop("template", THINK)
    sampling = settings.pop("sampling", Sampling(max_completion_tokens=32))
    predictions = evaluate(
        EngineModel(None, engine), questions, template, out, "mri", sampling, note=notes.append, **settings
    )
    return predictions, notes


def test_one_prediction_per_question_in_order(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "run"
    predictions, notes = run(questions, out, FakeEngine())
    assert [p.question_id for p in predictions] == [q.id for q in questions]
    assert [p.correct for p in predictions] == [q.answer_letter == "B" for q in questions]
    assert predictions[0].num_choices == 4 and predictions[0].num_tokens == 2
    assert predictions[0].extraction.how == "exact"
    assert predictions[0].image_digest == predictions[1].image_digest != predictions[2].image_digest
    assert notes == []
    stored = read_predictions(out / "predictions" / "mri.jsonl")
    assert stored.predictions == predictions
    assert stored.header.model_digest == "d1" and stored.header.settings["max_completion_tokens"] == 32


def test_questions_side_file_has_what_a_page_needs(questions: list[Question], tmp_path: Path) -> None:
    run(questions, tmp_path / "run", FakeEngine())
    rows = [json.loads(line) for line in (tmp_path / "run/questions/mri.jsonl").read_text().splitlines()]
    assert rows[3] == {
        "id": "q3",
        "text": questions[3].text,
        "choices": list(questions[3].choices),
        "images": list(questions[3].images),
    }


def test_stopped_run_asks_only_what_is_missing(questions: list[Question], tmp_path: Path) -> None:
    whole, _ = run(questions, tmp_path / "whole", FakeEngine())
    out = tmp_path / "run"
    first = FakeEngine(die_after=6)
    with pytest.raises(KeyboardInterrupt):
        run(questions, out, first)
    assert len(read_predictions(out / "predictions/mri.jsonl").predictions) == 6
    second = FakeEngine()
    predictions, notes = run(questions, out, second)
    assert second.asked == ["q6", "q7", "q8", "q9"]
    assert predictions == whole
    assert notes == ["mri: 6 of 10 questions were already answered"]
    third = FakeEngine()
    assert run(questions, out, third)[0] == whole and third.asked == []


@pytest.mark.parametrize("cut", [1, 40])
def test_torn_last_line_is_dropped_with_a_note(questions: list[Question], tmp_path: Path, cut: int) -> None:
    out = tmp_path / "run"
    whole, _ = run(questions, out, FakeEngine())
    path = out / "predictions/mri.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    engine = FakeEngine()
    predictions, notes = run(questions, out, engine)
    assert engine.asked == ["q9"] and predictions == whole
    assert any("torn last line" in note for note in notes)
    assert path.read_bytes() == data


def test_torn_header_starts_over(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole, _ = run(questions, out, FakeEngine())
    path = out / "predictions/mri.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:5])
    predictions, notes = run(questions, out, FakeEngine())
    assert predictions == whole and path.read_bytes() == data
    assert any("torn header" in note for note in notes)


def test_every_prefix_of_the_file_resumes_to_the_same_bytes(
    questions: list[Question], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(questions, out, FakeEngine())
    path = out / "predictions/mri.jsonl"
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        run(questions, out, FakeEngine())
        assert path.read_bytes() == data, length


def test_damaged_middle_line_is_an_error(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(questions, out, FakeEngine())
    path = out / "predictions/mri.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = lines[4][:30]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match=r"mri\.jsonl:5: not a prediction"):
        run(questions, out, FakeEngine())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_digest": "d2"}, "model_digest"),
        ({"template": TEMPLATES["nothink"]}, "template"),
        ({"sampling": Sampling(max_completion_tokens=64)}, "settings.max_completion_tokens"),
        ({"sampling": Sampling(max_completion_tokens=32, temperature=1.0)}, "settings.temperature"),
        ({"settings": {"max_pixels": 100}}, "settings.max_pixels"),
    ],
)
def test_other_model_prompt_or_settings_are_refused(
    questions: list[Question], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    out = tmp_path / "run"
    run(questions, out, FakeEngine())
    before = (out / "predictions/mri.jsonl").read_bytes()
    with pytest.raises(BadInput, match=named):
        run(questions, out, FakeEngine(), **changes)
    assert (out / "predictions/mri.jsonl").read_bytes() == before


def test_changed_question_or_image_is_refused(questions: list[Question], tmp_path: Path) -> None:
    from dataclasses import replace

    out = tmp_path / "run"
    run(questions, out, FakeEngine())
    changed = [replace(questions[0], answer_index=3), *questions[1:]]
    with pytest.raises(BadInput, match="'q0' has changed"):
        run(changed, out, FakeEngine())
    Image.new("L", (9, 9), 1).save(questions[0].images[0])
    with pytest.raises(BadInput, match="'q0' has changed"):
        run(questions, out, FakeEngine())


def test_unreadable_image_is_an_error_counted_and_asked_again(
    questions: list[Question], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    image = Path(questions[4].images[0])
    good = image.read_bytes()
    image.write_bytes(b"not an image")
    predictions, _ = run(questions, out, FakeEngine())
    assert [p.question_id for p in predictions if p.error] == ["q4", "q5"]
    assert predictions[4].outcome is None and not predictions[4].correct
    assert "image2.png" in predictions[4].error
    image.write_bytes(good)
    engine = FakeEngine()
    predictions, _ = run(questions, out, engine)
    assert engine.asked == ["q4", "q5"] and not any(p.error for p in predictions)
    assert read_predictions(out / "predictions/mri.jsonl").predictions[4] == predictions[4]


def test_missing_image_is_an_error_too(questions: list[Question], tmp_path: Path) -> None:
    Path(questions[0].images[0]).unlink()
    engine = FakeEngine()
    predictions, _ = run(questions, tmp_path / "run", engine)
    assert predictions[0].error and predictions[0].image_digest == ""
    assert engine.asked == [q.id for q in questions[2:]]


def test_truncation_is_a_flag_beside_the_outcome(questions: list[Question], tmp_path: Path) -> None:
    predictions, _ = run(questions, tmp_path / "run", FakeEngine(finish="length"))
    assert all(p.truncated for p in predictions)
    assert {p.outcome for p in predictions} == {Outcome.CORRECT, Outcome.WRONG}


def test_limits_are_nested_and_fixed(questions: list[Question], tmp_path: Path) -> None:
    three = choose_questions(questions, 3)
    five = choose_questions(list(reversed(questions)), 5)
    assert {q.id for q in three} < {q.id for q in five}
    assert [q.id for q in three] == sorted(q.id for q in three)
    out = tmp_path / "run"
    run(questions, out, FakeEngine(), limit=3)
    engine = FakeEngine()
    predictions, _ = run(questions, out, engine, limit=5)
    assert len(engine.asked) == 2 and len(predictions) == 5
    with pytest.raises(BadInput, match="not among the 3 questions"):
        run(questions, out, FakeEngine(), limit=3)
    with pytest.raises(BadInput, match="at least 1"):
        choose_questions(questions, 0)


def test_duplicate_ids_empty_sets_and_bad_names_are_refused(
    questions: list[Question], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="occurs twice"):
        run([questions[0], questions[0]], tmp_path, FakeEngine())
    with pytest.raises(BadInput, match="no questions"):
        run([], tmp_path, FakeEngine())
    for name in ("", "../x", ".hidden", "a/b"):
        with pytest.raises(BadInput, match="file name"):
            evaluate(
                EngineModel(None), questions, THINK, tmp_path, name, Sampling(), model="m", model_digest="d"
            )


def test_a_foreign_file_is_refused(questions: list[Question], tmp_path: Path) -> None:
    path = tmp_path / "run/predictions/mri.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1}\n')
    with pytest.raises(BadInput, match="predictions header"):
        run(questions, tmp_path / "run", FakeEngine())


def test_progress_counts_to_the_end(questions: list[Question], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(questions, tmp_path / "run", FakeEngine(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 10), (3, 10), (6, 10), (9, 10), (10, 10)]


def test_variants_take_turns_and_each_goes_on_from_its_own_file(
    questions: list[Question], tmp_path: Path
) -> None:
    def asks(engine: FakeEngine) -> list[Ask]:
        shared: dict[str, Any] = {"template": THINK, "sampling": Sampling(), "complete": engine}
        return [
            Ask(
                name="mri",
                questions=part,
                out_dir=tmp_path / variant,
                settings={"variant": variant},
                **shared,
            )
            for variant, part in (("whole", questions[:5]), ("half", questions[5:8]))
        ]

    seen: list[tuple[int, int]] = []
    notes: list[str] = []
    how: dict[str, Any] = {"model": "m", "model_digest": "d", "batch_size": 2, "note": notes.append}
    first = FakeEngine(die_after=4)
    with pytest.raises(KeyboardInterrupt):
        answer_all(EngineModel(None), asks(first), **how)
    assert first.asked == ["q0", "q1", "q5", "q6"]
    second = FakeEngine()
    progress: dict[str, Any] = {"progress": lambda done, total: seen.append((done, total))}
    whole, half = answer_all(EngineModel(None), asks(second), **how, **progress)
    assert second.asked == ["q2", "q3", "q7", "q4"] and seen == [(4, 8), (6, 8), (7, 8), (8, 8)]
    assert [p.question_id for p in whole] == [f"q{i}" for i in range(5)]
    assert [p.question_id for p in half] == ["q5", "q6", "q7"]
    assert notes == [
        "mri, whole: 2 of 5 questions were already answered",
        "mri, half: 2 of 3 questions were already answered",
    ]
    shutil.move(tmp_path / "half/predictions/mri.jsonl", tmp_path / "whole/predictions/mri.jsonl")
    with pytest.raises(BadInput, match=r"settings\.variant"):
        answer_all(EngineModel(None), asks(FakeEngine()), **how)


def test_asks_of_one_way_share_their_batches_and_go_on_from_their_own_files(
    questions: list[Question], tmp_path: Path
) -> None:
    """Two rotations and an ask under another template, killed and resumed from different places."""

    def asks(out: Path) -> list[Ask]:
        turned = [[rotate_choices(q, by) for q in part] for by, part in ((1, questions), (2, questions[:6]))]
        how: list[dict[str, Any]] = [
            {"questions": turned[0], "template": THINK},
            {"questions": questions[:4], "template": get_template("think_after")},
            {"questions": turned[1], "template": THINK},
        ]
        return [
            Ask(name="mri", sampling=Sampling(), out_dir=out / str(n), settings={"variant": str(n)}, **one)
            for n, one in enumerate(how)
        ]

    how: dict[str, Any] = {"model": "m", "model_digest": "d", "batch_size": 4}
    apart = tmp_path / "apart"
    expected = [answer_all(EngineModel(None, FakeEngine()), [ask], **how)[0] for ask in asks(apart)]
    together, whole = tmp_path / "together", FakeEngine()
    assert answer_all(EngineModel(None, whole), asks(together), **how) == expected
    assert whole.asked[:8] == ["q0", "q0", "q1", "q1", "q0", "q1", "q2", "q3"]
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        answer_all(EngineModel(None, FakeEngine(die_after=12)), asks(killed), **how)
    answer_all(EngineModel(None, FakeEngine()), asks(tmp_path / "ahead")[2:], **how)
    shutil.copytree(tmp_path / "ahead" / "2", killed / "2", dirs_exist_ok=True)
    resumed = FakeEngine()
    assert answer_all(EngineModel(None, resumed), asks(killed), **how) == expected
    assert resumed.asked == [f"q{n}" for n in range(4, 10)]
    for out in (together, killed):
        for n in range(3):
            path = f"{n}/predictions/mri.jsonl"
            assert (out / path).read_bytes() == (apart / path).read_bytes()


def test_next_batch_by_hand(questions: list[Question]) -> None:
    def take(parts: list[Sequence[Question]], count: int) -> list[list[str]]:
        waiting, batches = [deque(part) for part in parts], []
        while batch := next_batch(waiting, count):
            batches.append([f"{n}{q.id}" for n, q in batch])
        return batches

    q = questions
    assert take([q[:3]], 2) == [["0q0", "0q1"], ["0q2"]]
    assert take([q[:2], q[:2]], 3) == [["0q0", "1q0"], ["0q1", "1q1"]]
    # A subset, and a file that is further on.
    assert take([q[1:3], q[:3]], 8) == [["1q0", "0q1", "1q1", "0q2", "1q2"]]
    # More variants than a batch holds.
    assert take([q[:1]] * 3, 2) == [["0q0", "1q0"], ["2q0"]]
    # Ids in which they differ hold nobody up.
    assert take([[q[0], q[2]], [q[1], q[2]]], 9) == [["0q0", "1q1", "0q2", "1q2"]]
    assert take([[], []], 4) == []
