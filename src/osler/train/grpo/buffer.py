"""Rollout groups waiting for their optimizer step, and their JSON form inside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from osler.errors import BadInput
from osler.records import Completion, Extraction, Question, Reward, Rollout, RolloutGroup


@dataclass(frozen=True)
class PendingGroup:
    """A group, the part of the run it belongs to, and what the sampling weights gave its tokens."""

    slot: int
    group: RolloutGroup
    old_logprobs: tuple[tuple[float, ...], ...] | None  # per rollout; None where on policy


def pending_to_json(pending: PendingGroup) -> dict[str, Any]:
    """JSON prints float64 without loss, and every float32 is one, so nothing is rounded."""
    return {
        "slot": pending.slot,
        "question_id": pending.group.question.id,
        "rollouts": [asdict(r) for r in pending.group.rollouts],
        "old_logprobs": pending.old_logprobs,
    }


def pending_from_json(values: Mapping[str, Any], questions: Mapping[str, Question]) -> PendingGroup:
    """Inverse of `pending_to_json`. Raises BadInput where the question is gone from the data."""
    question = questions.get(values["question_id"])
    if question is None:
        raise BadInput(f"checkpoint: question {values['question_id']} is no longer in the training data")
    old = values["old_logprobs"]
    return PendingGroup(
        slot=int(values["slot"]),
        group=RolloutGroup(question=question, rollouts=tuple(_rollout(r) for r in values["rollouts"])),
        old_logprobs=None if old is None else tuple(tuple(row) for row in old),
    )


def _rollout(values: Mapping[str, Any]) -> Rollout:
    completion, extraction = values["completion"], values["extraction"]
    return Rollout(
        completion=Completion(
            text=completion["text"],
            token_ids=tuple(completion["token_ids"]),
            sampled_logprobs=tuple(completion["sampled_logprobs"]),
            finish_reason=completion["finish_reason"],
        ),
        extraction=Extraction(
            extraction["index"], extraction["how"], extraction["span"] and tuple(extraction["span"])
        ),
        reward=Reward(values["reward"]["total"], values["reward"]["breakdown"]),
        advantage=values["advantage"],
    )
