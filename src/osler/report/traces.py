"""What a model wrote about the same question early and late in its training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.report.examples import Segment, segments, visible

QUESTIONS_SHOWN = 3
VISITS_SHOWN = 4
MAX_TEXT = 1200  # characters of one completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One step that the question was part of: the first completion of its group."""

    step: int
    reward: str  # of that completion
    right: str  # how many of the group were right
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One training question over the steps."""

    question: str
    answer: str
    visits: tuple[Visit, ...]


def traces_of(run: Path) -> tuple[Trace, ...]:
    """Questions that were visited more than once, in the order of a hash of their id; empty without a log."""
    path = run / "rollouts.jsonl"
    if not path.is_file():
        return ()
    visits: dict[str, list[int]] = {}  # question -> byte offsets: the log may be large
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if line.endswith(b"\n"):
                visits.setdefault(str(json.loads(line)["question_id"]), []).append(offset)
            offset += len(line)
        often = max(map(len, visits.values()), default=0)
        chosen = sorted(
            (one for one, places in visits.items() if len(places) == often and often > 1),
            key=lambda one: hashlib.sha256(one.encode()).digest(),
        )[:QUESTIONS_SHOWN]
        return tuple(_trace([_read(file, place) for place in _spread(visits[one])]) for one in chosen)


def _spread(places: list[int]) -> list[int]:
    """The first, the last, and as many between them as are shown."""
    if len(places) <= VISITS_SHOWN:
        return places
    last = len(places) - 1
    return [places[round(i * last / (VISITS_SHOWN - 1))] for i in range(VISITS_SHOWN)]


def _read(file: Any, place: int) -> dict[str, Any]:
    file.seek(place)
    return dict(json.loads(file.readline()))


def _trace(records: list[dict[str, Any]]) -> Trace:
    first = records[0]
    return Trace(
        question=visible(str(first["question"])),
        answer=visible(str(first["choices"][first["answer_index"]])),
        visits=tuple(map(_visit, records)),
    )


def _visit(record: Mapping[str, Any]) -> Visit:
    shown = record["rollouts"][0]
    span = shown["extraction"]["span"]
    right = sum(r["extraction"]["index"] == record["answer_index"] for r in record["rollouts"])
    return Visit(
        step=int(record["step"]),
        reward=f"{float(shown['reward']):g}",
        right=f"{right} of {len(record['rollouts'])}",
        segments=segments(str(shown["text"])[:MAX_TEXT], None if span is None else (span[0], span[1])),
    )
