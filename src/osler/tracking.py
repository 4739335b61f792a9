"""The run folder's files: JSON that appears whole, append-only JSONL, and the fixed list of metric names."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

METRICS: Mapping[str, str] = {
    "reward/total": "mean weighted reward of the step's rollouts",
    "reward/accuracy": "mean accuracy reward, unweighted",
    "reward/format": "mean format reward, unweighted",
    "completion/length_mean": "mean completion length in tokens, end token included",
    "completion/truncated_frac": "share of completions stopped by max_completion_tokens",
    "completion/unparsed_frac": "share of completions from which no answer could be read",
    "group/zero_variance_frac": "share of groups whose rewards are all equal: they teach nothing",
    "loss/total": "the objective that was differentiated",
    "loss/policy": "its policy part",
    "loss/kl": "mean per-token KL estimate to the reference, not multiplied by kl_coef",
    "ratio/mean": "mean importance ratio; 1 on policy",
    "ratio/sampled_gap": "mean |old log-probability - the one sampling reported|, nats",
    "ratio/clipped_frac": "share of trained tokens whose ratio was clipped",
    "entropy/mean": "mean entropy of the policy at completion tokens, nats",
    "optim/lr": "learning rate of the step",
    "optim/grad_norm": "global gradient norm before clipping",
    "progress/questions": "question visits so far",
    "time/data": "seconds, inputs of rollout and loss",
    "time/rollout": "seconds",
    "time/reward": "seconds",
    "time/reference": "seconds",
    "time/loss": "seconds, forward and backward, and old log-probabilities",
    "time/optimizer": "seconds",
    "time/other": "seconds, none of the above",
    "time/step": "seconds, the sum of the above",
    "throughput/tokens_per_second": "completion tokens of the step per second of it",
    "throughput/mfu": "useful operations of the step, per second of it, as a share of the measured ceiling",
    "memory/peak_bytes": "peak of the step: memory in tensors (CUDA) or resident memory (CPU)",
}
METRIC_FAMILIES = (
    "reward/",
    "eval/accuracy/",
    "eval/accuracy_low/",
    "eval/accuracy_high/",
    "eval/parse_rate/",
    "eval/parsed_accuracy/",
)


def check_metric_names(metrics: Mapping[str, float]) -> None:
    """Raise ValueError for a name that is neither listed nor of an open family."""
    for name in metrics:
        if name not in METRICS and not name.startswith(METRIC_FAMILIES):
            raise ValueError(f"metric {name} is not in osler.tracking.METRICS")


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file that is there complete or, whenever the process dies, as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


class JsonLines:
    """An append-only file of JSON objects. Every line is flushed; a torn last line is dropped on reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_finite(record)) + "\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # torn by a crash; nothing after it exists
                yield json.loads(line)

    def truncate(self, keep: Callable[[dict[str, Any]], bool]) -> int:
        """Drop every record that `keep` refuses, and a torn last line; return how many were dropped.

        A resumed run goes back to its last checkpoint, so what was logged after it happened in a
        future that will be computed again.
        """
        if not self.path.is_file():
            return 0
        kept, total = [], 0
        for record in self:
            total += 1
            if keep(record):
                kept.append(json.dumps(record))
        total += not self.path.read_bytes().endswith(b"\n") if self.path.stat().st_size else 0
        temporary = self.path.with_suffix(".partial")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        return total - len(kept)


def _finite(value: Any) -> Any:
    # JSON has no NaN or infinity, and a reader must not meet an invalid line.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
