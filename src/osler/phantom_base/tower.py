"""The vision tower's first lesson: name every attribute of an image from its features.

Qwen2-VL's tower was pre-trained on images before a language model saw its features; so is this one. A
linear reading of all image tokens names the attributes; the reading is thrown away, the tower kept. Taught
by the language model alone, a tower this small sees next to nothing after ten times as many images
(docs/lab_log.md).

Shapes: B images, I image tokens each, D features of a token, C values of all attributes together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from osler.phantom.questions import IMAGINGS
from osler.phantom_base.curriculum import Picture
from osler.policy.load import Policy

STEPS = 250
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
WARMUP_STEPS = 20


def attribute_columns() -> dict[tuple[str, str], slice]:
    """Columns of the reading, one slice for the values of each (modality, attribute)."""
    columns: dict[tuple[str, str], slice] = {}
    start = 0
    for modality, imaging in IMAGINGS.items():
        for attribute in imaging.attributes:
            columns[modality.value, attribute.name] = slice(start, start + len(attribute.values))
            start += len(attribute.values)
    return columns


def reading_loss(scores_BC: Tensor, pictures: Sequence[Picture]) -> tuple[Tensor, list[bool]]:
    """Mean cross-entropy over every attribute of every picture, and which were named right."""
    columns = attribute_columns()
    losses, right = [], []
    for row, picture in zip(scores_BC, pictures, strict=True):
        for attribute in IMAGINGS[picture.scene.modality].attributes:
            scores = row[columns[picture.scene.modality.value, attribute.name]]
            target = attribute.values.index(picture.scene.values[attribute.name])
            losses.append(nn.functional.cross_entropy(scores, torch.tensor(target)))
            right.append(int(scores.argmax()) == target)
    return torch.stack(losses).mean(), right


def teach_tower(
    policy: Policy, pictures: Sequence[Picture], seed: int, steps: int = STEPS, rate: float = LEARNING_RATE
) -> list[float]:
    """Train the policy's tower in place; returns the share of attributes named right, step by step."""
    tower: Any = policy.model.model.visual
    torch.manual_seed(seed)
    tokens = _features(policy, pictures[:1]).shape[1]
    width = max(c.stop for c in attribute_columns().values())
    reading = nn.Linear(tokens, width)
    parameters = [*tower.parameters(), *reading.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng((seed, 1))
    shares: list[float] = []
    console = Console(stderr=True)
    for step in track(range(steps), description="tower", console=console):
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        batch = [pictures[i] for i in rng.integers(len(pictures), size=BATCH_SIZE)]
        loss, right = reading_loss(reading(_features(policy, batch)), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        shares.append(sum(right) / len(right))
    return shares


def _features(policy: Policy, pictures: Sequence[Picture]) -> Tensor:
    """Features of all image tokens of each picture, normalised: [B, I * D]."""
    images = [policy.image_inputs(p.path) for p in pictures]
    pixels = torch.cat([i.pixel_values for i in images])
    grid = torch.tensor([i.grid_thw for i in images])
    features = policy.model.model.visual(pixels, grid_thw=grid).pooler_output
    flat = features.view(len(pictures), -1)
    return nn.functional.layer_norm(flat, flat.shape[1:])
