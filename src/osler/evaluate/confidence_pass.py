"""The pass behind `osler evaluate --confidence` and `--samples`: how sure the model was of each answer.

The distribution over the choices is read behind the completions of the main pass, which are not written
again. Samples are drawn once for all their files, prompt and image shared by a question's samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from osler.evaluate.calibrated import CALIBRATION_FILE, Calibration, read_calibration
from osler.evaluate.confidence import (
    Applied,
    Confidence,
    Reading,
    apply_threshold,
    read_confidence,
    read_distribution,
    stated_answers,
    vote,
)
from osler.evaluate.confidence_table import print_confidence
from osler.evaluate.passes import MainPass, Pass
from osler.evaluate.predictions import question_digest
from osler.evaluate.recorded_confidence import CHOICES_VARIANT, SAMPLE_VARIANT
from osler.evaluate.scoring import DEFAULT_SCORER, LETTER_LOGPROB, READERS
from osler.evaluate.stats import chance_level
from osler.evaluate.summary import cluster_of
from osler.policy.load import checkpoint_folder
from osler.prompts import Template
from osler.records import Completion, Prediction, Question
from osler.rollout.engine import complete as engine_complete
from osler.rollout.sampling import Sampling

UNCALIBRATED = "probability of the letter"


def confidence_pass(
    distribution: bool, num_samples: int, temperature: float, calibration: Calibration | None
) -> Pass:
    """`distribution`: read the probabilities of the choices; `num_samples` > 0: self-consistency.

    `calibration` is one that was named; without it the model's own is looked for.
    """

    def ask(main: MainPass) -> Confidence:
        readings: list[Reading] = []
        said, num_fitted_on, applied = "not asked for", 0, None
        if distribution:
            known = calibration or stored_calibration(main.header.model)
            found, said, num_fitted_on, applied = _distribution(main, known)
            readings += found
        if num_samples:
            drawn = _draw(main, num_samples, temperature)
            agreement, right, notes = vote(drawn, main.predictions)
            source = f"agreement of {num_samples} samples at temperature {temperature:g}"
            clusters = [cluster_of(p) for p in main.predictions]
            readings.append(read_confidence(agreement, right, clusters, source, None, notes))
        blind = [main.blind.correct[p.question_id] for p in main.predictions if main.blind.correct]
        return Confidence(
            readings=tuple(readings),
            calibration=said,
            num_fitted_on=num_fitted_on,
            threshold=applied,
            chance=chance_level([p.num_choices for p in main.predictions]),
            blind_accuracy=sum(blind) / len(blind) if blind else None,
        )

    return Pass(kind="confidence", ask=ask, show=print_confidence, looks_inside=True)


def stored_calibration(model: str) -> Calibration | None:
    """The calibration in the model's own folder; its files have to be on this machine."""
    file = checkpoint_folder(model) / CALIBRATION_FILE
    return read_calibration(file) if file.is_file() else None


def _distribution(
    main: MainPass, calibration: Calibration | None
) -> tuple[list[Reading], str, int, Applied | None]:
    """Readings before and after calibration, what is said of it, the overlap, and the threshold's effect."""
    stated = stated_answers(main.predictions, _logprobs(main))
    readings = [read_distribution(stated, stated.logprobs_mK, UNCALIBRATED)]
    if calibration is None:
        return readings, "none; osler calibrate fits one on validation questions", 0, None
    misfit = calibration.misfit(main.header.identity)
    if misfit:
        main.note(f"not calibrated: {misfit}")
        return readings, f"none: {misfit}", 0, None
    logprobs_mK = calibration.apply(stated.logprobs_mK, stated.stated.tolist())
    readings.append(read_distribution(stated, logprobs_mK, f"calibrated, {calibration.method}"))
    known = set(calibration.question_digests)
    digests = [
        question_digest(q, p.image_digest) for q, p in zip(main.questions, main.predictions, strict=True)
    ]
    applied = None
    if calibration.threshold is not None:
        wanted, least = calibration.threshold.wanted_risk, calibration.threshold.least_confidence
        applied = apply_threshold(wanted, least, stated.confidence(logprobs_mK), stated)
    return readings, calibration.says, sum(d in known for d in digests), applied


def _logprobs(main: MainPass) -> dict[str, tuple[float, ...] | None]:
    """Question id -> log-probabilities of the choices behind the main pass's completion."""
    if main.header.scorer == LETTER_LOGPROB:
        return {p.question_id: p.choice_logprobs for p in main.predictions}
    stored = {p.question_id: p for p in main.predictions}

    def written(
        policy: Any, questions: Sequence[Question], template: Template, sampling: Sampling
    ) -> list[tuple[Completion, ...]]:
        return [(_completion(stored[q.id]),) for q in questions]

    asked = main.variant(CHOICES_VARIANT, main.questions, letters=True, complete=written)
    return {p.question_id: p.choice_logprobs for p in main.answer([asked])[0]}


def _completion(stored: Prediction) -> Completion:
    """A stored completion; its tokens were not kept, and nothing here asks for them."""
    finish = "length" if stored.truncated else "stop"
    return Completion(text=stored.text, token_ids=(), sampled_logprobs=(), finish_reason=finish)


@dataclass
class _Drawn:
    """Groups of samples while their files take them: the engine draws a question's samples together."""

    num_samples: int
    waiting: dict[tuple[int, str], Completion] = field(default_factory=dict)

    def take(
        self, index: int, policy: Any, questions: Sequence[Question], template: Template, sampling: Sampling
    ) -> list[tuple[Completion, ...]]:
        missing = [q for q in questions if (index, q.id) not in self.waiting]
        if missing:
            self._draw(policy, missing, template, sampling, index)
        return [(self.waiting.pop((index, q.id)),) for q in questions]

    def _draw(
        self, policy: Any, questions: Sequence[Question], template: Template, sampling: Sampling, first: int
    ) -> None:
        groups = engine_complete(policy, questions, template, sampling, group_size=self.num_samples)
        for question, group in zip(questions, groups, strict=True):
            self.waiting |= {(i, question.id): one for i, one in enumerate(group) if i >= first}


def _draw(main: MainPass, num_samples: int, temperature: float) -> list[tuple[Prediction, ...]]:
    """One ordinary predictions file per sample, read by the main pass's rule where that reads text."""
    drawn = _Drawn(num_samples)
    scorer = main.header.scorer if main.header.scorer in READERS else DEFAULT_SCORER
    sampling = dataclasses.replace(main.sampling, temperature=temperature)

    def complete_of(index: int) -> Any:
        return lambda *asked: drawn.take(index, *asked)

    asks = [
        main.variant(
            SAMPLE_VARIANT.format(index + 1),
            main.questions,
            sampling=sampling,
            scorer=scorer,
            complete=complete_of(index),
        )
        for index in range(num_samples)
    ]
    return main.answer(asks)
