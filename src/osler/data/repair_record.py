"""What a repair did, written beside the questions that it made, and read back.

    questions.jsonl   every row has a key "repair": rule, pool, block, type; text, choices and answer before
    dropped.jsonl     the questions left out, as they were, each with its "reason"; an image is a digest of
                      its path, which tells images apart and no more
    repair.json       options, counts by split and modality, and the pools with their answers and stem

Together they hold the data set as it was before, so that an audit can show both.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from osler.data.folder import QUESTIONS_FILE, question_to_row
from osler.data.json_files import JsonFault, iterate_json_lines, read_text
from osler.data.load import load_questions
from osler.data.rebuild import BALANCED, REASONS, UNBALANCED, Repaired
from osler.errors import BadInput
from osler.records import Question

REPAIR_FILE = "repair.json"
DROPPED_FILE = "dropped.jsonl"
REPAIR_KEY = "repair"


@dataclass(frozen=True, slots=True)
class RepairRecord:
    """A repaired folder as it was before.

    >>> RepairRecord(before=(), rules={"q1": "balanced"}, reasons={"q2": "surplus"}, options={}).rules["q1"]
    'balanced'
    """

    before: tuple[Question, ...]  # every question of the source, kept ones first; images by digest of path
    rules: Mapping[str, str]  # id of a kept question -> how it got its choices
    reasons: Mapping[str, str]  # id of a dropped question -> why
    options: Mapping[str, Any]


def repair_counts(repaired: Repaired) -> list[dict[str, Any]]:
    """One row per split and modality: questions read, kept by rule, dropped by reason."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    kept = [(question, repaired.provenance[question.id]["rule"]) for question in repaired.questions]
    for question, what in (*kept, *repaired.dropped):
        counts.setdefault((question.split, question.modality.value), Counter())[what] += 1
    return [
        {
            "split": split,
            "modality": modality,
            "read": found.total(),
            "kept": {rule: found[rule] for rule in (BALANCED, UNBALANCED)},
            "dropped": {reason: found[reason] for reason in REASONS},
        }
        for (split, modality), found in sorted(counts.items())
    ]


def record_rows(repaired: Repaired) -> dict[str, dict[str, Any]]:
    """The extra key of every row of `questions.jsonl`, by question id."""
    return {
        question.id: {REPAIR_KEY: {**repaired.provenance[question.id], "images": _image_keys(question)}}
        for question in repaired.questions
    }


def record_files(repaired: Repaired) -> dict[str, str]:
    """Name and text of the files that stand beside `questions.jsonl`."""
    dropped = [{**question_to_row(q, _image_keys(q)), "reason": reason} for q, reason in repaired.dropped]
    pools = [
        {
            "name": pool.name,
            "stem": pool.stem,
            "answers": {pool.shown[key]: len(members) for key, members in pool.members.items()},
        }
        for pool in repaired.pools
    ]
    summary = {
        "options": asdict(repaired.options),
        "reasons": dict(REASONS),
        "counts": repair_counts(repaired),
        "pools": pools,
    }
    return {
        DROPPED_FILE: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dropped),
        REPAIR_FILE: json.dumps(summary, ensure_ascii=False, indent=1) + "\n",
    }


def read_repair(folder: Path, split: str | None = None) -> RepairRecord | None:
    """The record of a repaired folder, of one split or of all; None where the folder was not repaired.

    Raises BadInput where a file of the record is damaged.
    """
    if not (folder / REPAIR_FILE).is_file():
        return None
    rows = [_row(folder / QUESTIONS_FILE, row) for row in iterate_json_lines(folder / QUESTIONS_FILE)]
    was = {str(row["id"]): row[REPAIR_KEY] for row in rows}
    kept = load_questions(folder, no_images=True, split=split).questions
    before = [
        replace(
            question,
            text=was[question.id]["text"],
            choices=tuple(was[question.id]["choices"]),
            answer_index=was[question.id]["answer_index"],
            images=tuple(was[question.id]["images"]),
        )
        for question in kept
    ]
    dropped: tuple[Question, ...] = ()
    if (folder / DROPPED_FILE).stat().st_size:
        dropped = load_questions(folder / DROPPED_FILE, no_images=True).questions
    dropped = tuple(question for question in dropped if split is None or question.split == split)
    why = [_row(folder / DROPPED_FILE, row) for row in iterate_json_lines(folder / DROPPED_FILE)]
    reasons = {str(row["id"]): str(row["reason"]) for row in why}
    return RepairRecord(
        before=(*before, *dropped),
        rules={question.id: was[question.id]["rule"] for question in kept},
        reasons={question.id: reasons[question.id] for question in dropped},
        options=json.loads(read_text(folder / REPAIR_FILE))["options"],
    )


def _image_keys(question: Question) -> list[str]:
    return [hashlib.sha256(path.encode()).hexdigest()[:16] for path in question.images]


def _row(path: Path, numbered: tuple[int, Any]) -> dict[str, Any]:
    number, row = numbered
    if isinstance(row, JsonFault) or not isinstance(row, dict):
        raise BadInput(f"{path} line {number}: no JSON object; write the repair anew with osler data convert")
    return row
