"""What a set of questions is, as one digest: texts, choices, answers and the bytes of every image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence

from osler.data.images import image_digest
from osler.errors import BadInput
from osler.records import Question


def questions_digest(questions: Sequence[Question]) -> str:
    """SHA-256 over ids, texts, choices, answers and image contents, in order."""
    digest = hashlib.sha256()
    for q in questions:
        record = [q.id, q.text, list(q.choices), q.answer_index, image_digest(q.images)]
        digest.update(json.dumps(record, ensure_ascii=False).encode())
    return digest.hexdigest()


def questions_signature(questions: Iterable[Question]) -> str:
    """SHA-256 of the same without opening an image: its path, size and modification time stand for it.

    While this stays, `questions_digest` need not be computed again. Raises BadInput for a missing image.
    """
    digest = hashlib.sha256()
    for q in questions:
        record = [q.id, q.text, list(q.choices), q.answer_index, [_state(path) for path in q.images]]
        digest.update(json.dumps(record, ensure_ascii=False).encode())
    return digest.hexdigest()


def _state(path: str) -> list[object]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadInput(f"image {path}: cannot be read ({error.strerror}); check the file") from None
    return [path, status.st_size, status.st_mtime_ns]
