"""What both sides of a row are given: checkpoint, questions, completions and their rewards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from benchmarks.fast_path.models import write_checkpoint, write_questions
from benchmarks.fast_path.rows import Row, Scale
from osler.records import Question

LEAST_SPREAD = 0.02  # biases and norms begin all equal
NUDGE = 0.05  # of a weight's own standard deviation: the policy is not its reference, so the KL pulls


@dataclass(frozen=True)
class Case:
    """One row at one scale, written to `folder`."""

    row: Row
    scale: Scale
    folder: Path
    checkpoint: Path
    questions: tuple[Question, ...]  # of every step that is timed
    completions: tuple[tuple[tuple[int, ...], ...], ...]  # token ids, by question of the first step, G each
    rewards: tuple[tuple[float, ...], ...]  # of those completions

    @property
    def first_questions(self) -> tuple[Question, ...]:
        return self.questions[: self.scale.questions]

    @property
    def rows_per_step(self) -> int:
        return self.scale.questions * self.row.group_size


def make_case(row: Row, scale: Scale, folder: Path, steps: int = 1) -> Case:
    """Write what is missing in `folder`; the same row and scale always give the same case."""
    checkpoint = write_checkpoint(folder, scale.hidden, scale.layers)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    count = scale.questions * steps
    questions = write_questions(folder / "images", tokenizer, count, row.image_tokens, scale.text_tokens)
    rng = torch.Generator().manual_seed(0)
    shape = (scale.questions, row.group_size, row.completion_tokens)
    # Ordinary words: behind the bytes of the stand-in tokenizers, before their special tokens.
    ids = torch.randint(300, 2000, shape, generator=rng)
    rewards = torch.rand(shape[:2], generator=rng)
    return Case(
        row=row,
        scale=scale,
        folder=folder,
        checkpoint=checkpoint,
        questions=questions,
        completions=tuple(tuple(tuple(c) for c in group) for group in ids.tolist()),
        rewards=tuple(tuple(group) for group in rewards.tolist()),
    )


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Move every weight a little, the same way for every model of the same shape on the same device."""
    rng: dict[torch.device, torch.Generator] = {}
    for weight in model.parameters():
        generator = rng.setdefault(weight.device, torch.Generator(weight.device).manual_seed(1))
        noise = torch.randn(weight.shape, generator=generator, device=weight.device)
        spread = weight.float().std().clamp(min=LEAST_SPREAD)
        weight.add_((NUDGE * spread * noise).to(weight.dtype))


def gradients(model: Any) -> dict[str, Tensor]:
    """Every parameter's gradient, in fp32; a missing one is zero."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.float()
        for name, p in model.named_parameters()
    }
