"""What a model is shown instead of an image: nothing to see, or the image under noise.

A view is a pure function of the picture and of the file's digest; it is applied in memory, at the size at
which the model sees the image, so that a level of noise means the same for a large file and a small one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from osler.data.images import image_digest, open_image, within_bounds

MID_GREY = (128, 128, 128)
# Standard deviation in grey levels of 0 to 255, each three times the one before.
NOISE_LEVELS = {"noise-faint": 8, "noise-mild": 24, "noise-strong": 72, "noise-drowned": 216}


def shown(path: str, min_pixels: int, max_pixels: int, view: View | None) -> Image.Image:
    """An image file as it is shown to a model outside our engine: within the bounds, through the view."""
    image = within_bounds(open_image(path), min_pixels, max_pixels)
    return image if view is None else view.show(image, image_digest((path,)))


class View(Protocol):
    """An image transform with the key under which its result may be kept."""

    def key(self, size: tuple[int, int], digest: str) -> str: ...

    def show(self, image: Image.Image, digest: str) -> Image.Image: ...


@dataclass(frozen=True, slots=True)
class Blank:
    """Mid-grey of the same size."""

    def key(self, size: tuple[int, int], digest: str) -> str:
        return f"blank {size[0]}x{size[1]}"

    def show(self, image: Image.Image, digest: str) -> Image.Image:
        return Image.new("RGB", image.size, MID_GREY)


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise added to every channel of every pixel, clipped to 0 to 255.

    The field is drawn from the file's digest alone: a stronger level is the same field, larger.
    """

    sigma: float  # grey levels

    def key(self, size: tuple[int, int], digest: str) -> str:
        return f"noise {self.sigma:g} {digest}"

    def show(self, image: Image.Image, digest: str) -> Image.Image:
        words = np.frombuffer(hashlib.sha256(f"noise\x1f{digest}".encode()).digest()[:16], dtype=np.uint64)
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
        field = np.random.Generator(np.random.Philox(key=words)).standard_normal(pixels.shape)
        return Image.fromarray(np.rint(np.clip(pixels + self.sigma * field, 0, 255)).astype(np.uint8))
