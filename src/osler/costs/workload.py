"""What one optimizer step of a recipe asks of one process, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme, StepFlops, rollout_flops, update_flops
from osler.costs.microbatches import packed_tokens
from osler.costs.shape import ModelShape, TowerShape

TEXT_TOKENS = 100  # of a prompt, where the questions cannot be read: two to six choices and the instruction


@dataclass(frozen=True)
class Workload:
    """`questions` times the same `work`; a rollout batch holds `rollout_questions`."""

    work: GroupWork
    questions: int
    rollout_questions: int  # 0 in SFT
    microbatch: int  # questions in one forward

    def flops(self, shape: ModelShape, scheme: Scheme) -> StepFlops:
        """Of the step; where a rollout batch feeds several steps, each carries its share of it."""
        update = update_flops(shape, self.work, scheme).times(self.questions)
        if not self.rollout_questions:
            return update
        return update + rollout_flops(shape, self.work, scheme).times(self.questions)


def image_patches(tower: TowerShape, pixels: int) -> int:
    """Patches of an image of so many pixels, as near as the resize to whole image tokens gets."""
    token_pixels = tower.merge * tower.patch_size**2
    return max(1, pixels // token_pixels) * tower.merge


def workload(
    config: TrainConfig,
    tower: TowerShape,
    *,
    processes: int = 1,
    image_pixels: int | None = None,
    text_tokens: int = TEXT_TOKENS,
    completion_tokens: int | None = None,
) -> Workload:
    """By default the worst case: images at `model.max_pixels`, completions at their full length."""
    patches = image_patches(tower, config.model.max_pixels if image_pixels is None else image_pixels)
    grpo, is_grpo = config.grpo, config.method == "grpo"
    length = grpo.max_completion_tokens if completion_tokens is None else completion_tokens
    rows = grpo.group_size if is_grpo else 1
    questions = math.ceil((grpo.questions_per_step if is_grpo else config.sft.batch_size) / processes)
    work = GroupWork(text_tokens + patches // tower.merge, (patches,), (length,) * rows)
    fitting = config.model.microbatch_tokens // packed_tokens(work, Scheme.of(config).tower)
    return Workload(
        work=work,
        questions=questions,
        rollout_questions=questions * grpo.steps_per_rollout if is_grpo else 0,
        microbatch=max(1, min(fitting, questions)),
    )
