"""Osler's side: the product's own trainer and engine, on a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.fast_path.case import Case, nudge
from benchmarks.fast_path.models import ASK, MAX_IMAGE_TOKENS, TOKEN_PIXELS
from benchmarks.fast_path.rows import KL_COEF
from osler.config import TrainConfig, load_config
from osler.optim import clip_gradients
from osler.policy.inputs import collate, pad_completions
from osler.policy.load import Policy
from osler.records import Completion, Extraction, Reward, Rollout, RolloutGroup
from osler.rewards import build_rubric
from osler.rollout.engine import generate
from osler.rollout.sampling import Sampling
from osler.runtime import World
from osler.train.clock import Clock, timeline_of
from osler.train.grpo.advantage import group_advantages
from osler.train.grpo.buffer import PendingGroup, pending_to_json
from osler.train.grpo.trainer import GrpoMethod
from osler.train.loop import Learner, build_learner
from osler.train.run import reference_model

REWARD = "benchmarks.full_size:even_tokens"  # random weights earn it, and it varies within a group
NO_TOKEN = -1


def config_of(case: Case, mask_placeholders: bool, keys: Sequence[str] = ()) -> TrainConfig:
    """The recipe of MedVLM-R1 at the row's sizes and with `keys`; everything else as the recipe has it."""
    row, scale = case.row, case.scale
    overrides = {
        "model.path": f'"{case.checkpoint}"',
        "model.precision": scale.precision,
        "model.master_weights": str(scale.master_weights).lower(),
        "model.max_pixels": MAX_IMAGE_TOKENS * TOKEN_PIXELS**2,
        "model.mask_placeholders": str(mask_placeholders).lower(),
        "grpo.group_size": row.group_size,
        "grpo.questions_per_step": scale.questions,
        "grpo.epochs": 1,
        "grpo.max_completion_tokens": row.completion_tokens,
        "grpo.kl_coef": KL_COEF,
        "rewards": f'{{"{REWARD}" = 1.0}}',
    }
    return load_config("medvlm_r1_mri", [*(f"{key}={value}" for key, value in overrides.items()), *keys])


@dataclass
class OslerSide:
    """A learner and its GRPO method, ready to take steps; no token ends a completion."""

    case: Case
    learner: Learner
    method: GrpoMethod
    parts: dict[str, float] = field(default_factory=dict)  # seconds of the last update, by part

    @property
    def model(self) -> Any:
        return self.learner.policy.model

    def _clock(self) -> Clock:
        return Clock(timeline_of(self.learner.policy.device))

    # ---- what is timed ---------------------------------------------------------------------------

    def update(self) -> None:
        """Reference, loss and backward of the first step's questions with the case's completions."""
        self.model.zero_grad(set_to_none=True)
        self.update_in_place()

    def update_in_place(self) -> None:
        """The same on top of the gradients that are there."""
        clock = self._clock()
        self.method.fill_gradients(0, clock)
        self.parts = clock.stop()

    def stepper(self) -> Callable[[], None]:
        """A function that takes the next whole step each time it is called, optimizer included."""
        steps = iter(range(self.method.num_steps))

        def step() -> None:
            self.method.fill_gradients(next(steps), self._clock())
            clip_gradients(self.learner.parameters, self.method.config.optim.max_grad_norm)
            self.learner.optimizer.step()
            self.learner.optimizer.zero_grad(set_to_none=True)

        return step

    def rollout(self) -> tuple[list[list[int]], list[list[float]]]:
        """Completions of the first step's questions: token ids and log-probabilities."""
        policy = self.learner.policy
        prompts = [policy.prompt_inputs(q, ASK) for q in self.case.first_questions]
        keys = [(0, q.id) for q in self.case.first_questions]
        sampling = Sampling(self.case.row.completion_tokens, temperature=1.0)
        return generate(policy, prompts, keys, sampling, self.case.row.group_size)

    # ---- what is compared ------------------------------------------------------------------------

    def prompt_ids(self) -> list[list[int]]:
        """Token ids of every prompt of the first step."""
        policy = self.learner.policy
        return [policy.prompt_inputs(q, ASK).input_ids.tolist() for q in self.case.first_questions]

    @torch.no_grad()
    def logprobs(self) -> Tensor:
        """Log-probabilities of the case's completions under the policy, [questions * G, T]."""
        policy = self.learner.policy
        prompts = [policy.prompt_inputs(q, ASK) for q in self.case.first_questions]
        rows = [list(map(list, group)) for group in self.case.completions]
        ids, mask = pad_completions(rows, policy.pad_id, policy.device)
        batch = collate(prompts, policy.device)
        return self.method.forward(batch, ids, mask)[0].flatten(0, 1)


def build(case: Case, mask_placeholders: bool = False, keys: Sequence[str] = ()) -> OslerSide:
    """The product as `osler grpo` builds it, on random weights."""
    config = config_of(case, mask_placeholders, keys)
    world = World(0, 1, torch.device(case.scale.device))
    learner = build_learner(config, case.folder, world, None)
    learner.policy.model.generation_config.eos_token_id = NO_TOKEN
    reference = reference_model(config, case.folder, learner, world, None)
    rubric = build_rubric(config.rewards)
    return OslerSide(
        case, learner, GrpoMethod(config, world, learner, case.questions, ASK, rubric, reference)
    )


def build_update(case: Case) -> OslerSide:
    """A side whose first step already has its rollouts, and whose policy has left its reference."""
    side = build(case)
    nudge(side.model)
    groups = _groups(case, side.learner.policy)
    side.method.restore({"rollout": 0, "groups": [pending_to_json(g) for g in groups]})
    return side


def _groups(case: Case, policy: Policy) -> list[PendingGroup]:
    advantages = group_advantages(torch.tensor(case.rewards, dtype=torch.float64))
    groups = []
    for question, completions, rewards, row in zip(
        case.first_questions, case.completions, case.rewards, advantages.tolist(), strict=True
    ):
        rollouts = tuple(
            Rollout(
                completion=Completion(
                    text=policy.tokenizer.decode(ids),
                    token_ids=ids,
                    sampled_logprobs=(0.0,) * len(ids),
                    finish_reason="length",
                ),
                extraction=Extraction(None, "none"),
                reward=Reward(reward),
                advantage=advantage,
            )
            for ids, reward, advantage in zip(completions, rewards, row, strict=True)
        )
        groups.append(PendingGroup(0, RolloutGroup(question=question, rollouts=rollouts), None))
    return groups
