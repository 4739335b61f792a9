"""The GRPO mathematics against hand computation, closed forms and the slow obvious version."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from osler.records import Question
from osler.train.grpo.advantage import group_advantages, zero_variance
from osler.train.grpo.loss import Denominators, aggregate, grpo_loss, kl_estimate
from osler.train.schedule import num_slots, plan_steps, slot_indices, slot_questions

CLIPS = {"clip_low": 0.2, "clip_high": 0.2}


def test_advantages_by_hand() -> None:
    # rewards 2, 1, 1, 0: mean 1, sample variance (1 + 0 + 0 + 1) / 3
    advantages = group_advantages(torch.tensor([[2.0, 1.0, 1.0, 0.0]]))
    unit = 1 / (math.sqrt(2 / 3) + 1e-4)
    torch.testing.assert_close(advantages, torch.tensor([[unit, 0.0, 0.0, -unit]]))
    plain = group_advantages(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), normalize_std=False)
    assert plain.tolist() == [[1.0, 0.0, 0.0, -1.0]]


def test_equal_rewards_give_exactly_zero() -> None:
    rewards = torch.full((2, 3), 0.1)  # 0.1 has no exact mean in binary
    rewards[1, 0] = 0.2
    assert zero_variance(rewards).tolist() == [True, False]
    assert group_advantages(rewards)[0].tolist() == [0.0, 0.0, 0.0]


def test_on_policy_gradient_is_reinforce_by_hand() -> None:
    """Vocabulary of 3, two one-token completions, rewards 1 and 0.

    With p = softmax(z), advantage +-a and loss = -mean(A log p[token]), the gradient is
    dL/dz = -(1/2) [a (e_0 - p) - a (e_2 - p)] = -(a/2) (e_0 - e_2).
    """
    z = torch.tensor([0.3, -0.2, 0.5], requires_grad=True)
    tokens = torch.tensor([0, 2])
    logprobs = z.log_softmax(0)[tokens][:, None]
    a = group_advantages(torch.tensor([[1.0, 0.0]]))[0]
    over = Denominators(num_rollouts=2, num_tokens=2, max_completion_tokens=1)
    terms = grpo_loss(
        logprobs, logprobs.detach(), a, torch.ones(2, 1), **CLIPS, aggregation="sequence_mean", over=over
    )
    terms.loss.backward()
    scale = 0.5 / (math.sqrt(0.5) + 1e-4) / 2
    torch.testing.assert_close(z.grad, torch.tensor([-scale, 0.0, scale]))
    assert float(terms.ratio) == 2.0 and float(terms.clipped) == 0.0


def tensors(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).float()
    return {
        "now": -torch.rand(4, 5, generator=g) * 3,
        "old": -torch.rand(4, 5, generator=g) * 3,
        "ref": -torch.rand(4, 5, generator=g) * 3,
        "advantages": torch.randn(4, generator=g),
        "mask": mask,
    }


def slow_loss(
    t: dict[str, Tensor], aggregation: str, low: float, high: float, beta: float, max_tokens: int
) -> float:
    """The paper's sums, one token at a time."""
    per_rollout: list[list[float]] = []
    for i in range(4):
        row = []
        for j in range(5):
            if not t["mask"][i, j]:
                continue
            ratio = math.exp(float(t["now"][i, j] - t["old"][i, j]))
            advantage = float(t["advantages"][i])
            clipped = min(max(ratio, 1 - low), 1 + high)
            d = float(t["ref"][i, j] - t["now"][i, j])
            row.append(-min(ratio * advantage, clipped * advantage) + beta * (math.exp(d) - d - 1))
        per_rollout.append(row)
    if aggregation == "sequence_mean":
        return sum(sum(r) / len(r) for r in per_rollout if r) / 4
    total = sum(sum(r) for r in per_rollout)
    return (
        total / sum(len(r) for r in per_rollout) if aggregation == "token_mean" else total / (4 * max_tokens)
    )


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant"])
def test_loss_equals_the_slow_version(aggregation: str) -> None:
    t = tensors()
    over = Denominators(num_rollouts=4, num_tokens=int(t["mask"].sum()), max_completion_tokens=7)
    terms = grpo_loss(
        t["now"], t["old"], t["advantages"], t["mask"], clip_low=0.1, clip_high=0.3,
        aggregation=aggregation, over=over, kl_coef=0.04, kl_estimator="k3", ref_logprobs_NT=t["ref"],
    )  # fmt: skip
    assert float(terms.loss) == pytest.approx(slow_loss(t, aggregation, 0.1, 0.3, 0.04, 7), rel=1e-5)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant"])
def test_micro_batches_add_up(aggregation: str) -> None:
    t = tensors(1)
    over = Denominators(num_rollouts=4, num_tokens=int(t["mask"].sum()), max_completion_tokens=5)
    whole = aggregate(t["now"], t["mask"], aggregation, over)
    parts = sum(aggregate(t["now"][i : i + 1], t["mask"][i : i + 1], aggregation, over) for i in range(4))
    torch.testing.assert_close(whole, parts)


def test_clipped_tokens_have_no_gradient() -> None:
    now = torch.tensor([[math.log(1.5)], [math.log(0.5)]], requires_grad=True)
    over = Denominators(2, 2, 1)
    terms = grpo_loss(
        now, torch.zeros(2, 1), torch.tensor([1.0, -1.0]), torch.ones(2, 1), **CLIPS,
        aggregation="token_mean", over=over,
    )  # fmt: skip
    terms.loss.backward()
    assert now.grad.flatten().tolist() == [0.0, 0.0] and float(terms.clipped) == 2.0


def test_kl_estimators_average_to_the_kl_divergence() -> None:
    """Expectation over samples of the policy: k1 and k3 are unbiased for KL(p to q); k2 is near it."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.45, 0.35, 0.2])
    exact = float((p * (p / q).log()).sum())
    for estimator, tolerance in (("k1", 1e-6), ("k3", 1e-6), ("k2", 1e-3)):
        mean = float((p * kl_estimate(p.log(), q.log(), estimator)).sum())
        assert mean == pytest.approx(exact, abs=tolerance)
    assert (kl_estimate(p.log(), q.log(), "k3") >= 0).all()


def test_plan_uses_every_part_mu_times() -> None:
    plan = plan_steps(slots=5, steps_per_rollout=2, updates_per_rollout=3)
    assert len(plan) == 15
    assert [(p.rollout, p.slot) for p in plan[:6]] == [(0, 0), (0, 1)] * 3
    assert [(p.rollout, p.slot) for p in plan[12:]] == [(2, 4)] * 3


def test_every_pass_sees_every_question_once_in_a_new_order() -> None:
    slots = num_slots(10, 4, 2.0)
    assert slots == 6
    seen = [slot_indices(s, 10, 4, seed=3) for s in range(slots)]
    first, second = ([i for part in half for i in part] for half in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert seen == [slot_indices(s, 10, 4, seed=3) for s in range(slots)]
    assert seen != [slot_indices(s, 10, 4, seed=4) for s in range(slots)]


def test_choices_are_permuted_anew_in_every_pass_and_the_answer_goes_along() -> None:
    asked = [
        Question(id=f"q{i}", text="Which?", choices=tuple("abcd"), answer_index=i % 4) for i in range(10)
    ]
    by_id = {q.id: q for q in asked}
    passes = [
        [q for s in range(3 * p, 3 * p + 3) for q in slot_questions(asked, s, 4, 3, True)] for p in range(2)
    ]
    for one in passes:
        assert sorted(q.id for q in one) == sorted(by_id)
        assert all(q.answer == by_id[q.id].answer and sorted(q.choices) == list("abcd") for q in one)
    first, second = ({q.id: q.choices for q in one} for one in passes)
    assert sum(first[i] != second[i] for i in by_id) >= 7
    assert slot_questions(asked, 1, 4, 3, False) == [asked[i] for i in slot_indices(1, 10, 4, 3)]
