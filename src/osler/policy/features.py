"""Image tokens of a vision tower that no longer changes: each image walks the tower once.

Rollout, reference and loss, and evaluation with whatever it asks again, read them from here.

Shapes: I image tokens, D hidden size of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from osler.policy.bounded import BoundedCache
from osler.policy.inputs import ImageInputs, to_device
from osler.policy.tower import image_features

FEATURE_CACHE_BYTES = 2 * 2**30  # 680 images of 512 tokens for Qwen2-VL-2B in fp32, twice as many in bf16


class FeatureCache:
    """The features of one frozen tower, in CPU memory: a GPU has better use for its own.

    Tower and image processor belong to one policy, so an image's content digest, its grid (what the pixel
    bounds made of it) and the type of the products name an entry. Every image walks the tower alone: its
    features depend neither on its neighbours nor on what is held already, and a resumed run finds the same.
    """

    def __init__(self, tower: Any, limit: int = FEATURE_CACHE_BYTES) -> None:
        self.tower = tower
        self.held: BoundedCache[Tensor] = BoundedCache(limit, lambda features: features.nbytes)
        self.walked: list[int] = []  # patches of every image that walked the tower, in order
        self._weights = _identity(tower)

    def features(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """[I, D] of each image, on the CPU.

        Raises RuntimeError where the tower trains. One whose weights were changed in place starts anew.
        """
        if any(p.requires_grad for p in self.tower.parameters()):
            raise RuntimeError("the vision tower trains: its features change with every step")
        weights = _identity(self.tower)
        if weights != self._weights:
            self.held.clear()
            self._weights = weights
        device_type = self.tower.patch_embed.proj.weight.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
        return [self.held.get((i.digest, i.grid_thw, dtype), partial(self._walk, i)) for i in images]

    @torch.no_grad()
    def _walk(self, image: ImageInputs) -> Tensor:
        self.walked.append(len(image.pixel_values))
        pixels_XC = to_device(image.pixel_values, self.tower.patch_embed.proj.weight.device)
        return image_features(self.tower, pixels_XC, [image.grid_thw]).cpu()


def _identity(tower: Any) -> tuple[tuple[int, int], ...]:
    """Changes with the weights: where each lies, and how often it was written to."""
    return tuple((p.data_ptr(), p._version) for p in tower.parameters())
