"""Supervised fine-tuning: only the completion is trained on, in the template that evaluation uses.

The papers' baseline done right. The released code (Med-R1 @88d76c7, sft.py) trains on the literal text
"None" (lines 128 and 141), on an empty assistant turn (150) and on the prompt (163-166), under a system
prompt that its evaluation never sends (119-126). Ours runs through the same forward as GRPO, with groups
of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from osler.config import TrainConfig
from osler.costs.flops import Scheme
from osler.costs.microbatches import fill, packed_tokens
from osler.policy.forward import PolicyForward
from osler.policy.inputs import PromptBatch, PromptInputs, pad_completions
from osler.prompts import Template
from osler.records import Question
from osler.runtime import World
from osler.train.ahead import Ahead, works_beside
from osler.train.clock import Clock
from osler.train.loop import Learner, StepReport
from osler.train.schedule import num_slots, slot_questions
from osler.train.useful import UsefulFlops


@dataclass(frozen=True)
class SftExample:
    """A question, the template it is asked with, and the completion to learn."""

    question: Question
    template: Template
    completion: str


ExamplesAt = Callable[[int], Sequence[SftExample]]  # step -> the examples of that step, on every process


def answer_examples(
    questions: Sequence[Question], template: Template, batch_size: int, seed: int, permute: bool = False
) -> ExamplesAt:
    """The baseline's examples: the template's own answer to each question, a fresh order each pass.

    With `permute` the choices of each question have a fresh order each pass, too.
    """

    def at(step: int) -> list[SftExample]:
        picked = slot_questions(questions, step, batch_size, seed, permute)
        return [SftExample(q, template, template.write(q.answer_letter)) for q in picked]

    return at


def baseline_steps(config: TrainConfig, num_questions: int) -> int:
    """Optimizer steps of the baseline: `sft.max_steps` where set, else what `sft.epochs` takes."""
    if config.sft.max_steps:
        return config.sft.max_steps
    return num_slots(num_questions, config.sft.batch_size, config.sft.epochs)


class SftMethod:
    """Implements `train.loop.Method`."""

    def __init__(
        self, config: TrainConfig, world: World, learner: Learner, examples_at: ExamplesAt, num_steps: int
    ) -> None:
        self.config, self.world, self.learner = config, world, learner
        self.examples_at, self.num_steps = examples_at, num_steps
        policy = learner.policy
        self.useful = UsefulFlops(config, policy)
        processor, recompute = policy.logits_processor(1.0), config.model.gradient_checkpointing
        self.ahead = Ahead(self._my_share, num_steps, self._encoded, beside=works_beside(world.device))
        self.forward = PolicyForward(policy.model, processor, policy.precision, recompute, policy.features)

    def fill_gradients(self, step: int, clock: Clock) -> StepReport:
        """Mean negative log-likelihood over the completion tokens of the whole step."""
        world = self.world
        self.useful.start()
        with clock.part("data"):
            mine = self.ahead.take(step)
            counts = world.gather((len(mine), sum(len(ids) for _, ids in mine)))
            num_examples, num_tokens = (sum(column) for column in zip(*counts, strict=True))
            batches = self._microbatches(mine)
        loss_sum = entropy_sum = 0.0
        for inputs, ids, mask in batches:
            with clock.part("loss"):
                logprobs, entropy = self.forward(inputs, ids, mask, with_entropy=True)
                loss = -logprobs.sum() / num_tokens
                loss.backward()
                loss_sum += float(loss.detach())
                entropy_sum += float(entropy.sum())
        parts = world.gather((loss_sum, entropy_sum))
        return StepReport(
            metrics={
                "loss/total": math.fsum(p[0] for p in parts),
                "entropy/mean": math.fsum(p[1] for p in parts) / num_tokens,
                "completion/length_mean": num_tokens / num_examples,
            },
            question_visits=num_examples,
            tokens=num_tokens,
            useful_flops=sum(world.gather(self.useful.of_step())),
        )

    def _microbatches(
        self, mine: Sequence[tuple[PromptInputs, list[int]]]
    ) -> list[tuple[PromptBatch, Tensor, Tensor]]:
        """The examples in as few forwards as the token budget allows: prompts, token ids, their mask."""
        policy = self.learner.policy
        works = [prompt.work([len(ids)]) for prompt, ids in mine]
        self.useful.add_update(works)
        tower = Scheme.of(self.config).tower
        sizes = [packed_tokens(work, tower) for work in works]
        return [
            (
                policy.batch([mine[i][0] for i in indices]),
                *pad_completions([[mine[i][1]] for i in indices], policy.pad_id, policy.device),
            )
            for indices in fill(sizes, self.config.model.microbatch_tokens)
        ]

    def _my_share(self, step: int) -> list[SftExample]:
        return self.world.share(self.examples_at(step))

    def _encoded(self, example: SftExample) -> tuple[PromptInputs, list[int]]:
        """The prompt, and the token ids of the completion with the end token."""
        policy = self.learner.policy
        prompt = policy.prompt_inputs(example.question, example.template)
        ids = policy.tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        return prompt, [*ids, policy.stop_ids[0]]

    def close(self) -> None:
        self.ahead.close()

    def pending(self) -> dict[str, Any]:
        return {}

    def restore(self, pending: Mapping[str, Any]) -> None:
        """Nothing outlives a step."""
