"""Shapes and noise that every grey modality draws with. Coordinates: x right, y down, both -1 .. 1.

All fields are float32 [size, size]. Shapes return coverage: 1 inside, 0 outside, a ramp about one pixel wide
at the outline, so that a small lesion keeps its area whatever the pixel grid.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def streams(seed: int, count: int = 3) -> list[np.random.Generator]:
    """Independent random streams for the parts of a picture (body, lesion, acquisition).

    With one for each, a change of the lesion leaves the body and the noise as they are.
    """
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(count)]


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    step = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    x, y = np.meshgrid(step, step)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def pose(size: int, *, shift: tuple[float, float], turn: float, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Object coordinates of every pixel, for an object moved by `shift`, turned by `turn` radians, enlarged
    `zoom` times."""
    x, y = _axes(size)
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    x, y = x - shift[0], y - shift[1]
    return cos * x + sin * y, cos * y - sin * x


def ellipse(
    x: np.ndarray,
    y: np.ndarray,
    centre: tuple[float, float],
    axes: tuple[float, float],
    turn: float = 0.0,
    soft: float = 0.012,
) -> np.ndarray:
    """Coverage of an ellipse with half-axes `axes`; `soft` is half the width of its edge."""
    dx, dy = x - centre[0], y - centre[1]
    if turn:
        cos, sin = math.cos(turn), math.sin(turn)
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    a, b = max(axes[0], 1e-4), max(axes[1], 1e-4)
    rho = np.sqrt(np.square(dx * (1.0 / a)) + np.square(dy * (1.0 / b)))
    return edge((1.0 - rho) * math.sqrt(a * b), soft)


def edge(distance: np.ndarray, soft: float = 0.012) -> np.ndarray:
    """Coverage from a signed distance (positive inside)."""
    return np.clip(distance * (0.5 / soft) + 0.5, 0.0, 1.0)


def polar(x: np.ndarray, y: np.ndarray, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance from a centre and angle around it, in radians."""
    dx, dy = x - centre[0], y - centre[1]
    return np.hypot(dx, dy), np.arctan2(dy, dx)


def lobulated(rng: np.random.Generator, angle: np.ndarray, strength: float) -> np.ndarray:
    """Relative radius of an irregular outline, as a function of the angle; its mean is about 1."""
    outline = np.ones_like(angle)
    for harmonic in (3, 4, 5, 7):
        phase = rng.uniform(0, 2 * np.pi)
        outline += (strength / math.sqrt(harmonic)) * np.cos(harmonic * angle + phase)
    return outline


def paint(canvas: np.ndarray, coverage: np.ndarray, value: float | np.ndarray) -> None:
    """Lay `value` over the canvas in place, as opaque as the coverage."""
    canvas += coverage * (value - canvas)


@lru_cache(maxsize=64)
def _spline(size: int, cells: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """First knot and the four cubic B-spline weights of each of `size` samples over `cells` cells."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * (cells / size)
    first = at.astype(np.int64)
    t = at - first
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return first, tuple(np.asarray(w / 6.0, dtype=np.float32) for w in weights)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """A random field of about unit variance that varies over 1/`cells` of the picture."""
    first, weights = _spline(size, cells)
    knots = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    rows = np.zeros((size, cells + 3), dtype=np.float32)
    for tap, weight in enumerate(weights):
        rows += knots[first + tap] * weight[:, None]
    field = np.zeros((size, size), dtype=np.float32)
    for tap, weight in enumerate(weights):
        field += rows[:, first + tap] * weight
    return field * 2.1  # the spline averages the knots; this restores the unit variance


def to_grey(values: np.ndarray) -> np.ndarray:
    """Display values 0 .. 1 as uint8."""
    return np.asarray(np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
