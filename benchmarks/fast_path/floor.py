"""The least a row can cost: its useful floating-point operations at the machine's measured ceiling.

What is useful is the product's own count (`osler.costs.flops`). Only matrix products are in it: norms,
rotations, softmax and everything that moves data are free, so no implementation reaches the floor.
"""

from __future__ import annotations

import json

from benchmarks.fast_path.case import Case
from osler.costs.flops import GroupWork, Scheme, StepFlops, rollout_flops, update_flops
from osler.costs.shape import ModelShape, model_shape


def useful_flops(case: Case) -> StepFlops:
    """Of one whole step of the case, tower and language model trained, with the reference."""
    shape, row, scale = shape_of(case), case.row, case.scale
    prompt = row.image_tokens + scale.text_tokens
    patches = row.image_tokens * shape.tower.merge
    group = GroupWork(prompt, (patches,), (row.completion_tokens,) * row.group_size)
    step = rollout_flops(shape, group, Scheme()) + update_flops(shape, group, Scheme())
    return step.times(scale.questions)


def shape_of(case: Case) -> ModelShape:
    return model_shape(json.loads((case.checkpoint / "config.json").read_text(encoding="utf-8")))
