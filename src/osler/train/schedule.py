"""Which questions each optimizer step sees: pure functions of seed and step, so that nothing needs saving."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osler.data.permutation import permute_choices
from osler.records import Question


@dataclass(frozen=True)
class PlannedStep:
    """One optimizer step: the rollout batch it draws from, and its part of it."""

    rollout: int  # index of the rollout batch
    slot: int  # index of the part, over the whole run; each part holds `questions_per_step` questions


def num_slots(num_questions: int, per_step: int, epochs: float) -> int:
    """Parts needed for `epochs` passes; the last part of a pass may be smaller."""
    return max(1, math.ceil(epochs * math.ceil(num_questions / per_step)))


def plan_steps(slots: int, steps_per_rollout: int, updates_per_rollout: int) -> list[PlannedStep]:
    """Every optimizer step in order: each rollout batch's parts, `updates_per_rollout` times over."""
    plan: list[PlannedStep] = []
    for rollout, first in enumerate(range(0, slots, steps_per_rollout)):
        parts = range(first, min(first + steps_per_rollout, slots))
        plan += [PlannedStep(rollout, slot) for _ in range(updates_per_rollout) for slot in parts]
    return plan


def slot_indices(slot: int, num_questions: int, per_step: int, seed: int) -> list[int]:
    """Positions of the questions of one part: every pass is a fresh permutation keyed by (seed, pass)."""
    slots_per_epoch = math.ceil(num_questions / per_step)
    epoch, place = divmod(slot, slots_per_epoch)
    key = hashlib.sha256(f"order\x1f{seed}\x1f{epoch}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype=np.uint64)))
    order = rng.permutation(num_questions)
    return [int(i) for i in order[place * per_step : (place + 1) * per_step]]


def slot_questions(
    questions: Sequence[Question], slot: int, per_step: int, seed: int, permute: bool
) -> list[Question]:
    """The questions of one part as they are asked; with `permute` in the choice order of their pass."""
    picked = [questions[i] for i in slot_indices(slot, len(questions), per_step, seed)]
    epoch = slot // math.ceil(len(questions) / per_step)
    return [permute_choices(question, seed, epoch) for question in picked] if permute else picked
