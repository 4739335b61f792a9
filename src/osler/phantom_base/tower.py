"""The vision tower's lessons, before the language model sees its features.

Qwen2-VL's tower was pre-trained on images and on pairs of image and text; so is this one, in two lessons.
`read`: a linear reading of all image tokens, thrown away afterwards, names every attribute; it teaches
sight. `name`: the mean of an image's features is compared with the embeddings of every value that an
attribute can have, and the right one must win; it makes the features point at the words that describe the
image, which is what the language model can read. Figures of both, and of doing without, are in
docs/lab_log.md.

Shapes: B images, I image tokens each, D hidden size, C values of all attributes together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from osler.phantom.questions import IMAGINGS
from osler.phantom_base.curriculum import Picture
from osler.policy.load import Policy

READ_STEPS = 250
NAME_STEPS = 1800
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
WARMUP_STEPS = 20


def attribute_columns() -> dict[tuple[str, str], slice]:
    """Columns of the scores, one slice for the values of each (modality, attribute)."""
    columns: dict[tuple[str, str], slice] = {}
    start = 0
    for modality, imaging in IMAGINGS.items():
        for attribute in imaging.attributes:
            columns[modality.value, attribute.name] = slice(start, start + len(attribute.values))
            start += len(attribute.values)
    return columns


def value_directions(policy: Policy) -> Tensor:
    """[C, D]: the unit vector of each value, the mean embedding of its tokens as they stand in a sentence."""
    embeddings = policy.model.get_input_embeddings().weight.detach()
    rows = []
    for imaging in IMAGINGS.values():
        for attribute in imaging.attributes:
            for value in attribute.values:
                ids = policy.tokenizer(f" {value}", add_special_tokens=False)["input_ids"]
                rows.append(embeddings[ids].mean(0))
    return nn.functional.normalize(torch.stack(rows), dim=1)


def naming_loss(scores_BC: Tensor, pictures: Sequence[Picture]) -> tuple[Tensor, list[bool]]:
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


def teach_tower(policy: Policy, pictures: Sequence[Picture], seed: int) -> None:
    """Both lessons, in place."""
    torch.manual_seed(seed)
    directions_CD = value_directions(policy)
    reading = nn.Linear(_features(policy, pictures[:1]).numel(), directions_CD.shape[0])
    _lesson(policy, pictures, lambda f_BID: reading(f_BID.flatten(1)), reading, READ_STEPS, (seed, 1))
    _lesson(policy, pictures, lambda f_BID: f_BID.mean(1) @ directions_CD.T, None, NAME_STEPS, (seed, 2))


def _lesson(
    policy: Policy,
    pictures: Sequence[Picture],
    scores_of: Callable[[Tensor], Tensor],
    reading: nn.Module | None,
    steps: int,
    key: tuple[int, int],
) -> None:
    """Train the tower (and the reading, if any) on `scores_of(features)`; `key` draws the pictures."""
    parameters = [*policy.model.model.visual.parameters(), *(reading.parameters() if reading else ())]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng(key)
    console = Console(stderr=True)
    for step in track(range(steps), description="tower", console=console):
        warmth = min(1.0, (step + 1) / WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warmth * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = [pictures[i] for i in rng.integers(len(pictures), size=BATCH_SIZE)]
        loss, _ = naming_loss(scores_of(_features(policy, batch)), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def _features(policy: Policy, pictures: Sequence[Picture]) -> Tensor:
    """Normalised features of the image tokens: [B, I, D]."""
    images = [policy.image_inputs(p.path) for p in pictures]
    pixels = torch.cat([i.pixel_values for i in images])
    grid = torch.tensor([i.grid_thw for i in images])
    features_BID = policy.model.model.visual(pixels, grid_thw=grid).pooler_output.view(
        len(pictures), -1, policy.model.config.text_config.hidden_size
    )
    return nn.functional.layer_norm(features_BID, features_BID.shape[2:])
