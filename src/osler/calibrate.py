"""`osler calibrate`: from an evaluation of validation questions to the calibration of its model.

No model is asked. The answers and the probabilities behind them lie in the run folder; whether the questions
are fit for it is looked up where it can be known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from osler.data.images import image_digest
from osler.errors import BadInput
from osler.evaluate.calibrated import Calibration, fit_calibration, write_calibration
from osler.evaluate.confidence import Reading, read_distribution, stated_answers
from osler.evaluate.confidence_pass import UNCALIBRATED
from osler.evaluate.predictions import QuestionText, StoredPredictions, read_predictions, read_questions
from osler.evaluate.printed import percent, percent_range, printable
from osler.evaluate.recorded_confidence import CHOICES_VARIANT
from osler.evaluate.scoring import LETTER_LOGPROB
from osler.evaluate.trained import how_trained
from osler.policy.load import checkpoint_folder, model_digest
from osler.records import Question
from osler.train.run import training_questions

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What came of one fit; before and after are on the questions it was fitted on."""

    calibration: Calibration
    before: Reading
    after: Reading
    written: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self.calibration)
        del values["question_digests"]
        return {
            **values,
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "written": [str(path) for path in self.written],
        }


def calibrate_run(
    run: Path, test_set: str | None, method: str, risk: float | None, note: Note = lambda text: None
) -> Calibrated:
    """Fit on one test set of an evaluation run; write `calibration.json` there and into the model's folder.

    Raises BadInput where the run has no probabilities, its questions are training questions of the model, or
    nothing can be fitted.
    """
    stored, logprobs = _answers(run, test_set)
    header = stored.header
    _refuse_training_questions(run, stored, note)
    stated = stated_answers(stored.predictions, logprobs)
    calibration = fit_calibration(
        stated,
        method,
        risk,
        data=header.data,
        question_digests=list(stored.question_digests.values()),
        identity=header.identity,
    )
    after = calibration.apply(stated.logprobs_mK, stated.stated.tolist())
    return Calibrated(
        calibration=calibration,
        before=read_distribution(stated, stated.logprobs_mK, UNCALIBRATED),
        after=read_distribution(stated, after, f"calibrated, {method}"),
        written=tuple(write_calibration(folder, calibration) for folder in _folders(run, header, note)),
    )


def _answers(
    run: Path, test_set: str | None
) -> tuple[StoredPredictions, dict[str, tuple[float, ...] | None]]:
    """The answers of one test set, and question id -> log-probabilities behind them."""
    files = {path.stem: path for path in sorted((run / "predictions").glob("*.jsonl"))}
    if not files:
        raise BadInput(f"{run}: no predictions; give the run folder of an osler evaluate --confidence")
    if test_set is None and len(files) > 1:
        raise BadInput(f"{run}: holds several test sets; --test-set says which: {', '.join(files)}")
    name = test_set or next(iter(files))
    if name not in files:
        raise BadInput(f"{run}: no test set {name}; there are {', '.join(files)}")
    stored = read_predictions(files[name])
    if stored.header.scorer == LETTER_LOGPROB:
        return stored, {p.question_id: p.choice_logprobs for p in stored.predictions}
    behind = run / "variants" / CHOICES_VARIANT / "predictions" / f"{name}.jsonl"
    if not behind.is_file():
        raise BadInput(f"{run}: {name} was evaluated without --confidence; evaluate again with it")
    read = read_predictions(behind)
    missing = len(stored.predictions) - len(read.predictions)
    if missing > 0:
        raise BadInput(f"{behind}: {missing} questions are missing; evaluate again, it goes on from there")
    return stored, {p.question_id: p.choice_logprobs for p in read.predictions}


def _refuse_training_questions(run: Path, stored: StoredPredictions, note: Note) -> None:
    """Raise BadInput where the model's own run trained on a question here; say what could not be checked."""
    model, name = stored.header.model, stored.header.name
    try:
        how = how_trained(model)
        trained_on = () if how.config is None else training_questions(how.config.data)
        asked = read_questions(run / "questions" / f"{name}.jsonl")
    except (BadInput, OSError) as error:
        note(f"whether these are training questions was not checked: {error}")
        return
    if how.config is None:
        note(f"{model}: what it was trained on is not known here; calibrate on questions it has not seen")
        return
    digests = {p.question_id: p.image_digest for p in stored.predictions}
    seen = {_shown(q, image_digest(q.images)) for q in trained_on}
    same = sum(_shown(q, digests.get(q.id, "")) in seen for q in asked.values())
    if same:
        raise BadInput(
            f"{stored.header.data}: {same} of {len(asked)} questions are training questions of {model}; "
            "it is surer of those than of new ones, calibrate on held-out questions"
        )
    images = {digest for *_, digest in seen if digest}
    shared = sum(digest in images for digest in digests.values())
    if shared:
        note(f"{shared} of {len(asked)} questions show an image that the model was trained on")


def _shown(question: Question | QuestionText, digest: str) -> tuple[str, tuple[str, ...], str]:
    return question.text, tuple(sorted(question.choices)), digest


def _folders(run: Path, header: Any, note: Note) -> Sequence[Path]:
    """The run, and the model's own folder where it is one of the user's."""
    if not Path(header.model).is_dir():
        note(f"{header.model} has no folder of yours: name this run with --calibration {run}")
        return [run]
    folder = checkpoint_folder(header.model)
    if model_digest(folder) != header.model_digest:
        note(f"{folder} holds other weights than were evaluated; name this run with --calibration {run}")
        return [run]
    return [run, folder]


def print_calibrated(made: Calibrated, console: Console) -> None:
    """Say what was fitted, what it does on the questions it was fitted on, and where it abstains."""
    one = made.calibration
    said = [f"{one.says} ({one.num_with} with a confidence).", *_effect(made)]
    if one.threshold is not None:
        wanted = f"Risk of at most {percent(one.threshold.wanted_risk)} %"
        if one.threshold.least_confidence is None:
            said.append(f"{wanted}: not shown at any coverage; the model abstains from every question.")
        else:
            said.append(
                f"{wanted}: answers from a confidence of {percent(one.threshold.least_confidence)} % on; "
                f"here that is {percent(one.threshold.coverage)} % of the questions with a risk of "
                f"{percent(one.threshold.risk)} %, upper bound {percent(one.threshold.upper_bound)} %."
            )
        said.append(f"Guarantee: {one.threshold.guarantee}.")
    said += [f"Written: {path}" for path in made.written]
    for line in said:
        console.print(escape(printable(line)), highlight=False)


def _effect(made: Calibrated) -> list[str]:
    lines = []
    for word, reading in (("before", made.before), ("after", made.after)):
        error = reading.error_refused
        if reading.error is not None:
            error = f"{percent(reading.error.value)} % ({percent_range(reading.error.interval)})"
        lines.append(f"On these questions {word}: log loss {reading.log_loss:.3f}, ECE {error}.")
    return lines
