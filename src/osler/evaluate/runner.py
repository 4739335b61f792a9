"""Ask a policy every question once, and keep each answer on disk as soon as it is there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from osler.answers import outcome_of
from osler.data.images import image_digest
from osler.data.permutation import draw_key
from osler.data.views import View
from osler.errors import BadInput
from osler.evaluate.batches import next_batch
from osler.evaluate.predictions import Header, PredictionWriter, question_digest, read_predictions
from osler.evaluate.replies import AnsweringModel, Complete, EngineModel, Reply, read_again
from osler.evaluate.scoring import DEFAULT_SCORER, READERS, scored_name
from osler.prompts import Template
from osler.records import Modality, Prediction, Question, QuestionType
from osler.rollout.sampling import Sampling

log = logging.getLogger(__name__)

# A fixed question whose prompt stands for a template's wording in the file header.
_PROBE = Question(id="probe", text="Which letter comes first?", choices=("A", "B"), answer_index=0)


def make_header(
    *,
    name: str,
    data: str,
    model: str,
    model_digest: str,
    template: Template,
    settings: dict[str, Any],
    scorer: str = DEFAULT_SCORER,
) -> Header:
    """Header of one predictions file. `settings` hold whatever changes an answer: sampling, pixel bounds."""
    wording = template.user_text(_PROBE)
    return Header(
        name=scored_name(name, scorer),
        data=data,
        model=model,
        model_digest=model_digest,
        template=template.name,
        prompt_digest=hashlib.sha256(wording.encode()).hexdigest()[:16],
        scorer=scorer,
        settings=settings,
    )


LIMIT_PER: dict[str, Callable[[Question], str]] = {
    "modality": lambda q: q.modality.value,
    "question_type": lambda q: q.question_type.value,
}


def only_these(questions: Sequence[Question], values: Sequence[str]) -> tuple[Question, ...]:
    """The questions of the named modalities or question types; all of them where none is named.

    Raises BadInput for a value that is neither, and where no question is left.
    """
    known = [m.value for m in Modality] + [t.value for t in QuestionType]
    if unknown := [value for value in values if value not in known]:
        raise BadInput(
            f"--only {unknown[0]}: no modality and no question type; it is one of {', '.join(known)}"
        )
    kept = tuple(q for q in questions if not values or q.modality in values or q.question_type in values)
    if not kept:
        raise BadInput(f"--only {','.join(values)}: none of {len(questions):,} questions is left")
    return kept


def choose_questions(
    questions: Sequence[Question], limit: int | None, seed: int = 0, per: str | None = None
) -> tuple[Question, ...]:
    """A fixed random `limit` of the questions, in their own order; a larger limit contains a smaller one.

    With `per` ("modality" or "question_type"), `limit` of each. Files list their questions by source, so
    the first N would be one source only. Raises BadInput for a limit below 1 or an unknown `per`.
    """
    if per is not None and (limit is None or per not in LIMIT_PER):
        raise BadInput(f"--limit-per {per}: goes with --limit N and is one of {', '.join(LIMIT_PER)}")
    if limit is None:
        return tuple(questions)
    if limit < 1:
        raise BadInput(f"--limit {limit}: must be at least 1")

    taken: Counter[str] = Counter()
    chosen = set()
    for question in sorted(questions, key=lambda q: draw_key(q.id, seed)):
        group = "" if per is None else LIMIT_PER[per](question)
        if taken[group] < limit:
            taken[group] += 1
            chosen.add(question.id)
    return tuple(q for q in questions if q.id in chosen)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One predictions file to be filled: the questions, and how they are asked."""

    name: str  # of the test set
    questions: Sequence[Question]
    template: Template
    sampling: Sampling
    out_dir: Path  # holds predictions/ and questions/
    scorer: str = DEFAULT_SCORER
    settings: Mapping[str, Any] = field(default_factory=dict)  # recorded beside `sampling`
    complete: Complete | None = None  # by which a policy of ours completes, where not in the usual way
    view: View | None = None  # what is shown instead of each image
    letters: bool = False  # compare the choices' letters too, whatever the scorer reads

    @property
    def way(self) -> tuple[Any, ...]:
        """Equal where two asks differ in their questions and files alone."""
        return self.template, self.sampling, self.scorer, self.complete, self.view, self.letters

    def asked_of(self, answering: AnsweringModel) -> AnsweringModel:
        """Who answers. Raises BadInput where only a policy of ours could answer in this way."""
        if self.view is not None:
            answering = answering.seeing(self.view)
        if isinstance(answering, EngineModel):
            complete = self.complete or answering.complete
            return replace(answering, complete=complete, letters=self.letters)
        if self.complete is not None or self.letters or self.scorer not in READERS:
            how = self.settings.get("variant", f"--scorer {self.scorer}")
            raise BadInput(f"{how}: needs to look inside the model, which only a local one of ours allows")
        return answering


def evaluate(
    answering: AnsweringModel,
    questions: Sequence[Question],
    template: Template,
    out_dir: str | Path,
    name: str,
    sampling: Sampling,
    *,
    settings: dict[str, Any] | None = None,
    limit: int | None = None,
    scorer: str = DEFAULT_SCORER,
    **how: Any,
) -> tuple[Prediction, ...]:
    """One answer per question, in the order of `questions`: `answer_all` for one predictions file."""
    ask = Ask(
        name=name,
        questions=choose_questions(questions, limit),
        template=template,
        sampling=sampling,
        out_dir=Path(out_dir),
        scorer=scorer,
        settings=settings or {},
    )
    return answer_all(answering, [ask], **how)[0]


def answer_all(
    answering: AnsweringModel,
    asks: Sequence[Ask],
    *,
    model: str,
    model_digest: str,
    data: str = "",
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = log.warning,
) -> list[tuple[Prediction, ...]]:
    """One answer per question of every ask, in order; `predictions/<name>.jsonl` grows as it goes.

    Several asks take turns, a batch each, so that what they share (an image) is met again while it is
    still at hand. Those that a policy of ours answers in the same way share their batches, the variants of
    a question side by side, so that the common beginning of their prompts is computed once; `batch_size` is
    the number of questions in a batch, whichever ask they belong to.

    Answers already in a file are kept and not asked again, provided that they came from the same model
    digest, template and settings and that the question is unchanged. A question whose image cannot be read
    gives a Prediction with `error`; it is asked again on the next call. A `scorer` other than ours
    (`osler.evaluate.scoring`) adds its name to the file's, and reads the completions that another scorer's
    file holds. `progress(done, total)` is called at the start and after every batch, over all asks.
    `questions/<name>.jsonl` gets what the pages show of the questions.

    Raises BadInput for duplicate ids, for a file that answers other questions or another model, and for
    a `name` that is no plain file name; before anything is asked.
    """
    for ask in asks:
        _check(ask.questions, ask.name)
        ask.asked_of(answering)
    total = sum(len(ask.questions) for ask in asks)
    with ExitStack() as stack:
        files = []
        for ask in asks:
            header = make_header(
                name=ask.name,
                data=data,
                model=model,
                model_digest=model_digest,
                template=ask.template,
                settings={**dataclasses.asdict(ask.sampling), **ask.settings},
                scorer=ask.scorer,
            )
            path = ask.out_dir / "predictions" / f"{header.name}.jsonl"
            files.append(_File(ask, header, stack.enter_context(PredictionWriter(path, header, note)), note))
        progress(sum(len(file.done) for file in files), total)
        together = _asked_together(files, answering)
        while any(file.waiting for file in files):
            for some in together:
                for _ in _answer_some(some, answering, batch_size):
                    progress(sum(len(f.done) for f in files), total)
        return [tuple(file.done[q.id] for q in file.ask.questions) for file in files]


class _File:
    """One predictions file while it is being filled."""

    def __init__(
        self, ask: Ask, header: Header, writer: PredictionWriter, note: Callable[[str], None]
    ) -> None:
        self.ask, self.writer = ask, writer
        self.done = _already_answered(writer, ask.questions)
        _write_questions(ask.out_dir / "questions" / f"{header.name}.jsonl", ask.questions)
        if self.done:
            note(f"{_told(header)}: {len(self.done)} of {len(ask.questions)} questions were already answered")
        missing = [q for q in ask.questions if q.id not in self.done]
        again = _read_again(writer.path, ask.name, header, missing, ask.template)
        if again:
            note(f"{_told(header)}: {len(again)} completions are read again; the model is not asked")
        writer.append(again)
        self.done.update({p.question_id: p for p, _ in again})
        self.waiting = deque(q for q in missing if q.id not in self.done)

    def write(self, answers: Sequence[tuple[Question, Prediction]]) -> None:
        self.writer.append((a, question_digest(q, a.image_digest)) for q, a in answers)
        self.done.update({q.id: a for q, a in answers})


def _asked_together(files: Sequence[_File], answering: AnsweringModel) -> list[list[_File]]:
    """Files whose questions may stand in one batch. Who completes in a way of its own stays alone."""
    groups: list[list[_File]] = []
    if not isinstance(answering, EngineModel):
        return [[file] for file in files]
    for file in files:
        for group in groups:
            if file.ask.complete is None and file.ask.way == group[0].ask.way:
                group.append(file)
                break
        else:
            groups.append([file])
    return groups


def _answer_some(files: Sequence[_File], answering: AnsweringModel, count: int) -> Iterator[None]:
    """Ask the next `count` questions; comes back each time that answers have been written down."""
    batch = next_batch([file.waiting for file in files], count)
    if not batch:
        return
    owners: dict[str, deque[_File]] = defaultdict(deque)  # by question id, in the order asked
    for which, question in batch:
        owners[question.id].append(files[which])
    ask = files[0].ask
    replies = ask.asked_of(answering).replies(
        [question for _, question in batch], ask.template, ask.sampling, ask.scorer
    )
    for some in replies:
        answers: dict[_File, list[tuple[Question, Prediction]]] = defaultdict(list)
        for question, reply in some:
            answers[owners[question.id].popleft()].append((question, _predict(question, reply)))
        for file, found in answers.items():
            file.write(found)
        yield


def _told(header: Header) -> str:
    """The test set in a message, with the variant where there is one."""
    variant = header.settings.get("variant")
    return f"{header.name}, {variant}" if variant else header.name


def _check(questions: Sequence[Question], name: str) -> None:
    if not questions:
        raise BadInput(f"{name}: no questions to ask; check the data and the filters")
    if not name or name != Path(name).name or name.startswith("."):
        raise BadInput(f"{name!r}: a test set's name becomes a file name; use letters, digits, - and _")
    counts: set[str] = set()
    for question in questions:
        if question.id in counts:
            raise BadInput(
                f"question id {question.id!r} ({question.source}) occurs twice; ids must be unique"
            )
        counts.add(question.id)


def _image_digest(question: Question) -> str:
    """Of the question's images; "" where one cannot be read."""
    try:
        return image_digest(question.images)
    except BadInput:
        return ""


def _already_answered(writer: PredictionWriter, questions: Sequence[Question]) -> dict[str, Prediction]:
    if writer.stored is None:
        return {}
    asked = {q.id: q for q in questions}
    answered: dict[str, Prediction] = {}
    for prediction in writer.stored.predictions:
        question = asked.get(prediction.question_id)
        if question is None:
            raise BadInput(
                f"{writer.path}: holds an answer to {prediction.question_id!r}, which is not among the "
                f"{len(asked)} questions asked now; use another --out, or the same data"
            )
        if prediction.error:
            continue
        if writer.stored.question_digests[question.id] != _digest_now(question):
            raise BadInput(
                f"{writer.path}: question {question.id!r} has changed since it was answered (text, choices "
                f"or image); use another --out, or delete the file"
            )
        answered[question.id] = prediction
    return answered


def _read_again(
    path: Path, name: str, header: Header, questions: Sequence[Question], template: Template
) -> list[tuple[Prediction, str]]:
    """(prediction, question digest) of what this model was asked already under another scorer of text."""
    read = READERS.get(header.scorer)
    if read is None:
        return []
    asked = {q.id: q for q in questions}
    for other in (path.with_name(f"{scored_name(name, scorer)}.jsonl") for scorer in READERS):
        if other == path or not other.is_file():
            continue
        stored = read_predictions(other)
        if not header.asks_like(stored.header):
            continue
        kept = [p for p in stored.predictions if p.question_id in asked and not p.error]
        digests = [_digest_now(asked[p.question_id]) for p in kept]
        return [
            (read_again(p, asked[p.question_id], read, template), digest)
            for p, digest in zip(kept, digests, strict=True)
            if stored.question_digests[p.question_id] == digest
        ]
    return []


def _digest_now(question: Question) -> str:
    return question_digest(question, _image_digest(question))


def _predict(question: Question, reply: Reply) -> Prediction:
    completion = reply.completion
    text = "" if completion is None else completion.text
    truncated = completion is not None and completion.truncated
    refused = completion is not None and completion.refused
    outcome = None
    if not reply.error:
        outcome = outcome_of(reply.extraction, question.answer_index, truncated, text, refused)
    counted = None if completion is None else completion.counted
    return Prediction(
        question_id=question.id,
        text=text,
        extraction=reply.extraction,
        outcome=outcome,
        answer_index=question.answer_index,
        num_choices=len(question.choices),
        image_digest=_image_digest(question),
        modality=question.modality,
        question_type=question.question_type,
        dataset=question.dataset,
        subject_id=question.subject_id,
        truncated=truncated,
        num_tokens=0 if completion is None else completion.num_tokens,
        num_prompt_tokens=0 if counted is None else counted.prompt,
        choice_logprobs=reply.choice_logprobs,
        error=reply.error,
    )


def _write_questions(path: Path, questions: Sequence[Question]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for q in questions:
            row = {"id": q.id, "text": q.text, "choices": q.choices, "images": q.images}
            file.write(json.dumps(row) + "\n")
    os.replace(partial, path)
