"""Two steps of a recipe, tried on this machine: what its own model takes, on its own questions.

A step of a small model on a CPU is thousands of small operations, and what each takes beyond its arithmetic
depends on processor and library. Where a trial is a matter of seconds, it knows better than `costs.seconds`.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from osler.config import TrainConfig, ValidationConfig
from osler.tracking import JsonLines
from osler.train.run import train


def trial_steps(config: TrainConfig) -> int:
    """Twice as many steps as one rollout batch feeds: the first half loads code and fills caches."""
    grpo = config.grpo
    return 2 * (grpo.steps_per_rollout * grpo.updates_per_rollout if config.method == "grpo" else 1)


def trial_seconds(config: TrainConfig) -> dict[str, float]:
    """Seconds per step by part (`time/*` of metrics.jsonl), mean of the trial's second half.

    Trains in a temporary folder, without validation. Raises BadInput where the training itself would.
    """
    steps = trial_steps(config)
    short = replace(
        config,
        log_rollouts=False,
        validation=ValidationConfig(),
        grpo=replace(config.grpo, max_steps=steps),
        sft=replace(config.sft, max_steps=steps),
    )
    with TemporaryDirectory(prefix="osler-trial-") as folder:
        train(short, Path(folder) / "run")
        found = list(JsonLines(Path(folder) / "run" / "metrics.jsonl"))
    settled = found[steps // 2 :] or found[-1:]  # few questions may make fewer steps
    names = [name for name in found[0] if name.startswith("time/")]
    return {name: statistics.fmean(step.get(name, 0.0) for step in settled) for name in names}
