"""How sure a model was of each answer, as `--confidence` or `--samples` left it in the run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

from osler.evaluate.predictions import read_predictions
from osler.records import Prediction

CHOICES_VARIANT = "choices"  # probabilities of the choices behind the main pass's completions
SAMPLE_VARIANT = "sample-{}"  # one drawn completion per question, from 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """Question id -> confidence of its answer, 0 to 1, and what that is; questions without one are left out.

    >>> Recorded("agreement of 8 samples", {"q1": 0.875}).by_id["q1"]
    0.875
    """

    source: str  # "" where nothing was recorded
    by_id: Mapping[str, float]


def recorded_confidence(run: Path, name: str, predictions: Sequence[Prediction]) -> Recorded:
    """The probability of the letter that was answered, else the share of samples that answer the same.

    `name` is the predictions file's. Raises BadInput for a file that cannot be read.
    """
    path = _file(run, CHOICES_VARIANT, name)
    if path.is_file():
        return Recorded("probability of the letter, not calibrated", _probabilities(path, predictions))
    numbers = [int(m.group(1)) for p in run.glob("variants/*") if (m := _SAMPLE.fullmatch(p.name))]
    files = [_file(run, SAMPLE_VARIANT.format(number), name) for number in sorted(numbers)]
    samples = [read_predictions(file).predictions for file in files if file.is_file()]
    if not samples:
        return Recorded("", {})
    return Recorded(f"agreement of {len(samples)} samples", _agreement(samples, predictions))


_SAMPLE = re.compile(re.escape(SAMPLE_VARIANT).replace(r"\{\}", r"(\d+)"))


def _file(run: Path, variant: str, name: str) -> Path:
    return run / "variants" / variant / "predictions" / f"{name}.jsonl"


def _probabilities(path: Path, predictions: Sequence[Prediction]) -> dict[str, float]:
    stored = {p.question_id: p for p in read_predictions(path).predictions}
    found = {}
    for p in predictions:
        again, index = stored.get(p.question_id), p.extraction.index
        # The probabilities stand behind one completion; another one's say nothing about this answer.
        if again is None or again.text != p.text or index is None:
            continue
        if again.choice_logprobs is not None:
            found[p.question_id] = exp(again.choice_logprobs[index])
    return found


def _agreement(
    samples: Sequence[Sequence[Prediction]], predictions: Sequence[Prediction]
) -> dict[str, float]:
    drawn = [{p.question_id: p.extraction.index for p in sample} for sample in samples]
    return {
        p.question_id: sum(one[p.question_id] == p.extraction.index for one in drawn) / len(drawn)
        for p in predictions
        if p.extraction.index is not None and all(p.question_id in one for one in drawn)
    }
