"""The predictions file: one JSON line that says what was asked of which model, then one line per question.

    {"header": {"name": "mri", "model_digest": "9c1f...", "template": "think", ...}}
    {"question_id": "q1", "text": "<answer>B</answer>", "extraction": {...}, "outcome": "correct", ...}

Append-only. A writer that was killed can leave half a line at the end; the reader drops that line and
says so. A broken line anywhere else is damage, and an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from osler.errors import BadInput
from osler.evaluate.scoring import DEFAULT_SCORER
from osler.records import LETTERS, Extraction, Modality, Outcome, Prediction, Question, QuestionType


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What every line of one predictions file has in common.

    >>> Header(name="mri", data="omnimedvqa/test", model="phantom-base", model_digest="9c1f",
    ...        template="think", prompt_digest="77ab", settings={"temperature": 0.0}).identity["template"]
    'think'
    """

    name: str  # of the test set; the file is predictions/<name>.jsonl
    data: str  # where the questions came from, as the user wrote it
    model: str  # checkpoint folder or hub id, as the user wrote it
    model_digest: str  # of the weights
    template: str
    prompt_digest: str  # of the template's wording, which may change between versions
    scorer: str = DEFAULT_SCORER  # the rule that read the answers
    settings: Mapping[str, Any] = field(default_factory=dict)  # sampling, pixel bounds, precision

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must share for their answers to belong into one file, as plain JSON values."""
        values = {
            "model_digest": self.model_digest,
            "template": self.template,
            "prompt_digest": self.prompt_digest,
            "scorer": self.scorer,
            **{f"settings.{key}": value for key, value in self.settings.items()},
        }
        return dict(json.loads(json.dumps(values)))

    def asks_like(self, other: Header) -> bool:
        """Whether both files hold answers of the same model to the same prompts, whoever scored them."""
        return self.identity | {"scorer": ""} == other.identity | {"scorer": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPredictions:
    """A predictions file as read back."""

    header: Header
    predictions: tuple[Prediction, ...]  # one per question id, in the order they were first written
    question_digests: Mapping[str, str]  # question id -> `question_digest` at the time of asking
    line_numbers: Mapping[str, int]  # question id -> where its answer stands in the file, from 1
    num_bytes: int  # length of the intact part of the file
    torn: bool  # whether half a line was dropped from the end


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionText:
    """What the pages show of a question; one line of `questions/<name>.jsonl`."""

    id: str
    text: str
    choices: tuple[str, ...]
    images: tuple[str, ...]  # paths as they were when the question was asked


def read_questions(path: str | Path) -> dict[str, QuestionText]:
    """Question id -> text, of the file beside the predictions. Raises BadInput naming a damaged line."""
    found = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
            question = QuestionText(
                id=str(row["id"]),
                text=str(row["text"]),
                choices=tuple(map(str, row["choices"])),
                images=tuple(map(str, row["images"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}:{number}: not a question ({error!r})") from error
        if len(question.choices) > len(LETTERS):
            raise BadInput(f"{path}:{number}: more than {len(LETTERS)} choices")
        found[question.id] = question
    return found


def question_digest(question: Question, image_digest: str) -> str:
    """SHA-256 (first 16 hex digits) of everything a model is shown, and of the right answer."""
    shown = json.dumps([question.text, question.choices, question.answer_index, image_digest])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """Plain JSON values; `prediction_from_json` is the inverse."""
    return asdict(prediction)


def prediction_from_json(row: Mapping[str, Any]) -> Prediction:
    """Inverse of `prediction_to_json`. Raises KeyError, TypeError or ValueError for a foreign row."""
    extraction = row["extraction"]
    span, logprobs = extraction["span"], row.get("choice_logprobs")
    return Prediction(
        question_id=str(row["question_id"]),
        text=str(row["text"]),
        extraction=Extraction(
            index=None if extraction["index"] is None else int(extraction["index"]),
            how=str(extraction["how"]),
            span=None if span is None else (int(span[0]), int(span[1])),
        ),
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        answer_index=int(row["answer_index"]),
        num_choices=int(row["num_choices"]),
        image_digest=str(row["image_digest"]),
        modality=Modality(row["modality"]),
        question_type=QuestionType(row["question_type"]),
        dataset=str(row["dataset"]),
        subject_id=str(row.get("subject_id", "")),
        truncated=bool(row.get("truncated", False)),
        num_tokens=int(row.get("num_tokens", 0)),
        num_prompt_tokens=int(row.get("num_prompt_tokens", 0)),
        choice_logprobs=None if logprobs is None else tuple(map(float, logprobs)),
        error=str(row.get("error", "")),
    )


def read_predictions(path: str | Path) -> StoredPredictions:
    """Read one predictions file.

    A question that failed technically may be asked again: its later line stands. Raises BadInput naming
    file and line for a missing header, a damaged line, or a second answer to an answered question.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot read predictions: {error.strerror}") from error
    intact = data[: data.rfind(b"\n") + 1]
    lines = intact.decode("utf-8", errors="replace").split("\n")[:-1]
    if not lines:
        raise BadInput(f"{path}: no predictions in it (no header line); delete it and evaluate again")
    header = _parse_header(path, lines[0])
    rows: dict[str, Prediction] = {}
    digests: dict[str, str] = {}
    line_numbers: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = json.loads(line)
            prediction = prediction_from_json(row)
            digest = str(row["question_digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}:{number}: not a prediction ({error!r}); the file is damaged") from error
        earlier = rows.get(prediction.question_id)
        if earlier is not None and not earlier.error:
            raise BadInput(f"{path}:{number}: a second answer to question {prediction.question_id!r}")
        rows[prediction.question_id] = prediction
        digests[prediction.question_id] = digest
        line_numbers[prediction.question_id] = number
    return StoredPredictions(
        header=header,
        predictions=tuple(rows.values()),
        question_digests=digests,
        line_numbers=line_numbers,
        num_bytes=len(intact),
        torn=len(intact) < len(data),
    )


def _parse_header(path: Path, line: str) -> Header:
    try:
        return Header(**json.loads(line)["header"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}:1: not a predictions header; is this an osler predictions file?") from error


class PredictionWriter:
    """Appends to one predictions file; every `append` is on disk when it returns.

    Opening an existing file checks that its answers come from the same model, prompt and settings
    (BadInput otherwise), and cuts off a torn last line after telling `note`.
    """

    def __init__(self, path: str | Path, header: Header, note: Callable[[str], None]) -> None:
        self.path = Path(path)
        self.stored: StoredPredictions | None = None
        if self.path.exists() and self.path.stat().st_size and not self._header_torn(note):
            self.stored = read_predictions(self.path)
            _check_identity(self.path, self.stored.header, header)
            if self.stored.torn:
                note(f"{self.path}: dropped a torn last line; its question is asked again")
                os.truncate(self.path, self.stored.num_bytes)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        if self.stored is None:
            self._write([{"header": asdict(header)}])

    def _header_torn(self, note: Callable[[str], None]) -> bool:
        # Killed inside the very first line: no answer is lost by starting over.
        data = self.path.read_bytes()
        if b"\n" in data or not data.startswith(b'{"header"'[: len(data)]):
            return False
        note(f"{self.path}: dropped a torn header line")
        os.truncate(self.path, 0)
        return True

    def append(self, rows: Iterable[tuple[Prediction, str]]) -> None:
        """Write (prediction, question digest) pairs."""
        self._write([{**prediction_to_json(p), "question_digest": digest} for p, digest in rows])

    def _write(self, values: Iterable[Mapping[str, Any]]) -> None:
        self._file.write("".join(json.dumps(value) + "\n" for value in values))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _check_identity(path: Path, stored: Header, asked: Header) -> None:
    old, new = stored.identity, asked.identity
    for key in new | old:
        if old.get(key) != new.get(key):
            raise BadInput(
                f"{path}: holds answers made with {key} = {old.get(key)!r}, now asked with "
                f"{new.get(key)!r}; use another --out, or delete the file"
            )
