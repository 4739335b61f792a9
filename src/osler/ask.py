"""One image, one question: what the model thinks, what it answers, and how its options compare.

The option probabilities are read where the model wrote its answer. Where a calibration is stored with the
model and fits the way it is asked, they are calibrated, the answer has a confidence, and below the
calibration's threshold there is no answer. Otherwise they are the model's own, which nobody has checked
against outcomes, and they are never called a confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from osler.answers import extract_answer, outcome_of
from osler.data.images import open_image
from osler.errors import BadInput
from osler.evaluate.calibrated import Calibration, read_calibration
from osler.evaluate.calibration import padded
from osler.evaluate.confidence_pass import stored_calibration
from osler.evaluate.printed import percent, printable
from osler.evaluate.runner import make_header
from osler.evaluate.trained import how_trained
from osler.policy.load import Policy, checkpoint_folder, load_policy, model_digest
from osler.prompts import Template, get_template, thinking_spans
from osler.records import LETTERS, Completion, Question
from osler.rollout.choices import choice_logprobs
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling

RESEARCH_USE = "For research only, not a medical device. The thinking need not be the reason for the answer."
UNCALIBRATED = "The model's own probabilities of the letters; not calibrated, not a measure of being right."
ABSTAINED = "abstained"
_HOW_NONE = "no answer could be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one question.

    >>> Answer(question="Which organ?", choices=("Liver", "Lung"), template="nothink",
    ...        text="<answer>B</answer>", thinking="", letter="B", choice="Lung", how="exact",
    ...        status="answered", truncated=False, option_probabilities=(0.2, 0.8)).choice
    'Lung'
    """

    question: str
    choices: tuple[str, ...]
    template: str
    text: str  # the whole completion
    thinking: str  # what stands inside the think tags, "" without any
    letter: str | None  # None where nothing could be read
    choice: str | None
    how: str  # Extraction.how
    status: str  # "answered", "unparsed", "truncated", "refused" or "abstained"
    truncated: bool  # the completion hit the token limit
    option_probabilities: tuple[float, ...] | None  # one per choice, sum 1; None where no answer was begun
    calibration: str = ""  # what the probabilities were calibrated with, "" where they are the model's own
    not_calibrated_because: str = ""  # where a calibration is there and does not fit
    confidence: float | None = None  # calibrated probability of the stated choice
    abstained_because: str = ""  # why there is no answer although one was read
    withheld_letter: str | None = None  # the answer that was read, where it is withheld

    @property
    def probabilities_are(self) -> str:
        if self.calibration:
            return f"Calibrated: {self.calibration}."
        because = f" ({self.not_calibrated_because})" if self.not_calibrated_because else ""
        return f"{UNCALIBRATED}{because}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with what they must not be taken for."""
        abstained = self.status == ABSTAINED
        said = {"abstained": abstained, "probabilities_are": self.probabilities_are}
        return {**asdict(self), **said, "use": RESEARCH_USE}


def parse_choices(text: str) -> tuple[str, ...]:
    """The choices of the command line: "kidney; liver; spleen". Raises BadInput.

    >>> parse_choices("kidney; liver;spleen")
    ('kidney', 'liver', 'spleen')
    """
    choices = tuple(part.strip() for part in text.split(";"))
    if choices[-1:] == ("",):
        choices = choices[:-1]
    if not 2 <= len(choices) <= len(LETTERS):
        raise BadInput(f'--choices {text!r}: {len(choices)} choices; give 2 to {len(LETTERS)} as "a; b; c"')
    if "" in choices:
        raise BadInput(f"--choices {text!r}: choice {choices.index('') + 1} is empty")
    if len(set(choices)) < len(choices):
        twice = next(c for c in choices if choices.count(c) > 1)
        raise BadInput(f"--choices {text!r}: {twice!r} is given twice")
    return choices


def ask(
    policy: Policy,
    image: str,
    question: str,
    choices: Sequence[str],
    template: Template,
    sampling: Sampling | None = None,
    calibration: Calibration | None = None,
) -> Answer:
    """Ask one question about one image file. Raises BadInput where image or question cannot be used.

    `calibration` has to fit model, template and settings: `ask_model` sees to it.
    """
    if not question.strip():
        raise BadInput("the question is empty")
    open_image(image)
    # The right answer is not known; index 0 only fills the record and is never looked at.
    record = Question(id="ask", text=question, choices=tuple(choices), answer_index=0, images=(image,))
    ((completion,),) = complete(policy, [record], template, sampling or Sampling())
    (logprobs,) = choice_logprobs(policy, [record], template, [completion])
    answer = read_answer(record, template, completion, logprobs)
    return answer if calibration is None else with_calibration(answer, logprobs, calibration)


def ask_model(
    model: str,
    image: str,
    question: str,
    choices: str,
    template: str | None,
    max_completion_tokens: int | None,
    calibration: Path | None = None,
) -> Answer:
    """Load a model and ask it once, as it was trained; `choices` as on the command line.

    `calibration` names one that does not lie with the model. One that does not fit is not used, and the
    answer says so.
    """
    options = parse_choices(choices)
    open_image(image)
    how = how_trained(model)
    form = get_template(template or how.template)
    settings: dict[str, Any] = {
        "min_pixels": how.min_pixels,
        "max_pixels": how.max_pixels,
        "precision": how.precision,
    }
    policy = load_policy(model, **settings)
    policy.keep_features()
    sampling = Sampling(max_completion_tokens or how.max_completion_tokens)
    stored = stored_calibration(model) if calibration is None else read_calibration(calibration)
    misfit = ""
    if stored is not None:
        header = make_header(
            name="ask",
            data="",
            model=model,
            model_digest=model_digest(checkpoint_folder(model)),
            template=form,
            settings={**asdict(sampling), **settings},
        )
        misfit = stored.misfit(header.identity)
    answer = ask(policy, image, question, options, form, sampling, None if misfit else stored)
    return replace(answer, not_calibrated_because=misfit)


def with_calibration(answer: Answer, logprobs: Sequence[float] | None, calibration: Calibration) -> Answer:
    """The answer with calibrated probabilities, or withheld where its confidence is below the threshold.

    Without a stated choice or without probabilities there is no confidence, and nothing changes.
    """
    if answer.letter is None or logprobs is None:
        return answer
    index = LETTERS.index(answer.letter)
    (shares,) = calibration.apply(padded([logprobs]), [index])
    confidence = exp(shares[index])
    answer = replace(
        answer,
        option_probabilities=tuple(exp(value) for value in shares),
        calibration=calibration.says,
        confidence=confidence,
    )
    threshold = calibration.threshold
    if threshold is None:
        return answer
    least = math.inf if threshold.least_confidence is None else threshold.least_confidence
    if confidence >= least:
        return answer
    wanted = f"a risk of at most {percent(threshold.wanted_risk)} %"
    reason = (
        f"no confidence was shown to keep {wanted}"
        if threshold.least_confidence is None
        else f"{percent(confidence)} % is below {percent(least)} %, the least for {wanted}"
    )
    return replace(
        answer,
        status=ABSTAINED,
        letter=None,
        choice=None,
        abstained_because=reason,
        withheld_letter=answer.letter,
    )


def read_answer(
    question: Question, template: Template, completion: Completion, logprobs: Sequence[float] | None
) -> Answer:
    """The answer record of a completion; `logprobs` [num_choices] in nats, or None."""
    extraction = extract_answer(completion.text, question.choices)
    index = extraction.index
    status = "answered"
    if index is None:
        status = outcome_of(extraction, question.answer_index, completion.truncated, completion.text).value
    return Answer(
        question=question.text,
        choices=question.choices,
        template=template.name,
        text=completion.text,
        thinking=_thinking(completion.text),
        letter=None if index is None else LETTERS[index],
        choice=None if index is None else question.choices[index],
        how=extraction.how,
        status=status,
        truncated=completion.truncated,
        option_probabilities=None if logprobs is None else tuple(exp(value) for value in logprobs),
    )


def _thinking(text: str) -> str:
    parts = []
    for start, end in thinking_spans(text):
        inner = text[start:end]
        for tag in ("<think>", "</think>"):
            inner = inner.replace(tag, "")
        parts.append(inner.strip())
    return "\n".join(part for part in parts if part)


def print_answer(answer: Answer, console: Console) -> None:
    """Print for a reader: thinking, answer, how it was read, and the options."""

    def say(text: str = "") -> None:
        console.print(text, highlight=False, soft_wrap=False)

    if answer.thinking:
        say("[bold]Thinking[/bold]")
        say(escape(printable(answer.thinking)))
    if answer.letter is not None and answer.choice is not None:
        say(
            f"[bold]Answer[/bold]  {answer.letter}) {escape(printable(answer.choice))}   (read: {answer.how})"
        )
    elif answer.status == ABSTAINED:
        say(f"[bold]Answer[/bold]  not sure enough: {answer.abstained_because}.")
        say(f"The completion reads {answer.withheld_letter}; do not use it as an answer.")
    else:
        say(f"[bold]Answer[/bold]  {_HOW_NONE} ({answer.status}). The completion was:")
        say(escape(printable(answer.text)) if answer.text.strip() else "(nothing but white space)")
    if answer.truncated:
        say("The completion was cut off at the token limit.")
    if answer.option_probabilities is None:
        say("Options: no probabilities, because the completion never began an answer.")
    else:
        say("[bold]Options[/bold]")
        for letter, choice, share in zip(LETTERS, answer.choices, answer.option_probabilities, strict=False):
            say(f"  {letter}) {100 * share:5.1f} %  {escape(printable(choice))}")
        if answer.confidence is not None:
            say(f"  Confidence in the answer that was read: {percent(answer.confidence)} %.")
        say(f"  {escape(printable(answer.probabilities_are))}")
    say(RESEARCH_USE)
