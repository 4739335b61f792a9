"""What feeding a step costs: the token budget of a forward, and a frozen tower's kept features.

python -m benchmarks.inputs OUT [ROW]     (ROW as in benchmarks/fast_path/rows.py; by default update-g8-196)

Processor seconds of an update (reference, loss, backward; one thread, fp32, the tiny model of the CPU rows,
4 questions), median of 3 with each of them, the variants taking turns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.fast_path.case import Case, make_case
from benchmarks.fast_path.models import ASK
from benchmarks.fast_path.osler_side import NO_TOKEN, build_update, config_of
from benchmarks.fast_path.rows import ROWS, SCALES
from benchmarks.fast_path.timing import median, take_turns
from osler.rewards import build_rubric
from osler.runtime import World
from osler.train.clock import Clock, HostTimeline
from osler.train.grpo.trainer import GrpoMethod
from osler.train.loop import build_learner

REPEATS = 3
BUDGETS = (1, 4000, 8192)


def budgets(case: Case) -> dict[str, Callable[[], None]]:
    """The update of full fine-tuning with each budget of `model.microbatch_tokens`."""
    side = build_update(case)
    config = side.method.config

    def with_budget(tokens: int) -> Callable[[], None]:
        def update() -> None:
            side.method.config = replace(config, model=replace(config.model, microbatch_tokens=tokens))
            side.update()

        return update

    return {f"microbatch_tokens {tokens}": with_budget(tokens) for tokens in BUDGETS}


def kept_features(case: Case) -> dict[str, Callable[[], None]]:
    """The update of LoRA, the frozen tower walked each time, and its features kept."""
    return {f"lora, features {how}": lora_update(case, how == "kept") for how in ("walked", "kept")}


def lora_update(case: Case, kept: bool) -> Callable[[], None]:
    config = config_of(case, mask_placeholders=False)
    config = replace(config, model=replace(config.model, lora_rank=8))
    world = World(0, 1, torch.device("cpu"))
    learner = build_learner(config, case.folder, world, None)
    learner.policy.model.generation_config.eos_token_id = NO_TOKEN
    if not kept:
        learner.policy.features = None
    rubric = build_rubric(config.rewards)
    method = GrpoMethod(config, world, learner, case.questions, ASK, rubric)
    method.fill_gradients(0, Clock(HostTimeline()))  # samples; from here on the same rollouts are used again

    def update() -> None:
        learner.policy.model.zero_grad(set_to_none=True)
        method.fill_gradients(0, Clock(HostTimeline()))

    return update


def main(out: str, row_name: str = "update-g8-196") -> None:
    torch.set_num_threads(1)
    (row,) = (row for row in ROWS if row.name == row_name)
    case = make_case(row, replace(SCALES["cpu"], questions=4), Path(out))
    for build in (budgets, kept_features):
        for name, runs in take_turns(build(case), REPEATS, "cpu").items():
            all_runs = "  ".join(f"{run.process:.2f}" for run in runs)
            print(f"{row.name}  {name:<24}{median(runs, 'cpu'):7.2f} s  ({all_runs})", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
