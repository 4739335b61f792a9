"""A finished study without any model: its answers are drawn, with accuracies that are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np

from osler.evaluate.predictions import Header, PredictionWriter
from osler.evaluate.summary import BlindBaseline, summarize, write_summary
from osler.records import Extraction, Modality, Outcome, Prediction, QuestionType
from osler.study.graph import Job
from osler.study.inputs import Inputs
from osler.study.plan import Plan, models_of, plan
from osler.study.recipe import load_study
from osler.study.store import Store

PER_COLUMN = 60  # questions, two on an image
CHOICES = ("wart", "xanthoma", "yolk sac", "zoster")  # the first is right, the second is what is wrong
# What the reasoning says in turn: its own answer, another choice, what it is not, nothing.
SAID = ("Shows {own}.", "Shows yolk sac.", "It is not zoster, hence {own}.", "Hard to say.")
SURE, UNSURE = 0.95, 0.5  # every third answer of GRPO is sure
Accuracy = Callable[[str, str, str], float]  # row, trained on, tested on


def accuracy(row: str, on: str, column: str) -> float:
    """GRPO gains everywhere, no-think most of all; SFT in-domain only."""
    if row.startswith("grpo"):
        return 0.98 if row == "grpo_nothink" else 0.85
    return 0.95 if row == "sft" and on == column else 0.45 if row == "zero_shot_think" else 0.25


def finished_plan(*overrides: str) -> Plan:
    only = 'only=["zero_shot_think", "sft", "grpo_think", "grpo_nothink"]'
    study = load_study("phantom_mini", [only, *overrides])
    counts = {"mri": PER_COLUMN, "ct": PER_COLUMN}
    found = Inputs(
        digests={},
        train_counts=counts,
        test_counts=counts,
        exact=True,
        models=dict.fromkeys(models_of(study), "0" * 64),
        shapes={},
    )
    return plan(study, found)


def write_study(folder: Path, planned: Plan, accuracy: Accuracy = accuracy) -> Store:
    """Every job done: its result drawn, its mark written."""
    store = Store(folder)
    store.write_plan(planned.to_json())
    for number, job in enumerate(planned.jobs):
        store.result(job).mkdir(parents=True)
        if job.kind == "train":
            _write_training(store.result(job), job)
        if job.kind == "evaluate":
            _write_test(store.result(job), job, accuracy, number)
        store.mark_done(job, float(number))
    return store


def _write_training(folder: Path, job: Job) -> None:
    tokens = 4 if "nothink" in job.name else 12
    summary = {"training": {"steps": 5, "question_visits": 40}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text('{"method": "grpo"}')
    (folder / "environment.json").write_text('{"num_questions": 20}')
    steps = [
        {
            "step": step,
            "time/step": 2.0,
            "throughput/tokens_per_second": tokens * 8.0,
            "reward/accuracy": 0.1 * step,
            "completion/length_mean": tokens,
            "loss/total": 1.0 / step,
        }
        for step in range(1, 6)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    rollouts = [_group(step, question) for step in range(1, 6) for question in ("q0", "q1")]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(group) + "\n" for group in rollouts))


def _group(step: int, question: str) -> dict:
    one = {
        "text": f"<think>at step {step}</think><answer>A</answer>",
        "tokens": 9,
        "finish_reason": "stop",
        "extraction": {"index": 0, "how": "exact", "span": None},
        "reward": 2.0,
        "reward_breakdown": {"accuracy": 1.0},
        "advantage": 0.0,
    }
    shown = {"question": f"What is {question}?", "choices": ["x", "y"], "answer_index": 0}
    return {"step": step, "question_id": question, **shown, "rollouts": [one, one]}


def _text(job: Job, i: int, right: bool) -> str:
    own = CHOICES[0 if right else 1]
    thought = f"<think>{SAID[i % 4].format(own=own)}</think>" if job.facts["template"] == "think" else ""
    return f"{thought}<answer>{'A' if right else 'B'}</answer>"


def _write_confidence(folder: Path, header: Header, predictions: Sequence[Prediction]) -> None:
    path = folder / "variants" / "choices" / "predictions" / "phantom-test.jsonl"
    with PredictionWriter(path, header, print) as writer:
        for i, p in enumerate(predictions):
            own = SURE if i % 3 == 0 else UNSURE
            logprobs = [log((1 - own) / 3)] * 4
            logprobs[p.extraction.index or 0] = log(own)
            writer.append([(replace(p, choice_logprobs=tuple(logprobs)), "")])


def _write_test(folder: Path, job: Job, accuracy: Accuracy, number: int) -> None:
    rng = np.random.default_rng(number)
    predictions, kinds = [], [QuestionType.DISEASE_DIAGNOSIS, QuestionType.LESION_GRADING]
    for modality in (Modality.MRI, Modality.CT):
        for i in range(PER_COLUMN):
            right = bool(rng.random() < accuracy(job.facts["row"], job.facts["on"], modality.value))
            predictions.append(
                Prediction(
                    question_id=f"{modality.value}{i}",
                    text=_text(job, i, right),
                    extraction=Extraction(0 if right else 1, "exact"),
                    outcome=Outcome.CORRECT if right else Outcome.WRONG,
                    answer_index=0,
                    num_choices=4,
                    image_digest=f"{modality.value}-{i // 2}",
                    modality=modality,
                    question_type=kinds[i % 2],
                    dataset="Phantom",
                    num_tokens=5 if "nothink" in job.name else 15,
                )
            )
    header = Header(
        name="phantom-test",
        data="d",
        model="m",
        model_digest="0",
        template=job.facts["template"],
        prompt_digest="1",
    )
    blind = BlindBaseline(source="drawn", correct={p.question_id: rng.random() < 0.3 for p in predictions})
    with PredictionWriter(folder / "predictions" / "phantom-test.jsonl", header, print) as writer:
        writer.append((p, f"digest of {p.question_id}") for p in predictions)
    if job.facts["template"] == "think" and job.facts["row"].startswith("grpo"):
        _write_confidence(folder, header, predictions)
    write_summary(folder, summarize(predictions, header, blind))
    (folder / "config.json").write_text('{"kind": "evaluate"}')
    (folder / "environment.json").write_text("{}")
    (folder / "blind").mkdir()
    (folder / "blind" / "phantom-test.json").write_text(
        json.dumps({"source": blind.source, "correct": {k: bool(v) for k, v in blind.correct.items()}})
    )
    (folder / "questions").mkdir()
    rows = [
        {"id": p.question_id, "text": f"<b>What is {p.question_id}?", "choices": list(CHOICES), "images": []}
        for p in predictions
    ]
    (folder / "questions" / "phantom-test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
