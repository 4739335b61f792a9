"""Loss, advantages and log-probabilities against golden tensors made with TRL (benchmarks/golden_trl.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fast_path.golden_case import (
    COMPLETIONS,
    GROUP_SIZE,
    TEMPERATURE,
    formula_questions,
    write_formula_model,
)
from benchmarks.fast_path.models import ASK
from osler.policy.forward import PolicyForward
from osler.policy.inputs import collate, pad_completions
from osler.policy.load import load_policy
from osler.train.grpo.advantage import group_advantages
from osler.train.grpo.loss import Denominators, grpo_loss

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trl_grpo.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("normalize_std", [True, False])
def test_advantages_are_trls(normalize_std: bool) -> None:
    found = group_advantages(torch.tensor(GOLDEN["advantages"]["rewards"]), normalize_std)
    expected = torch.tensor(GOLDEN["advantages"]["normalized" if normalize_std else "centred"])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", sorted(GOLDEN["loss"]["modes"]))
def test_loss_and_its_gradient_are_trls(mode: str) -> None:
    aggregation, case = mode.split()
    given = {name: torch.tensor(values) for name, values in GOLDEN["loss"]["given"].items()}
    settings: dict[str, Any] = GOLDEN["loss"]["settings"]
    now = given["logprobs"].requires_grad_()
    mask = given["mask"].float()
    terms = grpo_loss(
        now,
        now.detach() if case == "on_policy" else given["old_logprobs"],
        given["advantages"],
        mask,
        clip_low=settings["clip_low"],
        clip_high=settings["clip_high"],
        aggregation=aggregation,
        over=Denominators(len(mask), int(mask.sum()), settings["max_completion_tokens"]),
        kl_coef=0.0 if case == "no_kl" else settings["kl_coef"],
        ref_logprobs_NT=given["ref_logprobs"],
    )
    terms.loss.backward()
    expected = GOLDEN["loss"]["modes"][mode]
    torch.testing.assert_close(terms.loss.item(), expected["loss"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(now.grad, torch.tensor(expected["gradient"]), rtol=1e-5, atol=1e-8)


def test_the_loss_cases_clip_some_tokens_and_not_others() -> None:
    given = {name: torch.tensor(values) for name, values in GOLDEN["loss"]["given"].items()}
    ratio = (given["logprobs"] - given["old_logprobs"]).exp()[given["mask"].bool()]
    low, high = (GOLDEN["loss"]["settings"][key] for key in ("clip_low", "clip_high"))
    assert (ratio < 1 - low).any() and (ratio > 1 + high).any()
    assert ((ratio > 1 - low) & (ratio < 1 + high)).any()


def test_logprobs_and_entropies_are_trls(tmp_path: Path) -> None:
    write_formula_model(tmp_path / "model")
    policy = load_policy(str(tmp_path / "model"), mask_placeholders=False, device="cpu")
    prompts = [policy.prompt_inputs(q, ASK) for q in formula_questions(tmp_path / "images")]
    ids, mask = pad_completions(COMPLETIONS, policy.pad_id, "cpu")
    forward = PolicyForward(policy.model, policy.logits_processor(TEMPERATURE))
    with torch.no_grad():
        logprobs, entropies = forward(collate(prompts), ids, mask, with_entropy=True)
    for name, found in (("logprobs", logprobs), ("entropies", entropies)):
        for n, expected in enumerate(GOLDEN["completions"][name]):
            row = found[n // GROUP_SIZE, n % GROUP_SIZE, : len(expected)]
            torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-5, atol=1e-5)
