"""What a GRPO step reports: sums that add up over micro-batches and processes, then means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from osler.data.images import image_digest
from osler.records import RolloutGroup
from osler.train.grpo.loss import LossTerms


@dataclass
class LossSums:
    """Sums over trained tokens; the losses are already divided by the step's denominators."""

    loss: float = 0.0
    policy: float = 0.0
    kl: float = 0.0
    ratio: float = 0.0
    clipped: float = 0.0
    sampled_gap: float = 0.0
    entropy: float = 0.0
    tokens: float = 0.0

    def add(self, terms: LossTerms, sampled_gap: Tensor, entropy: Tensor, tokens: Tensor) -> None:
        self.loss += float(terms.loss.detach())
        self.policy += float(terms.policy)
        self.kl += float(terms.kl)
        self.ratio += float(terms.ratio)
        self.clipped += float(terms.clipped)
        self.sampled_gap += float(sampled_gap)
        self.entropy += float(entropy)
        self.tokens += float(tokens)

    def merge(self, other: LossSums) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def metrics(self) -> dict[str, float]:
        """Per-token means; absent where no token was trained (every group had zero variance)."""
        losses = {"loss/total": self.loss, "loss/policy": self.policy}
        if self.tokens == 0:
            return losses
        return {
            **losses,
            "loss/kl": self.kl / self.tokens,
            "ratio/mean": self.ratio / self.tokens,
            "ratio/clipped_frac": self.clipped / self.tokens,
            "ratio/sampled_gap": self.sampled_gap / self.tokens,
            "entropy/mean": self.entropy / self.tokens,
        }


@dataclass(frozen=True)
class GroupStats:
    """One group's contribution to the step's metrics."""

    rewards: tuple[Mapping[str, float], ...]  # per rollout: "total" and the unweighted parts
    tokens: int
    truncated: int
    unparsed: int
    zero_variance: bool

    @classmethod
    def of(cls, group: RolloutGroup) -> GroupStats:
        rollouts = group.rollouts
        totals = [r.reward.total for r in rollouts]
        return cls(
            rewards=tuple({"total": r.reward.total, **r.reward.breakdown} for r in rollouts),
            tokens=sum(len(r.completion.token_ids) for r in rollouts),
            truncated=sum(r.completion.truncated for r in rollouts),
            unparsed=sum(r.extraction.index is None for r in rollouts),
            zero_variance=min(totals) == max(totals),
        )


def group_metrics(stats: Sequence[GroupStats]) -> dict[str, float]:
    """Means over all rollouts of the step."""
    rewards = [r for s in stats for r in s.rewards]
    n = len(rewards)
    parts = {f"reward/{name}": sum(r[name] for r in rewards) / n for name in rewards[0]}
    return {
        **parts,
        "completion/length_mean": sum(s.tokens for s in stats) / n,
        "completion/truncated_frac": sum(s.truncated for s in stats) / n,
        "completion/unparsed_frac": sum(s.unparsed for s in stats) / n,
        "group/zero_variance_frac": sum(s.zero_variance for s in stats) / len(stats),
    }


def log_record(group: RolloutGroup) -> dict[str, Any]:
    """One line of `rollouts.jsonl`: everything a reader needs except the image, which goes by digest."""
    question = group.question
    return {
        "question_id": question.id,
        "question": question.text,
        "choices": list(question.choices),
        "answer_index": question.answer_index,
        "image_digest": image_digest(question.images),
        "modality": question.modality,
        "question_type": question.question_type,
        "rollouts": [
            {
                "text": r.completion.text,
                "tokens": len(r.completion.token_ids),
                "finish_reason": r.completion.finish_reason,
                "extraction": asdict(r.extraction),
                "reward": r.reward.total,
                "reward_breakdown": dict(r.reward.breakdown),
                "advantage": r.advantage,
            }
            for r in group.rollouts
        ],
    }
