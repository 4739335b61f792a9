"""From messages to tensors: one prompt at a time, then batches of prompts.

Shapes: B prompts, P prompt positions (right-padded to the longest), I images of the batch (each image
once, however many prompts show it). `pixel_values` keeps the Hugging Face convention: axis 0 is the
patches of all images, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from osler.costs.flops import GroupWork


@dataclass(frozen=True)
class ImageInputs:
    """One preprocessed image."""

    digest: str
    pixel_values: Tensor  # [patches, channels * temporal patch * patch * patch]
    grid_thw: tuple[int, int, int]  # patches in time, height, width


@dataclass(frozen=True)
class PromptInputs:
    """One prompt, ready for the model: image placeholders already expanded to their full number."""

    input_ids: Tensor  # [P], int64
    position_ids: Tensor  # [3, P], M-RoPE positions (time, height, width)
    next_position: int  # position of the first completion token, on all three axes
    images: tuple[ImageInputs, ...]

    def work(self, completion_tokens: Sequence[int]) -> GroupWork:
        """What completions of these lengths, end tokens included, ask of the model with this prompt."""
        patches = tuple(math.prod(image.grid_thw) for image in self.images)
        return GroupWork(len(self.input_ids), patches, tuple(completion_tokens))


@dataclass(frozen=True)
class PromptBatch:
    """Prompts behind one another in one sequence of S tokens, every distinct image once."""

    input_ids_S: Tensor
    position_ids_3S: Tensor
    lengths: tuple[int, ...]  # tokens of each prompt
    next_positions: tuple[int, ...]  # position of each prompt's first completion token
    images: tuple[ImageInputs, ...]  # the distinct ones
    shown: tuple[int, ...]  # index of a distinct image, in the order in which prompts show them
    pixels_XC: Tensor | None  # patches of the distinct images; None where a frozen tower's features are kept

    @property
    def grids(self) -> list[tuple[int, int, int]]:
        """Of the distinct images."""
        return [image.grid_thw for image in self.images]


def mrope_positions(
    input_ids: Sequence[int], image_token_id: int, grids: Sequence[tuple[int, int, int]], merge_size: int
) -> tuple[Tensor, int]:
    """M-RoPE positions of one prompt and the next free position (Qwen2-VL, arXiv 2409.12191, section 2.1).

    Text advances all three axes together; an image of t x h x w merged patches spans t, h, w on its
    axes from the current position, and text goes on after the larger of h and w.

    Raises ValueError where placeholders and image grids do not agree.
    """
    columns: list[Tensor] = []
    position, at, grid_index = 0, 0, 0
    ids = list(input_ids)
    while at < len(ids):
        if ids[at] != image_token_id:
            columns.append(torch.full((3, 1), position, dtype=torch.long))
            position, at = position + 1, at + 1
            continue
        if grid_index == len(grids):
            raise ValueError("more image placeholders than images")
        t, h, w = grids[grid_index]
        h, w = h // merge_size, w // merge_size
        if ids[at : at + t * h * w] != [image_token_id] * (t * h * w):
            raise ValueError(f"image {grid_index} needs {t * h * w} placeholders in a row")
        axes = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
        columns.append(torch.stack(axes).reshape(3, -1) + position)
        position, at, grid_index = position + max(h, w), at + t * h * w, grid_index + 1
    if grid_index != len(grids):
        raise ValueError("fewer image placeholders than images")
    return torch.cat(columns, dim=1), position


def collate(prompts: Sequence[PromptInputs], device: Any = "cpu", with_pixels: bool = True) -> PromptBatch:
    """Put prompts behind one another; an image that several of them show is kept once."""
    distinct: dict[str, ImageInputs] = {image.digest: image for p in prompts for image in p.images}
    index = {digest: i for i, digest in enumerate(distinct)}
    pixels = [image.pixel_values for image in distinct.values()] if with_pixels else []
    return PromptBatch(
        input_ids_S=to_device(torch.cat([p.input_ids for p in prompts]), device),
        position_ids_3S=to_device(torch.cat([p.position_ids for p in prompts], dim=1), device),
        lengths=tuple(p.input_ids.shape[0] for p in prompts),
        next_positions=tuple(p.next_position for p in prompts),
        images=tuple(distinct.values()),
        shown=tuple(index[image.digest] for p in prompts for image in p.images),
        pixels_XC=to_device(torch.cat(pixels), device) if pixels else None,
    )


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on the device. A GPU fetches it from page-locked memory, and nobody waits for it."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def pad_completions(
    rows_BG: Sequence[Sequence[Sequence[int]]], pad_id: int, device: Any
) -> tuple[Tensor, Tensor]:
    """Token ids [B, G, T] padded on the right, and the bool mask of real tokens."""
    B, G = len(rows_BG), len(rows_BG[0])
    width = max(len(ids) for rows in rows_BG for ids in rows)
    ids_BGT = torch.full((B, G, width), pad_id, dtype=torch.long)
    mask_BGT = torch.zeros((B, G, width), dtype=torch.bool)
    for b, rows in enumerate(rows_BG):
        for g, ids in enumerate(rows):
            ids_BGT[b, g, : len(ids)] = torch.tensor(ids)
            mask_BGT[b, g, : len(ids)] = True
    return to_device(ids_BGT, device), to_device(mask_BGT, device)
