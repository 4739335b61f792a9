"""One GRPO step: rollout, reward, advantage, reference, loss.

A rollout batch of `questions_per_step * steps_per_rollout` questions is sampled from the current weights
and feeds the following optimizer steps. Where one rollout batch feeds one step, the old log-probabilities
are those of the step itself and no pass is spent on them.

Shapes: B questions, G rollouts of each, N = B * G, T completion tokens (padded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from osler.answers import extract_answer
from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme
from osler.costs.microbatches import fill, packed_tokens
from osler.policy.forward import PolicyForward
from osler.policy.inputs import PromptBatch, PromptInputs, pad_completions
from osler.prompts import Template
from osler.records import Completion, Question, Rollout, RolloutGroup
from osler.rewards import Rubric
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling
from osler.runtime import World
from osler.train.ahead import Ahead, works_beside
from osler.train.clock import Clock
from osler.train.grpo.advantage import group_advantages
from osler.train.grpo.buffer import PendingGroup, pending_from_json, pending_to_json
from osler.train.grpo.loss import Denominators, grpo_loss
from osler.train.grpo.metrics import GroupStats, LossSums, group_metrics, log_record
from osler.train.grpo.offload import OffloadedModel
from osler.train.loop import Learner, StepReport
from osler.train.schedule import num_slots, plan_steps, slot_questions
from osler.train.useful import UsefulFlops


@dataclass(frozen=True)
class Microbatch:
    """Groups that go through the model together."""

    groups: tuple[PendingGroup, ...]
    indices: tuple[int, ...]  # their places among the groups that the micro-batches were made of
    inputs: PromptBatch
    ids_BGT: Tensor
    mask_BGT: Tensor
    work: tuple[GroupWork, ...]


class GrpoMethod:
    """Implements `train.loop.Method`."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        learner: Learner,
        questions: Sequence[Question],
        template: Template,
        rubric: Rubric,
        reference: Any = None,
    ) -> None:
        self.config, self.grpo, self.world, self.learner = config, config.grpo, world, learner
        self.questions, self.template, self.rubric = questions, template, rubric
        slots = num_slots(len(questions), self.grpo.questions_per_step, self.grpo.epochs)
        plan = plan_steps(slots, self.grpo.steps_per_rollout, self.grpo.updates_per_rollout)
        self.plan = plan[: self.grpo.max_steps] if self.grpo.max_steps else plan
        self.num_steps = len(self.plan)
        self.scheme = Scheme.of(config)
        processor = learner.policy.logits_processor(self.grpo.temperature)
        precision = config.model.precision
        recompute = config.model.gradient_checkpointing
        self.useful = UsefulFlops(config, learner.policy)
        features = learner.policy.features
        self.forward = PolicyForward(learner.policy.model, processor, precision, recompute, features)
        self.reference: PolicyForward | None = None
        self.offloaded: OffloadedModel | None = None
        if self.grpo.kl_coef > 0:
            # An adapter switched off is the start of training, because a loaded adapter was merged.
            model = learner.policy.model if learner.adapter is not None else reference
            if model is None:
                raise ValueError("kl_coef > 0 without an adapter needs a frozen reference model")
            self.reference = PolicyForward(model, processor, precision, features=features)
            if self.grpo.offload_reference:
                self.offloaded = OffloadedModel(model, world.device)
        rollouts = self.plan[-1].rollout + 1
        self.ahead = Ahead(self._my_share, rollouts, self._prompt, beside=works_beside(world.device))
        self.buffer: list[PendingGroup] = []  # this process's groups of the current rollout batch
        self.buffer_rollout = -1

    @property
    def on_policy(self) -> bool:
        return self._cycle == 1

    # ---- one step -------------------------------------------------------------------------------

    def fill_gradients(self, step: int, clock: Clock) -> StepReport:
        planned = self.plan[step]
        self.useful.start()
        if planned.rollout != self.buffer_rollout:
            self._roll_out(planned.rollout, clock)
        mine = [p for p in self.buffer if p.slot == planned.slot]
        trained = [p for p in mine if self._teaches(p.group)]
        over = self._denominators(mine)
        sums = LossSums()
        with clock.part("data"):
            batches = self._microbatches(trained)
        # The whole step's reference comes first: while its weights are here, no gradient needs to be.
        references = self._reference_logprobs(batches, clock)
        for batch, ref_NT in zip(batches, references, strict=True):
            with clock.part("loss"):
                self._accumulate(batch, ref_NT, over, sums)
            self.useful.add_update(batch.work)
        first_use = all(p.slot != planned.slot for p in self.plan[max(0, step - self._cycle) : step])
        return self._report([p.group for p in mine], sums, log_rollouts=first_use)

    def _roll_out(self, rollout: int, clock: Clock) -> None:
        mine = self._my_share(rollout)
        questions = [q for _, q in mine]
        with clock.part("data"):
            prompts = self.ahead.take(rollout)
        with clock.part("rollout"):
            completions = complete(
                self.learner.policy,
                questions,
                self.template,
                Sampling(self.grpo.max_completion_tokens, self.grpo.temperature, self.config.seed),
                group_size=self.grpo.group_size,
                step=[slot for slot, _ in mine],
                prompts=prompts,
            )
        self.useful.add_rollout(
            prompt.work([len(c.token_ids) for c in group])
            for prompt, group in zip(prompts, completions, strict=True)
        )
        with clock.part("reward"):
            groups = [self._score(q, group) for (_, q), group in zip(mine, completions, strict=True)]
        slots_of_mine = [slot for slot, _ in mine]
        self.buffer = [PendingGroup(*pair, None) for pair in zip(slots_of_mine, groups, strict=True)]
        self.buffer_rollout = rollout
        if not self.on_policy:
            self._keep_old_logprobs(clock)

    def _my_share(self, rollout: int) -> list[tuple[int, Question]]:
        """This process's questions of a rollout batch, each with its slot."""
        slots = sorted({p.slot for p in self.plan if p.rollout == rollout})
        return self.world.share([(slot, q) for slot in slots for q in self._asked_in(slot)])

    def _prompt(self, asked: tuple[int, Question]) -> PromptInputs:
        return self.learner.policy.prompt_inputs(asked[1], self.template)

    def _asked_in(self, slot: int) -> list[Question]:
        size, permute = self.grpo.questions_per_step, self.config.data.permute_choices
        return slot_questions(self.questions, slot, size, self.config.seed, permute)

    def _score(self, question: Question, completions: Sequence[Completion]) -> RolloutGroup:
        read = [extract_answer(c.text, question.choices) for c in completions]
        rewards = [
            self.rubric.score(c, e, question, self.template) for c, e in zip(completions, read, strict=True)
        ]
        totals = torch.tensor([[r.total for r in rewards]], dtype=torch.float64)
        advantages = group_advantages(totals, self.grpo.normalize_std)[0].tolist()
        rollouts = tuple(
            Rollout(completion=c, extraction=e, reward=r, advantage=a)
            for c, e, r, a in zip(completions, read, rewards, advantages, strict=True)
        )
        return RolloutGroup(question=question, rollouts=rollouts)

    def _keep_old_logprobs(self, clock: Clock) -> None:
        """The policy's own pass over what it sampled: a part of the loss, not of the reference."""
        kept = list(self.buffer)
        with clock.part("data"):
            batches = self._microbatches(self.buffer)
        for batch in batches:
            with clock.part("loss"), torch.no_grad():
                logprobs_BGT = self.forward(batch.inputs, batch.ids_BGT, batch.mask_BGT)[0].tolist()
            for index, rows in zip(batch.indices, logprobs_BGT, strict=True):
                lengths = [len(r.completion.token_ids) for r in kept[index].group.rollouts]
                old = tuple(tuple(row[:n]) for row, n in zip(rows, lengths, strict=True))
                kept[index] = replace(kept[index], old_logprobs=old)
        self.buffer = kept

    # ---- loss -----------------------------------------------------------------------------------

    def _teaches(self, group: RolloutGroup) -> bool:
        """A zero-variance group has no policy gradient; with a KL term it still has that one."""
        return self.grpo.kl_coef > 0 or any(r.advantage != 0 for r in group.rollouts)

    def _trained_tokens(self, rollout: Rollout) -> int:
        masked = self.grpo.mask_truncated and rollout.completion.truncated
        return 0 if masked else len(rollout.completion.token_ids)

    def _denominators(self, mine: Sequence[PendingGroup]) -> Denominators:
        """Counts over the whole step, zero-variance groups and masked completions included as rollouts."""
        rollouts = [r for p in mine for r in p.group.rollouts]
        counts = self.world.gather((len(rollouts), sum(self._trained_tokens(r) for r in rollouts)))
        return Denominators(
            num_rollouts=sum(n for n, _ in counts),
            num_tokens=sum(t for _, t in counts),
            max_completion_tokens=self.grpo.max_completion_tokens,
        )

    @property
    def _cycle(self) -> int:
        """Optimizer steps fed by one rollout batch."""
        return self.grpo.steps_per_rollout * self.grpo.updates_per_rollout

    def _microbatches(self, groups: Sequence[PendingGroup]) -> list[Microbatch]:
        """The groups in as few forwards as the token budget allows, in an order of its own."""
        prompts = [self.learner.policy.prompt_inputs(p.group.question, self.template) for p in groups]
        lengths = [[len(r.completion.token_ids) for r in p.group.rollouts] for p in groups]
        works = [prompt.work(n) for prompt, n in zip(prompts, lengths, strict=True)]
        sizes = [packed_tokens(work, self.scheme.tower) for work in works]
        filled = fill(sizes, self.config.model.microbatch_tokens)
        return [self._together(groups, prompts, indices) for indices in filled]

    def _together(
        self, groups: Sequence[PendingGroup], prompts: Sequence[PromptInputs], indices: Sequence[int]
    ) -> Microbatch:
        policy = self.learner.policy
        taken = tuple(groups[i] for i in indices)
        rows = [[r.completion.token_ids for r in p.group.rollouts] for p in taken]
        ids, mask = pad_completions(rows, policy.pad_id, policy.device)
        inputs = policy.batch([prompts[i] for i in indices])
        work = tuple(
            prompts[i].work([len(row) for row in group]) for i, group in zip(indices, rows, strict=True)
        )
        return Microbatch(taken, tuple(indices), inputs, ids, mask, work)

    def _reference_logprobs(self, batches: Sequence[Microbatch], clock: Clock) -> Sequence[Tensor | None]:
        """[N, T] of each micro-batch, or None where there is no reference."""
        if self.reference is None:
            return [None] * len(batches)
        with clock.part("reference"), torch.no_grad(), self._reference_weights():
            return [self.reference(b.inputs, b.ids_BGT, b.mask_BGT)[0].flatten(0, 1) for b in batches]

    def _accumulate(
        self, batch: Microbatch, ref_NT: Tensor | None, over: Denominators, sums: LossSums
    ) -> None:
        logprobs_BGT, entropy_BGT = self.forward(
            batch.inputs, batch.ids_BGT, batch.mask_BGT, with_entropy=True
        )
        logprobs_NT, device = logprobs_BGT.flatten(0, 1), logprobs_BGT.device
        rollouts = [r for p in batch.groups for r in p.group.rollouts]
        trained_N = torch.tensor([self._trained_tokens(r) > 0 for r in rollouts], device=device)
        mask_NT = (batch.mask_BGT.flatten(0, 1) & trained_N[:, None]).float()
        old_NT = self._old_logprobs(batch.groups, logprobs_NT)
        terms = grpo_loss(
            logprobs_NT,
            old_NT,
            torch.tensor([r.advantage for r in rollouts], dtype=torch.float32, device=device),
            mask_NT,
            clip_low=self.grpo.clip_low,
            clip_high=self.grpo.clip_high,
            aggregation=self.grpo.loss_aggregation,
            over=over,
            kl_coef=self.grpo.kl_coef,
            kl_estimator=self.grpo.kl_estimator,
            ref_logprobs_NT=ref_NT,
        )
        terms.loss.backward()
        sampled_NT = _padded([r.completion.sampled_logprobs for r in rollouts], logprobs_NT)
        gap = ((old_NT - sampled_NT).abs() * mask_NT).sum()
        sums.add(terms, gap, (entropy_BGT.flatten(0, 1) * mask_NT).sum(), mask_NT.sum())

    def _old_logprobs(self, batch: Sequence[PendingGroup], logprobs_NT: Tensor) -> Tensor:
        if self.on_policy:
            return logprobs_NT.detach()
        return _padded([row for p in batch for row in (p.old_logprobs or ())], logprobs_NT)

    def _reference_weights(self) -> AbstractContextManager[Any]:
        if self.learner.adapter is not None:
            return self.learner.adapter.disable_adapter()
        return nullcontext() if self.offloaded is None else self.offloaded.on_device()

    # ---- log and resume -------------------------------------------------------------------------

    def _report(self, groups: Sequence[RolloutGroup], sums: LossSums, log_rollouts: bool) -> StepReport:
        """Metrics over all processes; rollout records in the order of the questions."""
        stats = self.world.merge([GroupStats.of(g) for g in groups])
        total = LossSums()
        for part in self.world.gather(sums):
            total.merge(part)
        records = self.world.merge([log_record(g) for g in groups]) if log_rollouts else []
        return StepReport(
            metrics={**group_metrics(stats), **total.metrics()},
            question_visits=len(stats),
            tokens=sum(s.tokens for s in stats),
            useful_flops=sum(self.world.gather(self.useful.of_step())),
            rollouts=records,
        )

    def close(self) -> None:
        self.ahead.close()

    def pending(self) -> dict[str, Any]:
        groups = self.world.merge([pending_to_json(p) for p in self.buffer])
        return {"rollout": self.buffer_rollout, "groups": [] if self.on_policy else groups}

    def restore(self, pending: Mapping[str, Any]) -> None:
        slots = {int(g["slot"]) for g in pending["groups"]}
        asked = {slot: {q.id: q for q in self._asked_in(slot)} for slot in slots}
        self.buffer_rollout = int(pending["rollout"])
        groups = [pending_from_json(g, asked[int(g["slot"])]) for g in pending["groups"]]
        self.buffer = self.world.share(groups)


def _padded(rows_N: Sequence[Sequence[float]], like_NT: Tensor) -> Tensor:
    """Values of each row, zeros behind them, [N, T] on the device of `like_NT`."""
    return pad_sequence([torch.tensor(row) for row in rows_N], batch_first=True).to(like_NT)
