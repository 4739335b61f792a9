"""The released Med-R1 modality files as questions, cut by a parser that is independent of the product's."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from osler.records import LETTERS, Question

ARCHIVE = (
    Path(__file__).resolve().parents[2] / "shared" / "omnimedvqa_questions" / "med_r1_modality_splits.zip"
)


def released_questions(part: str, modality: str) -> list[Question]:
    """All questions of modality/<part>/<modality>…json, or a skip where the files are not at hand."""
    if not ARCHIVE.exists():
        pytest.skip("the released Med-R1 question files are not on this machine")
    with zipfile.ZipFile(ARCHIVE) as archive:
        (name,) = (
            n
            for n in archive.namelist()
            if n.startswith(f"modality/{part}/{modality}") and n.endswith(".json")
        )
        rows = json.loads(archive.read(name))
    return [_question(f"{name}:{number}", row) for number, row in enumerate(rows)]


def _question(identifier: str, row: dict[str, str]) -> Question:
    first = re.search(r"[?.:!]\s+A\)", row["problem"]) or re.search(r"(?:(?<=\s)|^)A\)", row["problem"])
    assert first is not None
    body, choices, position = row["problem"][first.end() :], [], 0
    for letter in LETTERS[1:]:
        found = body.find(f", {letter})", position)
        if found < 0:
            break
        choices.append(body[position:found].strip())
        position = found + 4
    choices.append(body[position:].strip())
    letter = row["solution"].replace("<answer>", "").replace("</answer>", "").strip()
    return Question(
        id=identifier,
        text=row["problem"][: first.end() - 2].strip(),
        choices=tuple(choices),
        answer_index=LETTERS.index(letter),
        images=(row["image"],),
    )
