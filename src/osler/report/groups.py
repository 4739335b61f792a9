"""Rollout groups of a training run: one question, its completions side by side, first step and last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.records import LETTERS
from osler.report.examples import MAX_TEXT, Choice, Segment, segments, visible
from osler.report.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion of a group, numbers as printed."""

    segments: tuple[Segment, ...]
    reward: str
    parts: str
    advantage: str
    note: str  # tokens, how it was read, truncation
    cut: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One question and its rollouts, largest advantage first."""

    step: int
    question: str
    choices: tuple[Choice, ...]
    samples: tuple[Sample, ...]


def groups_of(run: Run) -> tuple[Group, ...]:
    """The first and the last logged group. Raises BadInput for a record this version cannot read."""
    path = run.path / "rollouts.jsonl"
    return tuple(_group(record, path) for record in run.groups)


def _group(record: Mapping[str, Any], path: Path) -> Group:
    try:
        rollouts = sorted(record["rollouts"], key=lambda r: -float(r["advantage"]))
        return Group(
            step=int(record["step"]),
            question=visible(str(record["question"])),
            choices=tuple(
                Choice(letter=letter, text=visible(str(text)), is_gold=index == record["answer_index"])
                for index, (letter, text) in enumerate(zip(LETTERS, record["choices"], strict=False))
            ),
            samples=tuple(_sample(r) for r in rollouts),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a rollout group of this version ({error!r})") from error


def _sample(rollout: Mapping[str, Any]) -> Sample:
    text, extraction = str(rollout["text"]), rollout["extraction"]
    span = extraction["span"]
    note = f"{int(rollout['tokens'])} tokens · read: {extraction['how']}"
    if rollout["finish_reason"] == "length":
        note += " · truncated"
    parts = ", ".join(f"{visible(str(n))} {float(v):g}" for n, v in rollout["reward_breakdown"].items())
    return Sample(
        segments=segments(text[:MAX_TEXT], None if span is None else (int(span[0]), int(span[1]))),
        reward=f"{float(rollout['reward']):g}",
        parts=parts,
        advantage=f"{float(rollout['advantage']):+.2f}".replace("-", "−"),
        note=note,
        cut=max(0, len(text) - MAX_TEXT),
    )
