"""From one row of any format to one checked `Question`; the rules are the same for every format.

A rule that a row breaks makes it a `BadRow` (file, row, reason). Oddities that leave the question usable
are warnings: they are counted by kind, and the first few rows of each kind are kept.

Warnings
- `equal_choices`: two wrong choices are the same text.
- `nearly_equal_choices`: two wrong choices are the same once case, white space and a final full stop
  are set aside (and no two are the same as they stand).
- `control_characters`: control, bidirectional or zero-width characters, or lone surrogates, were taken
  out of the text or replaced.
- `ambiguous_choices`: the choices could be cut out of the problem text in more than one way.
- `unknown_modality`, `unknown_question_type`: the source does not say.
- `no_image`: a question without an image.
- `repeated_question`: images, text and choices are those of an earlier row.

Integers are taken as text wherever text is due ("How many?" has answers that some writers leave unquoted);
other values that are no text make the row bad.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from osler.records import LETTERS, Modality, Question, QuestionType

_EXAMPLES_KEPT = 3
_SHOWN_CHARACTERS = 60
_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Control characters; format characters that are invisible or turn the direction of writing (the joiners
# U+200C and U+200D stay: Persian and Indic scripts spell with them); and the invisible tag characters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


class RowError(Exception):
    """A rule that a row breaks: its kind for counting, and the reason in words."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no usable question.

    >>> str(BadRow("BUSI.json", 12, "answer", 'the answer "Cyst" is none of the choices'))
    'BUSI.json row 12: the answer "Cyst" is none of the choices'
    """

    file: str
    row: int  # counted from 1
    kind: str  # for counting: "answer", "missing_image", "duplicate_id", …
    reason: str

    def __str__(self) -> str:
        return f"{self.file} row {self.row}: {self.reason}"


@dataclass(slots=True)
class Draft:
    """What an adapter found in a row; exactly one of the three answer fields is set."""

    id: str
    text: str
    choices: list[str]
    answer: str | None = None  # text of the right choice
    answer_letter: str | None = None
    answer_index: int | None = None  # from 0
    images: list[str] = field(default_factory=list)  # as the file writes them
    modality: Modality = Modality.UNKNOWN
    question_type: QuestionType = QuestionType.UNKNOWN
    dataset: str = ""
    split: str = ""
    subject_id: str = ""


def show(text: str) -> str:
    """A text from a file, fit for a message: one line, short, in quotes, nothing a terminal obeys.

    >>> show("Cyst\\x1b[31m\\nleft")
    '"Cyst[31m left"'
    """
    clean, _ = clean_text(text)
    clean = " ".join(clean.split())
    return f'"{clean[: _SHOWN_CHARACTERS - 1]}…"' if len(clean) > _SHOWN_CHARACTERS else f'"{clean}"'


def clean_text(text: str) -> tuple[str, bool]:
    """The text without control and invisible characters, stripped; and whether any was in it.

    Every kind of line break becomes "\\n", a tab a space, a lone surrogate U+FFFD.
    """
    if text.isprintable():
        return text.strip(), False
    clean = _LINE_BREAKS.sub("\n", text)
    clean = _SURROGATES.sub("\ufffd", _INVISIBLE.sub("", clean.replace("\t", " ")))
    return clean.strip(), clean.replace("\n", "") != text.replace("\r\n", "").replace("\n", "")


def normalise_choice(choice: str) -> str:
    """What two choices must differ in to be told apart: case, white space and a final full stop are not it.

    >>> normalise_choice("Thyroid  Gland.") == normalise_choice("thyroid gland")
    True
    """
    return " ".join(choice.casefold().split()).removesuffix(".").rstrip()


def text_field(row: dict[str, Any], key: str, *, required: bool = True) -> str:
    """A text out of a row, "" where it is absent and need not be there. Raises RowError."""
    value = row.get(key)
    if value is None:
        if required:
            raise RowError("missing_field", f"has no `{key}`")
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError("wrong_type", f"`{key}` is not a text")


class RowReader:
    """Collects the checked questions, the bad rows and the warnings of one data set.

    Image paths are looked up once each. With `no_images` nothing is looked up and `Question.images` holds
    the paths as the files write them; with `missing_ok` it holds them so where no file is there.
    """

    def __init__(
        self, *, no_images: bool = False, missing_ok: bool = False, modality: Modality | None = None
    ) -> None:
        self.questions: list[Question] = []
        self.bad: list[BadRow] = []
        self.warnings: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.missing_images: dict[str, None] = {}
        self.num_rows = 0
        self._no_images = no_images
        self._missing_ok = missing_ok
        self._modality = modality
        self._first_seen: dict[str, str] = {}
        self._contents: set[tuple[str, tuple[str, ...], tuple[str, ...]]] = set()
        self._image_problems: dict[str, RowError | None] = {}

    def warn(self, kind: str, source: str) -> None:
        """Count a warning and keep the first few rows of its kind."""
        self.warnings[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES_KEPT:
            examples.append(source)

    def reject(self, file: str, row: int, error: RowError) -> None:
        """Keep a row as bad."""
        self.num_rows += 1
        self.bad.append(BadRow(file, row, error.kind, error.reason))

    def accept(self, draft: Draft, file: str, row: int, images_root: str) -> bool:
        """Check a draft and keep it, as a question (True) or as a bad row (False)."""
        source = f"{file} row {row}"
        try:
            question = self._finish(draft, source, images_root)
        except RowError as error:
            self.reject(file, row, error)
            return False
        self.num_rows += 1
        self._first_seen[question.id] = source
        content = (question.text, question.choices, question.images)
        if content in self._contents:
            self.warn("repeated_question", source)
        self._contents.add(content)
        self.questions.append(question)
        return True

    def _finish(self, draft: Draft, source: str, images_root: str) -> Question:
        cleaned = [
            clean_text(t) for t in (draft.text, draft.id, draft.dataset, draft.subject_id, draft.split)
        ]
        text, question_id, dataset, subject_id, split = (clean for clean, _ in cleaned)
        cleaned_choices = [clean_text(choice) for choice in draft.choices]
        choices = [" ".join(c.split("\n")) if "\n" in c else c for c, _ in cleaned_choices]
        if not text:
            raise RowError("empty_question", "the question is empty")
        if not question_id:
            raise RowError("no_id", "the id is empty")
        if question_id in self._first_seen:
            first = self._first_seen[question_id]
            raise RowError("duplicate_id", f"the id {show(question_id)} is taken by {first}")
        answer_index = _find_answer(draft, choices)
        repeated = _check_choices(choices, answer_index)
        modality = self._settle_modality(draft.modality)
        images = self._find_images(draft.images, images_root)
        if any(was_dirty for _, was_dirty in (*cleaned, *cleaned_choices)):
            self.warn("control_characters", source)
        if repeated:
            self.warn(repeated, source)
        if modality is Modality.UNKNOWN:
            self.warn("unknown_modality", source)
        if draft.question_type is QuestionType.UNKNOWN:
            self.warn("unknown_question_type", source)
        if not images:
            self.warn("no_image", source)
        return Question(
            id=question_id,
            text=text,
            choices=tuple(choices),
            answer_index=answer_index,
            images=images,
            modality=modality,
            question_type=draft.question_type,
            dataset=dataset,
            split=split,
            subject_id=subject_id,
            source=source,
        )

    def _settle_modality(self, found: Modality) -> Modality:
        given = self._modality
        if given is None or given is found:
            return found
        if found is Modality.UNKNOWN:
            return given
        raise RowError(
            "modality_conflict",
            f"is {found.value}, but the modality {given.value} was given, which is for files that name none",
        )

    def _find_images(self, paths: Sequence[str], images_root: str) -> tuple[str, ...]:
        for path in paths:
            if not path.isprintable() and (_INVISIBLE.search(path) or _SURROGATES.search(path)):
                raise RowError("image_path", f"the image path {show(path)} holds a control character")
            if not path.strip():
                raise RowError("image_path", "the image path is empty")
        if self._no_images:
            return tuple(paths)
        found = []
        for path in paths:
            full = os.path.normpath(os.path.join(images_root, path))
            if full not in self._image_problems:
                self._image_problems[full] = _image_problem(path, full)
            problem = self._image_problems[full]
            if problem is not None:
                if problem.kind == "missing_image":
                    self.missing_images[full] = None
                if problem.kind != "missing_image" or not self._missing_ok:
                    raise problem
            found.append(full if problem is None else path)
        return tuple(found)


def _image_problem(path: str, full: str) -> RowError | None:
    try:
        status = os.stat(full)
    except OSError:
        return RowError("missing_image", f"the image {show(path)} is not there")
    if not stat.S_ISREG(status.st_mode):
        return RowError("missing_image", f"the image {show(path)} is not a file")
    if status.st_size == 0:
        return RowError("empty_image", f"the image {show(path)} is an empty file")
    return None


def _find_answer(draft: Draft, choices: list[str]) -> int:
    if len(choices) < 2:
        raise RowError(
            "too_few_choices", f"has {len(choices)} choice{'' if len(choices) == 1 else 's'}, not 2"
        )
    if len(choices) > len(LETTERS):
        raise RowError(
            "too_many_choices", f"has {len(choices)} choices, and there are {len(LETTERS)} letters"
        )
    if draft.answer is not None:
        answer = " ".join(clean_text(draft.answer)[0].split("\n"))
        if answer not in choices:
            raise RowError("answer", f"the answer {show(answer)} is none of the choices")
        return choices.index(answer)
    index = draft.answer_index
    if draft.answer_letter is not None:
        index = LETTERS.find(draft.answer_letter) if len(draft.answer_letter) == 1 else -1
    if index is None or not 0 <= index < len(choices):
        named = draft.answer_letter if draft.answer_letter is not None else str(index)
        raise RowError("answer", f"the answer {show(named)} is none of the {len(choices)} choices")
    return index


def _check_choices(choices: list[str], answer_index: int) -> str:
    """The kind of warning for repeated wrong choices, or "". Raises RowError."""
    for letter, choice in zip(LETTERS, choices, strict=False):
        if not choice:
            raise RowError("empty_choice", f"choice {letter} is empty")
    normal = [normalise_choice(choice) for choice in choices]
    if len(set(normal)) == len(normal):
        return ""
    gold = normal[answer_index]
    if normal.count(gold) > 1:
        other = next(i for i, choice in enumerate(normal) if choice == gold and i != answer_index)
        raise RowError(
            "answer_twice",
            f"the answer {show(choices[answer_index])} ({LETTERS[answer_index]}) "
            f"equals choice {LETTERS[other]}, {show(choices[other])}",
        )
    return "equal_choices" if len(set(choices)) < len(choices) else "nearly_equal_choices"
