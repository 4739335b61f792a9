"""Golden tensors for `tests/test_trl_golden.py`, computed by TRL's own functions on a real GRPOTrainer.

    .venv-bench/bin/python -m benchmarks.golden_trl tests/golden/trl_grpo.json

Advantages of given rewards; loss and its gradient for given log-probabilities, for every aggregation;
log-probabilities and entropies of given completions of two questions with images of different size, at a
temperature other than 1. The model's weights are a formula, so nothing but these numbers is kept.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer

from benchmarks.fast_path.golden_case import (
    COMPLETIONS,
    GROUP_SIZE,
    TEMPERATURE,
    formula_questions,
    write_formula_model,
)
from benchmarks.fast_path.models import ASK
from benchmarks.fast_path.trl_side import load_processor

REWARDS = [[2.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5], [0.1, 0.7, 1.3, 0.2]]
LOSS_TYPES = {"sequence_mean": "grpo", "token_mean": "bnpo", "constant": "dr_grpo"}
CLIP_LOW, CLIP_HIGH, KL_COEF, MAX_TOKENS = 0.2, 0.28, 0.04, 7
LENGTHS = [5, 2, 4, 1, 5, 3, 5, 4]  # of the completions whose loss is computed


def build_trainer(folder: Path, images: Path, **settings: Any) -> tuple[GRPOTrainer, list[dict[str, Any]]]:
    """A trainer on the formula model, and its rows: every question GROUP_SIZE times."""
    questions = formula_questions(images)
    rows = [
        {
            "prompt": [{"role": "user", "content": ASK.user_text(q)}],
            "image": Image.open(q.images[0]).convert("RGB"),
        }
        for q in questions
    ]
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        num_generations=GROUP_SIZE,
        per_device_train_batch_size=GROUP_SIZE * len(questions),
        max_completion_length=MAX_TOKENS,
        use_bias_correction_kl=False,
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        report_to=[],
        **settings,
    )
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        processing_class=load_processor(folder),
        reward_funcs=lambda completions, **_: [float(i) for i, _ in enumerate(completions)],
        args=config,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer, [row for row in rows for _ in range(GROUP_SIZE)]


def prepared(
    trainer: GRPOTrainer, rows: list[dict[str, Any]], completions: list[list[int]]
) -> dict[str, Any]:
    """What TRL makes of given completions: tensors, advantages."""

    def given(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}

    trainer.rollout_func = given
    return trainer._generate_and_score_completions(rows)


def advantages(folder: Path, images: Path) -> dict[str, Any]:
    """TRL's advantages of REWARDS, with and without the division by the group's standard deviation."""
    found: dict[str, Any] = {"rewards": REWARDS}
    for name, scale in (("normalized", "group"), ("centred", "none")):
        trainer, rows = build_trainer(folder, images, scale_rewards=scale)
        trainer.num_generations = len(REWARDS[0])
        flat = [reward for group in REWARDS for reward in group]
        trainer.reward_funcs = [lambda completions, flat=flat, **_: list(flat)]
        twelve = [rows[0]] * len(flat)
        inputs = prepared(trainer, twelve, [list(COMPLETIONS[0][0])] * len(flat))
        found[name] = inputs["advantages"].view(len(REWARDS), -1).tolist()
    return found


def losses(folder: Path, images: Path) -> dict[str, Any]:
    """TRL's `_compute_loss` on given log-probabilities, and the gradient with respect to them."""
    rng = torch.Generator().manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))
    now = -3 * torch.rand(shape, generator=rng)
    old = now + 0.3 * torch.randn(shape, generator=rng)
    ref = now + 0.5 * torch.randn(shape, generator=rng)
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    given = {
        "logprobs": now,
        "old_logprobs": old,
        "ref_logprobs": ref,
        "advantages": torch.randn(shape[0], generator=rng),
        "mask": mask,
    }
    settings = {
        "clip_low": CLIP_LOW, "clip_high": CLIP_HIGH, "kl_coef": KL_COEF, "max_completion_tokens": MAX_TOKENS
    }  # fmt: skip
    trainer, _ = build_trainer(folder, images, beta=KL_COEF)
    modes = {}
    for aggregation, loss_type in LOSS_TYPES.items():
        for case in ("off_policy", "on_policy", "no_kl"):
            trainer.loss_type = loss_type
            trainer.beta = 0.0 if case == "no_kl" else KL_COEF
            modes[f"{aggregation} {case}"] = one_loss(trainer, given, on_policy=case == "on_policy")
    return {"given": {k: v.tolist() for k, v in given.items()}, "settings": settings, "modes": modes}


def one_loss(trainer: GRPOTrainer, given: dict[str, Tensor], on_policy: bool) -> dict[str, Any]:
    """Only the model is replaced: TRL's loss gets `given` where it would run a forward."""
    now = given["logprobs"].clone().requires_grad_()
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(given["mask"]),
        "completion_mask": given["mask"],
        "advantages": given["advantages"],
        "ref_per_token_logps": given["ref_logprobs"],
        "num_items_in_batch": given["mask"].sum(),
    }
    if not on_policy:
        inputs["old_per_token_logps"] = given["old_logprobs"]
    entropies = torch.zeros_like(now)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (now, entropies, None)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert now.grad is not None
    return {"loss": loss.item(), "gradient": now.grad.tolist()}


def logprobs(folder: Path, images: Path) -> dict[str, Any]:
    """TRL's log-probabilities and entropies of COMPLETIONS, one list per row."""
    trainer, rows = build_trainer(folder, images, temperature=TEMPERATURE)
    flat = [list(c) for group in COMPLETIONS for c in group]
    inputs = prepared(trainer, rows, flat)
    with torch.no_grad():
        found = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].size(1),
            compute_entropy=True,
            **{k: inputs[k] for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
        )
    lengths = [len(ids) for ids in flat]
    return {
        name: [row[:n] for row, n in zip(values.tolist(), lengths, strict=True)]
        for name, values in zip(("logprobs", "entropies"), found[:2], strict=True)
    }


def rounded(value: Any) -> Any:
    """Eight significant digits: fp32 has no more."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, images = Path(scratch) / "model", Path(scratch) / "images"
        write_formula_model(folder)
        golden = {
            "made_with": {name: version(name) for name in ("trl", "transformers", "torch")},
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "advantages": advantages(folder, images),
            "loss": losses(folder, images),
            "completions": logprobs(folder, images),
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rounded(golden)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
