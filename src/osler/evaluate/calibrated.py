"""`calibration.json`: how one model's probabilities become confidences, and from where on it answers.

It belongs to one set of weights, one template and one way of asking. Anything else is told apart by name and
not calibrated with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.evaluate.calibration import (
    LEAST_FOR_ECE,
    TEMPERATURES,
    Floats,
    Platt,
    fit_platt,
    fit_temperature,
    log_odds,
    with_platt,
    with_temperature,
)
from osler.evaluate.confidence import Stated
from osler.evaluate.selective import Threshold, choose_threshold

CALIBRATION_FILE = "calibration.json"
METHODS = ("temperature", "platt")
LEAST_TO_FIT = 100  # answers with a confidence; fewer settle neither temperature nor threshold
# Settings that do not change what a probability means.
_NOT_COMPARED = ("settings.seed", "settings.max_completion_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted calibration, as stored.

    >>> Calibration(method="temperature", temperature=2.0, platt=None, n=400, num_with=396,
    ...             data="ph/validation", question_digests=(), identity={}, threshold=None).says
    'temperature 2, fitted on 400 questions of ph/validation'
    """

    method: str  # one of METHODS
    temperature: float | None
    platt: Platt | None
    n: int  # validation questions
    num_with: int  # of them, those with a confidence: what it was fitted on
    data: str  # where they came from, as the user wrote it
    question_digests: tuple[str, ...]  # of the validation questions, to know them again
    identity: Mapping[str, Any]  # model digest, template, prompt, scorer, settings: `Header.identity`
    threshold: Threshold | None  # None where no risk was asked for

    @property
    def says(self) -> str:
        if self.platt is not None:
            fitted = f"Platt scaling (slope {self.platt.slope:.3g}, offset {self.platt.offset:.3g})"
        else:
            fitted = f"temperature {self.temperature:.3g}"
        return f"{fitted}, fitted on {self.n} questions of {self.data}"

    def apply(self, logprobs_mK: Floats, stated: Sequence[int]) -> Floats:
        """Calibrated log-probabilities [m, K] of distributions and their stated choices."""
        if self.platt is not None:
            return with_platt(logprobs_mK, stated, self.platt)
        assert self.temperature is not None
        return with_temperature(logprobs_mK, self.temperature)

    def misfit(self, identity: Mapping[str, Any]) -> str:
        """Why it says nothing about answers with this `Header.identity`; "" where it fits."""
        for key in {**self.identity, **identity}:
            ours, theirs = self.identity.get(key), identity.get(key)
            if key not in _NOT_COMPARED and ours != theirs:
                name = key.removeprefix("settings.").replace("_", " ")
                return f"the calibration was fitted with {name} {ours!r}, asked is {theirs!r}"
        return ""


def fit_calibration(
    stated: Stated,
    method: str,
    risk: float | None,
    *,
    data: str,
    question_digests: Sequence[str],
    identity: Mapping[str, Any],
) -> Calibration:
    """Fit on validation answers, and choose the threshold for a wanted risk on the same.

    One or two parameters on hundreds of answers leave the threshold's guarantee all but untouched. Raises
    BadInput for too few answers, an unknown method, a risk outside 0 to 1, answers all right or all wrong, or
    probabilities that say nothing about them.
    """
    if method not in METHODS:
        raise BadInput(f"--method {method}: known are {', '.join(METHODS)}")
    if risk is not None and not 0 < risk < 1:
        raise BadInput(f"--risk {risk:g}: a fraction between 0 and 1 is needed, 0.1 for 10 %")
    num_with = len(stated.stated)
    if num_with < LEAST_TO_FIT:
        raise BadInput(
            f"{data}: {num_with} answers with a confidence; at least {LEAST_TO_FIT} are needed to calibrate, "
            f"and {LEAST_FOR_ECE} to say how well"
        )
    hits = stated.correct[stated.has]
    if hits.min() == hits.max():
        word = "right" if hits.min() else "wrong"
        raise BadInput(f"{data}: every answer is {word}; that says nothing about which to trust")
    temperature = platt = None
    if method == "platt":
        platt = fit_platt(log_odds(stated.logprobs_mK, stated.stated), hits)
        if platt.slope <= 0:
            raise BadInput(
                f"{data}: the surer the model, the less often it is right (slope {platt.slope:.3g}); its "
                "probabilities cannot be made a confidence"
            )
    else:
        temperature = fit_temperature(stated.logprobs_mK, stated.answers)
        if temperature > 0.99 * TEMPERATURES[1]:
            raise BadInput(f"{data}: the probabilities say nothing about the answers (no temperature fits)")
    fitted = Calibration(
        method=method,
        temperature=temperature,
        platt=platt,
        n=len(stated.correct),
        num_with=num_with,
        data=data,
        question_digests=tuple(sorted(question_digests)),
        identity=dict(identity),
        threshold=None,
    )
    if risk is None:
        return fitted
    confidence = stated.confidence(fitted.apply(stated.logprobs_mK, stated.stated.tolist()))
    chosen = choose_threshold(confidence, stated.correct, stated.clusters, risk)
    return dataclasses.replace(fitted, threshold=chosen)


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write `calibration.json` into a folder; it appears whole."""
    path = folder / CALIBRATION_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(dataclasses.asdict(calibration), indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def read_calibration(path: Path) -> Calibration:
    """Read a calibration, or the one in a folder. Raises BadInput where there is none or it is damaged."""
    file = path / CALIBRATION_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"{file}: cannot read a calibration: {error.strerror}; osler calibrate makes one"
        ) from error
    except ValueError as error:
        raise BadInput(f"{file}: not JSON: {error}") from error
    try:
        platt, threshold = values["platt"], values["threshold"]
        made = Calibration(
            **{
                **values,
                "platt": None if platt is None else Platt(float(platt["slope"]), float(platt["offset"])),
                "threshold": None if threshold is None else Threshold(**threshold),
                "question_digests": tuple(values["question_digests"]),
            }
        )
        if (made.platt is None) == (made.temperature is None) or not (made.temperature or 1.0) > 0:
            raise ValueError("a temperature above 0 or Platt's two numbers are needed")
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file}: not a calibration this version can read ({error!r})") from error
    return made
