"""Confidence on stored answers, calibrations and their files, and the pass with a tiny model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from osler.ask import read_answer, with_calibration
from osler.calibrate import calibrate_run
from osler.cli import main
from osler.config import TrainConfig, to_json
from osler.data.folder import write_folder
from osler.data.images import image_digest
from osler.errors import BadInput
from osler.evaluate.calibrated import (
    Calibration,
    fit_calibration,
    read_calibration,
    write_calibration,
)
from osler.evaluate.calibration import Platt, with_temperature
from osler.evaluate.confidence import (
    Confidence,
    apply_threshold,
    confidence_from_json,
    read_confidence,
    read_distribution,
    stated_answers,
    vote,
)
from osler.evaluate.confidence_pass import stored_calibration
from osler.evaluate.confidence_table import confidence_rows, confidence_sentences
from osler.evaluate.predictions import Header, PredictionWriter, read_predictions
from osler.evaluate.run import Request, run_evaluation
from osler.evaluate.selective import NO_CONFIDENCE, Threshold
from osler.evaluate.summary import BlindBaseline, read_findings, summarize, write_finding, write_summary
from osler.policy.load import load_policy, model_digest
from osler.prompts import TEMPLATES
from osler.records import Completion, Extraction, Modality, Outcome, Prediction, Question, QuestionType
from osler.report.page import write_report
from osler.rollout.choices import choice_logprobs
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling


def prediction(number: int, stated: int | None, answer: int = 0, **changes: object) -> Prediction:
    outcome = Outcome.UNPARSED if stated is None else Outcome.CORRECT if stated == answer else Outcome.WRONG
    values = {
        "question_id": f"q{number}", "text": "",
        "extraction": Extraction(stated, "exact"), "outcome": outcome,
        "answer_index": answer, "num_choices": 3, "image_digest": f"i{number}", "modality": Modality.CT,
        "question_type": QuestionType.UNKNOWN, "dataset": "d",
    }  # fmt: skip
    return Prediction(**{**values, **changes})  # type: ignore[arg-type]


def answers(
    n: int, seed: int = 0, sharpness: float = 3.0
) -> tuple[list[Prediction], dict[str, tuple[float, ...]]]:
    """An overconfident model: answers drawn from distributions, which it states sharper than they are."""
    rng = np.random.default_rng(seed)
    predictions, logprobs = [], {}
    for i in range(n):
        logits = rng.normal(0, 1.2, 3)
        p = np.exp(logits) / np.exp(logits).sum()
        predictions.append(prediction(i, int(np.argmax(p)), int(rng.choice(3, p=p))))
        sharp = sharpness * logits
        logprobs[f"q{i}"] = tuple((sharp - np.logaddexp.reduce(sharp)).tolist())
    return predictions, logprobs


def test_answers_without_a_choice_or_a_distribution_have_no_confidence() -> None:
    third = math.log(1 / 3)
    predictions = [prediction(0, 0), prediction(1, None), prediction(2, 1), prediction(3, 2)]
    logprobs = {"q0": (math.log(0.5), math.log(0.3), math.log(0.2)), "q1": (third,) * 3, "q2": None}
    stated = stated_answers(predictions, {**logprobs, "q3": (math.nan, 0.0, 0.0)})
    assert stated.has.tolist() == [True, False, False, False]
    assert stated.confidence(stated.logprobs_mK).tolist() == [pytest.approx(0.5), *[NO_CONFIDENCE] * 3]
    reading = read_distribution(stated, stated.logprobs_mK, "x")
    assert (reading.n, reading.num_with, reading.error) == (4, 1, None)
    assert reading.error_refused == "refused: 300 answers with a confidence are needed, here are 1"
    assert (
        reading.accuracy.value == 0.25
        and reading.auroc is None
        and reading.log_loss == pytest.approx(-math.log(0.5))
    )


def test_no_answer_at_all_gives_no_number() -> None:
    stated = stated_answers([prediction(0, None), prediction(1, None)], {})
    reading = read_distribution(stated, stated.logprobs_mK, "x")
    assert (reading.num_with, reading.brier, reading.mean_confidence, reading.log_loss) == (
        0,
        None,
        None,
        None,
    )
    assert reading.aurc.value == 1.0


def test_calibration_lowers_the_error_on_other_questions_and_comes_back_from_json() -> None:
    predictions, logprobs = answers(600, seed=1)
    stated = stated_answers(predictions, logprobs)
    for method in ("temperature", "platt"):
        fitted = fit_calibration(stated, method, 0.3, data="v", question_digests=["b", "a"], identity={})
        other, other_logprobs = answers(600, seed=2)
        test = stated_answers(other, other_logprobs)
        calibrated = fitted.apply(test.logprobs_mK, test.stated.tolist())
        before = read_distribution(test, test.logprobs_mK, "before")
        after = read_distribution(test, calibrated, "after")
        assert before.error and after.error and after.error.value < before.error.value / 2
        assert before.error.interval and after.error.interval
        assert before.error.interval.low > after.error.interval.high  # 21 points against 3
        assert fitted.threshold is not None and fitted.threshold.least_confidence is not None
        applied = apply_threshold(0.3, fitted.threshold.least_confidence, test.confidence(calibrated), test)
        assert applied.risk is not None and applied.risk.value < 0.3 and 0.1 < applied.coverage < 1
        found = Confidence(
            readings=(before, after), calibration=fitted.says, num_fitted_on=0, threshold=applied,
            chance=1 / 3, blind_accuracy=None,
        )  # fmt: skip
        assert confidence_from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found
    assert fit_calibration(
        stated, "temperature", None, data="v", question_digests=[], identity={}
    ).temperature == pytest.approx(3.0, rel=0.15)


def test_a_vote_counts_unread_samples_and_never_draws_lots() -> None:
    greedy = [prediction(0, 1), prediction(1, 0), prediction(2, 2), prediction(3, None)]
    drawn = {  # per question, the choices of four samples
        0: [0, 0, 0, 1],  # three of four, right
        1: [1, 1, 0, 0],  # a tie that the greedy answer decides
        2: [0, 1, None, None],  # a tie without it
        3: [None] * 4,
    }
    samples = [[prediction(q, choices[g]) for q, choices in drawn.items()] for g in range(4)]
    agreement, right, notes = vote(samples, greedy)
    assert agreement.tolist() == [0.75, 0.5, NO_CONFIDENCE, NO_CONFIDENCE]
    assert right.tolist() == [1, 1, 0, 0]
    assert notes == ("6 of 16 samples unread; 1 questions without a majority",)


def test_nothing_answered_where_no_threshold_was_shown() -> None:
    predictions, logprobs = answers(20)
    stated = stated_answers(predictions, logprobs)
    applied = apply_threshold(0.1, None, stated.confidence(stated.logprobs_mK), stated)
    assert (applied.num_answered, applied.risk) == (0, None)


def test_fits_that_mean_nothing_are_refused() -> None:
    stated = stated_answers(*answers(300))

    def fit(method: str = "temperature", risk: float | None = None, on: object = stated) -> None:
        fit_calibration(on, method, risk, data="v", question_digests=[], identity={})  # type: ignore[arg-type]

    with pytest.raises(BadInput, match="--method isotonic"):
        fit("isotonic")
    with pytest.raises(BadInput, match="--risk 20"):
        fit(risk=20)
    with pytest.raises(BadInput, match="v: 99 answers"):
        fit(on=stated_answers(*answers(99)))
    predictions, logprobs = answers(300)
    backwards = [
        dataclasses.replace(p, outcome=Outcome.WRONG if p.correct else Outcome.CORRECT) for p in predictions
    ]
    with pytest.raises(BadInput, match="the surer the model, the less often it is right"):
        fit("platt", on=stated_answers(backwards, logprobs))
    right = [prediction(i, 0, 0) for i in range(200)]
    with pytest.raises(BadInput, match="every answer is right"):
        fit(on=stated_answers(right, {p.question_id: (-0.1, -3.0, -3.0) for p in right}))


CALIBRATION = Calibration(
    method="temperature", temperature=2.0, platt=None, n=400, num_with=390, data="v", question_digests=("a",),
    identity={"model_digest": "m", "template": "think", "settings.seed": 0},
    threshold=Threshold(0.2, 0.6, 0.5, 0.1, 0.19),
)  # fmt: skip


def test_a_calibration_is_for_one_model_and_one_way_of_asking(tmp_path: Path) -> None:
    assert CALIBRATION.misfit({"model_digest": "m", "template": "think", "settings.seed": 7}) == ""
    said = CALIBRATION.misfit({"model_digest": "m", "template": "nothink", "settings.seed": 0})
    assert said == "the calibration was fitted with template 'think', asked is 'nothink'"
    path = write_calibration(tmp_path, CALIBRATION)
    assert read_calibration(path) == read_calibration(tmp_path) == CALIBRATION
    platt = dataclasses.replace(CALIBRATION, temperature=None, platt=Platt(1.0, -0.5), threshold=None)
    write_calibration(tmp_path, platt)
    assert read_calibration(tmp_path) == platt
    values = json.loads(path.read_text())
    for damaged in ("{", "[]", json.dumps({**values, "platt": None}), json.dumps({**values, "more": 1})):
        path.write_text(damaged)
        with pytest.raises(BadInput, match=r"calibration\.json"):
            read_calibration(tmp_path)
    with pytest.raises(BadInput, match="osler calibrate makes one"):
        read_calibration(tmp_path / "nowhere")


def asked(p: float, calibration: Calibration) -> dict[str, object]:
    question = Question(id="ask", text="Which?", choices=("Kidney", "Liver", "Lung"), answer_index=0)
    text = "<think>Bright.</think><answer>B</answer>"
    completion = Completion(text=text, token_ids=(1,), sampled_logprobs=(0.0,), finish_reason="stop")
    logprobs = tuple(map(math.log, ((1 - p) / 2, p, (1 - p) / 2)))
    return with_calibration(
        read_answer(question, TEMPLATES["think"], completion, logprobs), logprobs, calibration
    ).to_json()


def test_ask_answers_above_the_threshold_and_abstains_below() -> None:
    sure = asked(0.9, CALIBRATION)
    expected = math.sqrt(0.9) / (math.sqrt(0.9) + 2 * math.sqrt(0.05))
    assert sure["confidence"] == pytest.approx(expected) and expected > 0.6
    assert (sure["letter"], sure["status"], sure["abstained"]) == ("B", "answered", False)
    assert sure["probabilities_are"] == "Calibrated: temperature 2, fitted on 400 questions of v."
    unsure = asked(0.7, CALIBRATION)  # 0.7 before, 0.52 after
    assert (unsure["letter"], unsure["choice"], unsure["abstained"]) == (None, None, True)
    assert unsure["withheld_letter"] == "B" and "below 60.0 %" in str(unsure["abstained_because"])
    never = dataclasses.replace(CALIBRATION, threshold=Threshold(0.2, None, 0.0, None, None))
    assert asked(0.999, never)["abstained"] is True
    always = dataclasses.replace(CALIBRATION, threshold=None)
    assert asked(0.4, always)["letter"] == "B"


def evaluation(run: Path, model: str = "phantom-base", digest: str = "m", image: str = "") -> None:
    """A run folder of 400 validation questions, all about one image where it is named."""
    predictions, logprobs = answers(400)
    predictions = [dataclasses.replace(p, image_digest=image or p.image_digest) for p in predictions]
    header = Header(
        name="v", data="ph/v", model=model, model_digest=digest, template="think", prompt_digest="p"
    )
    behind = dataclasses.replace(header, settings={"variant": "choices"})
    for folder, one in ((run, header), (run / "variants/choices", behind)):
        with PredictionWriter(folder / "predictions" / f"{one.name}.jsonl", one, print) as writer:
            writer.append(
                (dataclasses.replace(p, choice_logprobs=logprobs[p.question_id]), p.question_id)
                for p in predictions
            )
    rows = [{"id": p.question_id, "text": "t", "choices": ["a", "b", "c"], "images": []} for p in predictions]
    (run / "questions").mkdir()
    (run / "questions/v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_calibrate_fits_from_a_run_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evaluation(tmp_path / "run")
    assert main(["calibrate", str(tmp_path / "run"), "--risk", "0.3"]) == 0
    out, err = capfd.readouterr()
    assert "temperature" in out and "fitted on 400 questions of ph/v" in out and "upper bound" in out
    assert "not known here" in err and "--calibration" in err  # phantom-base has no folder of the user's
    stored = read_calibration(tmp_path / "run")
    assert stored.threshold is not None and stored.threshold.wanted_risk == 0.3
    assert stored.identity["model_digest"] == "m" and len(stored.question_digests) == 400
    for path in (tmp_path / "run/variants/choices/predictions").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="without --confidence"):
        calibrate_run(tmp_path / "run", None, "temperature", None)
    with pytest.raises(BadInput, match="no test set w; there are v"):
        calibrate_run(tmp_path / "run", "w", "temperature", None)


def test_training_questions_are_refused_and_a_folder_of_the_user_keeps_the_file(
    tiny_folder: Path, image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained"
    checkpoint = trained / "checkpoints/step_000001"
    shutil.copytree(tiny_folder, checkpoint)
    (checkpoint / "COMPLETE").write_text("{}")
    image = str(image_folder / "0.png")
    shown = [
        Question(id=f"q{i}", text="t", choices=("a", "b", "c"), answer_index=0, images=(image,))
        for i in range(2)
    ]
    write_folder([*shown, dataclasses.replace(shown[0], id="o", text="other")], tmp_path / "data")
    config = TrainConfig()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train=str(tmp_path / "data")))
    (trained / "config.json").write_text(json.dumps(to_json(config)))
    evaluation(tmp_path / "new", model=str(trained), digest=model_digest(checkpoint))
    made = calibrate_run(tmp_path / "new", None, "temperature", None)
    assert made.written == (tmp_path / "new/calibration.json", checkpoint / "calibration.json")
    assert stored_calibration(str(trained)) == made.calibration
    evaluation(tmp_path / "seen", model=str(trained), image=image_digest((image,)))
    assert main(["calibrate", str(tmp_path / "seen")]) == 2
    assert "400 of 400 questions are training questions" in capfd.readouterr().err


def test_the_pass_reads_what_the_model_says(tiny_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    questions = [
        Question(
            id=f"q{i}", text="Which side?",
            choices=("left", "right", "both")[: 2 + i % 2], answer_index=i % 2,
            images=(str(image_folder / f"{i % 4}.png"),), dataset="d", split="test",
        )
        for i in range(6)
    ]  # fmt: skip
    write_folder(questions, tmp_path / "data")
    values = {
        "model": str(tiny_folder), "data": str(tmp_path / "data"),
        "out": tmp_path / "run", "template": "plain",
        "max_completion_tokens": 3, "confidence": True, "samples": 2, "batch_size": 4,
    }  # fmt: skip
    found = run_evaluation(Request(**values))  # type: ignore[arg-type]
    reading, agreement = found.findings[0].values.readings
    assert reading.n == agreement.n == 6 and reading.accuracy.value == found.summary.overall.accuracy
    assert list(read_findings(tmp_path / "run", "confidence")) == [found.summary.header.name]

    policy = load_policy(str(tiny_folder))
    name = found.summary.header.name
    main_file = read_predictions(tmp_path / f"run/predictions/{name}.jsonl").predictions
    written = [
        Completion(text=p.text, token_ids=(), sampled_logprobs=(), finish_reason="stop") for p in main_file
    ]
    direct = choice_logprobs(policy, questions, TEMPLATES["plain"], written)
    behind = read_predictions(tmp_path / f"run/variants/choices/predictions/{name}.jsonl").predictions
    for one, expected in zip(behind, direct, strict=True):
        assert one.choice_logprobs == pytest.approx(expected, abs=1e-5)
    sampling = Sampling(max_completion_tokens=3, temperature=1.0)
    groups = complete(policy, questions, TEMPLATES["plain"], sampling, group_size=2)
    for index in range(2):
        file = tmp_path / f"run/variants/sample-{index + 1}/predictions/{name}.jsonl"
        assert [p.text for p in read_predictions(file).predictions] == [g[index].text for g in groups]

    # A calibration of other weights is not used, and that is said.
    notes: list[str] = []
    write_calibration(tmp_path, CALIBRATION)
    again = run_evaluation(
        Request(**{**values, "calibration": tmp_path, "samples": 0}),  # type: ignore[arg-type]
        note=notes.append,
    )
    assert len(again.findings[0].values.readings) == 1
    assert any("not calibrated" in note and "model digest" in note for note in notes)
    assert stored_calibration(str(tiny_folder)) is None
    # One that fits calibrates, and knows its own questions again.
    identity = found.summary.header.identity
    digests = tuple(read_predictions(tmp_path / f"run/predictions/{name}.jsonl").question_digests.values())
    assert identity["model_digest"] == model_digest(tiny_folder)
    fits = dataclasses.replace(CALIBRATION, identity=identity, question_digests=digests)
    write_calibration(tmp_path, fits)
    third = run_evaluation(Request(**{**values, "calibration": tmp_path, "samples": 0}))  # type: ignore[arg-type]
    values_found = third.findings[0].values
    assert values_found.num_fitted_on == 6 and len(values_found.readings) == 2
    assert values_found.threshold.wanted_risk == 0.2


def test_temperature_two_is_the_square_root() -> None:
    found = np.exp(with_temperature(np.log([[0.9, 0.05, 0.05]]), 2.0))
    root = np.sqrt([0.9, 0.05, 0.05])
    assert found[0] == pytest.approx(root / root.sum())


def test_confidence_of_few_levels_is_read() -> None:
    rng = np.random.default_rng(0)
    agreement = rng.integers(1, 6, 400) / 5
    right = (rng.random(400) < agreement).astype(np.int64)
    reading = read_confidence(agreement, right, range(400), "agreement")
    assert len(reading.bins) == 5 and sum(b.n for b in reading.bins) == 400
    assert reading.error and reading.error_if_calibrated
    assert reading.error.value < reading.error_if_calibrated[1] * 2


def test_the_page_prints_every_number_of_a_confidence(tmp_path: Path) -> None:
    evaluation(tmp_path / "run")
    predictions, logprobs = answers(400)
    stated = stated_answers(predictions, logprobs)
    reading = read_distribution(stated, stated.logprobs_mK, "probability of <the> letter")
    found = Confidence(
        readings=(reading,),
        calibration="none",
        num_fitted_on=3,
        threshold=apply_threshold(0.1, None, stated.confidence(stated.logprobs_mK), stated),
        chance=1 / 3,
        blind_accuracy=None,
    )
    stored = read_predictions(tmp_path / "run/predictions/v.jsonl")
    summary = summarize(stored.predictions, stored.header, BlindBaseline(source="not fitted"))
    write_summary(tmp_path / "run", summary)
    write_finding(tmp_path / "run", "confidence", "v", dataclasses.asdict(found))
    write_report([tmp_path / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for _, cells in confidence_rows(found):
        assert cells[0] in page
    for sentence in confidence_sentences(found):
        assert sentence.split(":")[0] in page
    assert "probability of &lt;the&gt; letter" in page and "<the>" not in page
    assert page.count('class="chart"') == 2 and "Numbers of the 10 bins" in page
    write_finding(tmp_path / "run", "confidence", "v", {"readings": []})
    with pytest.raises(BadInput, match="confidence of v"):
        write_report([tmp_path / "run"], tmp_path / "page.html")
