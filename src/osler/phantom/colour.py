"""What the four colour modalities share: plane coordinates, soft shapes, strokes, noise and Beer-Lambert.

Lengths are in half image widths: the image spans -1 to 1 both ways, y down. Arrays are float32
[size, size] unless said otherwise, so that a picture looks the same at every size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

_OVERSAMPLING = 3


@lru_cache(maxsize=8)
def plane(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as y [size, 1] and x [1, size], read-only, ready to broadcast."""
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    centres.setflags(write=False)
    return centres[:, None], centres[None, :]


def streams(seed: int, number: int) -> list[np.random.Generator]:
    """Independent random streams, one per part of a picture: changing one part leaves the others alone."""
    return np.random.default_rng(seed).spawn(number)


@dataclass(frozen=True, slots=True)
class Window:
    """The pixels within `reach` of a point, and their coordinates from it (y [h, 1], x [1, w])."""

    area: tuple[slice, slice]
    y: np.ndarray
    x: np.ndarray

    @property
    def radius(self) -> np.ndarray:
        return np.sqrt(self.y**2 + self.x**2)


def window(size: int, y: float, x: float, reach: float) -> Window:
    """Small shapes are drawn in their window only; one wholly outside the image is empty."""
    rows, columns = _span(size, y, reach), _span(size, x, reach)
    grid_y, grid_x = plane(size)
    return Window((rows, columns), grid_y[rows] - np.float32(y), grid_x[:, columns] - np.float32(x))


def _span(size: int, centre: float, reach: float) -> slice:
    first = int(np.floor((centre - reach + 1) * size / 2))
    last = int(np.ceil((centre + reach + 1) * size / 2)) + 1
    return slice(min(max(first, 0), size), min(max(last, 0), size))


def cover(distance: np.ndarray, edge: float) -> np.ndarray:
    """Coverage 0 to 1 from a signed distance (negative inside), going over `edge` across the border."""
    return np.clip(0.5 - distance / np.float32(edge), 0.0, 1.0)


def add_blob(canvas: np.ndarray, y: float, x: float, radius: float, edge: float, amount: float = 1.0) -> None:
    """Raise `canvas` in place to `amount` inside a round spot; overlapping spots do not add up."""
    spot = window(len(canvas), y, x, radius + edge)
    view = canvas[spot.area]
    np.maximum(view, amount * cover(spot.radius - radius, edge), out=view)


def add_cluster(
    canvas: np.ndarray, y: float, x: float, offsets: np.ndarray, radius: float, edge: float
) -> None:
    """Raise `canvas` in place to 1 inside equal round spots at `offsets` [n, 2] (y, x) from a point."""
    spot = window(len(canvas), y, x, float(np.abs(offsets).max()) + radius + edge)
    away_y = np.square(spot.y[None] - offsets[:, 0, None, None].astype(np.float32))
    away_x = np.square(spot.x[None] - offsets[:, 1, None, None].astype(np.float32))
    nearest = np.sqrt(np.min(away_y + away_x, axis=0))
    view = canvas[spot.area]
    np.maximum(view, cover(nearest - radius, edge), out=view)


def sunflower(rng: np.random.Generator, number: int, reach: float, jitter: float) -> np.ndarray:
    """Points [number, 2] spread evenly over a disc of radius `reach`, the first ones in its middle."""
    k = np.arange(number)
    angle = k * np.pi * (3 - np.sqrt(5)) + rng.uniform(0, 2 * np.pi)
    out = reach * np.sqrt((k + 0.5) / number)
    points = np.stack([out * np.sin(angle), out * np.cos(angle)], axis=1)
    return points + rng.normal(0, jitter, points.shape)


def value_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` bumps across the image."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def strokes(size: int, lines: Iterable[tuple[np.ndarray, Sequence[float] | np.ndarray]]) -> np.ndarray:
    """Coverage of tapering lines: each is points [n, 2] as (y, x) and n widths.

    A width below one fine pixel is drawn one fine pixel wide: a line never vanishes.
    """
    fine = size * _OVERSAMPLING
    sheet = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(sheet)
    for points, widths in lines:
        pixels = ((np.asarray(points) + 1) * (fine / 2)).tolist()
        thick = np.maximum(1, np.round(np.asarray(widths) * (fine / 2))).astype(int).tolist()
        for (y0, x0), (y1, x1), width in zip(pixels[:-1], pixels[1:], thick[:-1], strict=True):
            pen.line((x0, y0, x1, y1), fill=255, width=width)
            if width > 2:
                half = (width - 1) / 2
                pen.ellipse((x1 - half, y1 - half, x1 + half, y1 + half), fill=255)
    return np.asarray(sheet.reduce(_OVERSAMPLING), dtype=np.float32) / np.float32(255)


def polygon(size: int, corners: np.ndarray) -> np.ndarray:
    """Coverage of one filled polygon, corners [n, 2] as (y, x)."""
    fine = size * _OVERSAMPLING
    sheet = Image.new("L", (fine, fine))
    pixels = (np.asarray(corners) + 1) * (fine / 2)
    ImageDraw.Draw(sheet).polygon([(x, y) for y, x in pixels], fill=255)
    return np.asarray(sheet.reduce(_OVERSAMPLING), dtype=np.float32) / np.float32(255)


def absorb(light: Sequence[float] | np.ndarray, *dyes: tuple[np.ndarray, Sequence[float]]) -> np.ndarray:
    """Beer-Lambert: `light` (red, green, blue) after dyes of amount [size, size] and colour (r, g, b).

    I = I0 exp(-sum of amount x absorption), per channel, as [size, size, 3].
    """
    depth = sum(amount[..., None] * np.asarray(colour, dtype=np.float32) for amount, colour in dyes)
    return np.asarray(light, dtype=np.float32) * np.exp(-np.asarray(depth))


def blend(image: np.ndarray, colour: Sequence[float], share: np.ndarray) -> np.ndarray:
    """`image` [size, size, 3] with `share` [size, size] of it replaced by one colour."""
    weight = share[..., None]
    return image * (1 - weight) + np.asarray(colour, dtype=np.float32) * weight


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Intensity 0 to 1 as uint8; what is brighter than 1 saturates, as a sensor does."""
    return (np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def sensor_noise(rng: np.random.Generator, image: np.ndarray, level: float) -> np.ndarray:
    """`image` with independent Gaussian noise of standard deviation `level` per value."""
    return image + np.float32(level) * rng.standard_normal(image.shape, dtype=np.float32)
