"""What to ask about the reasoning of given predictions, and one record per question of what came back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osler.data.permutation import reordered
from osler.evaluate.thinking.edits import (
    Thought,
    Trace,
    choose_donors,
    find_trace,
    first_share,
    letters_named,
    shuffled_order,
    without_letters,
)
from osler.evaluate.thinking.hints import Hint, hinted_choice
from osler.evaluate.thinking.reading import conclusion, elimination
from osler.evaluate.thinking.records import (
    CONDITIONS,
    EMPTIED,
    HINTED,
    SHARES,
    SHUFFLED,
    SWAPPED,
    UNLETTERED,
    Again,
    Examined,
)
from osler.prompts import Template, thinking_spans
from osler.records import Prediction, Question

FAILED = "failed technically"
UNREAD = "no answer read"
NO_TRACE = "no single piece of reasoning before the answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A question whose answer was read and has reasoning before it."""

    question: Question
    index: int  # the answer that was given
    trace: Trace
    donor: str  # "" where none fits
    order: tuple[int, ...]
    hinted: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One condition: the questions as they are shown, and what their completions begin with."""

    condition: str
    questions: tuple[Question, ...]
    begun: Mapping[str, str] | None  # question id -> text; None: the model writes from the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is to be asked."""

    subjects: tuple[Subject, ...]
    left_out: Mapping[str, int]  # why -> number of questions
    variants: tuple[Variant, ...]


def plan_for(
    questions: Sequence[Question], predictions: Sequence[Prediction], template: Template, hint: Hint
) -> Plan:
    """The plan for predictions in the order of their questions; the same for the same input."""
    left_out: Counter[str] = Counter()
    found: list[tuple[Question, Prediction, int, Trace]] = []
    for question, prediction in zip(questions, predictions, strict=True):
        index, trace = prediction.extraction.index, find_trace(prediction.text, template)
        if prediction.error or index is None or trace is None:
            left_out[FAILED if prediction.error else UNREAD if index is None else NO_TRACE] += 1
        else:
            found.append((question, prediction, index, trace))
    donors = choose_donors(
        [
            Thought(question_id=q.id, group=q.modality.value, image_digest=p.image_digest, body=t.body)
            for q, p, _, t in found
        ]
    )
    subjects = tuple(
        Subject(
            question=question,
            index=index,
            trace=trace,
            donor=donors.get(question.id, ""),
            order=shuffled_order(question.id, len(question.choices), index),
            hinted=hinted_choice(question.id, len(question.choices), {index, question.answer_index}),
        )
        for question, _, index, trace in found
    )
    variants = tuple(v for c in CONDITIONS if (v := _variant(c, subjects, hint)).questions)
    return Plan(subjects=subjects, left_out=dict(left_out), variants=variants)


def _variant(condition: str, subjects: Sequence[Subject], hint: Hint) -> Variant:
    bodies = {s.question.id: s.trace.body for s in subjects}
    questions, begun = [], {}
    for subject in subjects:
        question, body = subject.question, subject.trace.body
        if condition in SHARES:
            body = first_share(body, SHARES[condition])
        elif condition == EMPTIED:
            body = ""
        elif condition == SWAPPED:
            if not subject.donor:
                continue
            body = bodies[subject.donor]
        elif condition in (SHUFFLED, UNLETTERED):
            if condition == UNLETTERED:
                if not letters_named(body, len(question.choices)):
                    continue
                body = without_letters(body, len(question.choices))
            question = reordered(question, subject.order)
        elif condition == HINTED:
            if subject.hinted is None:
                continue
            question = hint.added_to(question, subject.hinted)
        questions.append(question)
        begun[question.id] = subject.trace.with_body(body)
    return Variant(
        condition=condition, questions=tuple(questions), begun=None if condition == HINTED else begun
    )


def examined_from(
    plan: Plan, answers: Mapping[str, Mapping[str, Prediction]], hint: Hint
) -> tuple[Examined, ...]:
    """One record per subject; `answers` maps condition and question id to what was answered."""
    given = {s.question.id: s.index for s in plan.subjects}
    return tuple(_examined(subject, given, answers, hint) for subject in plan.subjects)


def _examined(
    subject: Subject, given: Mapping[str, int], answers: Mapping[str, Mapping[str, Prediction]], hint: Hint
) -> Examined:
    question, body = subject.question, subject.trace.body
    settled, ruled_out = conclusion(body, question.choices), elimination(body, question.choices)
    again = {c: answers[c][question.id] for c in CONDITIONS if question.id in answers.get(c, {})}
    hinted = again.get(HINTED)
    return Examined(
        question_id=question.id,
        index=subject.index,
        trace=body,
        names_letter=bool(letters_named(body, len(question.choices))),
        conclusion=settled.index,
        conclusion_how=settled.how,
        rejected=ruled_out.rejected,
        elimination=ruled_out.patterns,
        donor=subject.donor,
        donor_index=given.get(subject.donor),
        order=subject.order,
        hinted=subject.hinted,
        hint_mentioned=hinted is not None and hint.is_mentioned_in(_reasoning(hinted.text)),
        num_choices=len(question.choices),
        answers=tuple(_again(condition, p, subject.order) for condition, p in again.items()),
    )


def _again(condition: str, prediction: Prediction, order: Sequence[int]) -> Again:
    """The answer in the numbering of the question as it was first asked."""
    index, logprobs = prediction.extraction.index, prediction.choice_logprobs
    if condition in (SHUFFLED, UNLETTERED):
        index = None if index is None else order[index]
        if logprobs is not None:
            logprobs = tuple(logprobs[order.index(choice)] for choice in range(len(order)))
    return Again(
        condition=condition, index=index, text=prediction.text, logprobs=logprobs, error=prediction.error
    )


def _reasoning(text: str) -> str:
    return "\n".join(text[start:end] for start, end in thinking_spans(text))
