"""Chest radiograph: attenuation of 3-D ellipsoids integrated along rays, Beer-Lambert, photon noise."""

from __future__ import annotations

import math

import numpy as np

from osler.phantom.draw import edge, polar, pose, smooth_noise, streams, to_grey
from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "view",
        QuestionType.MODALITY_RECOGNITION,
        ("Frontal", "Lateral", "Left oblique", "Right oblique"),
        ("Which view is this chest X-ray?", "From which direction was this X-ray taken?"),
    ),
    Attribute(
        "zone",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Lung apex", "Upper zone", "Middle zone", "Lung base"),
        ("Which part of the lung is affected?", "Where is the finding on this chest X-ray?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Solid mass", "Cavity", "Consolidation", "Bulla"),
        ("What is the finding on this chest X-ray?", "Which diagnosis fits this chest X-ray?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("How large is the finding on this X-ray?", "What is the size grade of the lung finding?"),
    ),
    Attribute(
        "heart",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Narrow", "Normal", "Enlarged", "Massive"),
        ("How wide is the heart?", "What does the heart shadow look like?"),
    ),
)


# Attenuation per half-picture of path (about 20 cm), relative to an open beam.
SOFT, LUNG, BONE = 3.4, 1.0, 6.0
# How far the patient is turned before the detector, radians. 0 faces it; at a quarter turn the beam crosses
# the chest from side to side. The left oblique brings the left front of the chest to the detector.
TURNS = {"Frontal": 0.0, "Lateral": math.pi / 2, "Left oblique": math.pi / 4, "Right oblique": -math.pi / 4}
ZONES = {"Lung apex": -0.52, "Upper zone": -0.24, "Middle zone": 0.04, "Lung base": 0.32}
RADII = {"Tiny": 0.085, "Small": 0.13, "Medium": 0.19, "Large": 0.265}  # of half the picture
HEART_SCALES = {"Narrow": 0.62, "Normal": 0.9, "Enlarged": 1.25, "Massive": 1.65}
# Where the finding lies in the chest (left, front): clear of the spine, and of the heart where it can be.
SITES = {
    "Frontal": (-0.44, 0.0),
    "Lateral": (-0.38, -0.12),
    "Left oblique": (0.54, -0.12),
    "Right oblique": (-0.54, -0.12),
}


class Projection:
    """Parallel rays through a chest turned by `turn`: path lengths in closed form.

    Patient axes: left, front, down. A pixel (u, z) is the ray at distance u across the turned chest.
    """

    def __init__(self, u: np.ndarray, z: np.ndarray, turn: float) -> None:
        self.u, self.z = u, z
        self.cos, self.sin = math.cos(turn), math.sin(turn)

    def across(self, left: float, front: float) -> float:
        """Where a point of the chest falls on the detector."""
        return left * self.cos - front * self.sin

    def width(self, left: float, front: float) -> float:
        """Half-width of an ellipse with these half-axes, seen from this side."""
        return math.hypot(left * self.cos, front * self.sin)

    def chord(
        self, centre: tuple[float, float, float], axes: tuple[float, float, float], power: float = 2.0
    ) -> np.ndarray:
        """Length of every ray inside an ellipsoid; `power` above 2 makes it a barrel along z.

        At height z the section is an ellipse (a s, b s) with s^2 = 1 - |z/c|^power; a ray at distance t from
        its centre runs 2 a b sqrt((w s)^2 - t^2) / w^2 inside it, w being the width seen from this side.
        """
        a, b, c = axes
        width = self.width(a, b)
        t = np.square((self.u - self.across(centre[0], centre[1])) * (1.0 / width))
        ratio = np.abs((self.z - centre[2]) * (1.0 / c))
        s = 1.0 - (np.square(ratio) if power == 2.0 else ratio**power)
        return np.sqrt(np.maximum(s - t, 0.0)) * (2.0 * a * b / width)


def _lungs(view: Projection, breath: float) -> np.ndarray:
    """Path through both lungs above the domes of the diaphragm."""
    path = np.zeros_like(view.u)
    for left, dome in ((-0.39, 0.0), (0.39, 0.05)):
        lung = view.chord((left, 0.0, 0.06), (0.335, 0.42, 0.86), power=2.6)
        # The dome hangs lowest at the outer wall and at the back.
        slope = np.square((view.u - view.across(left * 0.8, 0.05)) * (1.0 / view.width(0.40, 0.46)))
        floor = 0.44 + dome + breath + 0.22 * slope
        path += lung * edge(floor - view.z, 0.025)
    return path


def _ribs(view: Projection, spacing: float, start: float) -> np.ndarray:
    """Path through the ribs: hoops that sink towards the front, densest at the rim."""
    taper = 0.80 + 0.16 * np.clip(view.z + 0.7, 0.0, 1.0)
    width = view.width(0.84, 0.56)
    t = np.clip(view.u / (width * taper), -0.999, 0.999)
    half_depth = np.sqrt(1.0 - np.square(t))
    path = np.zeros_like(view.u)
    for nearer in (1.0, -1.0):
        # Position along the patient's front-back axis of the two points where the ray meets the hoop.
        a, b = 0.84, 0.56
        front = (-t * b * b * view.sin / width + nearer * half_depth * a * b * view.cos / width) * taper
        if abs(view.cos) < 0.01:
            front = -t * b * taper * view.sin
        drop = 0.34 * front - 0.10 * np.square(half_depth)
        phase = np.mod(view.z - drop - start, spacing) - spacing / 2
        inside = np.maximum(1.0 - np.square(phase * (1.0 / 0.034)), 0.0)
        rim = np.minimum(1.0 / (half_depth + 0.12), 4.0)
        path += np.sqrt(inside) * rim * (0.034 if nearer < 0 else 0.026)
    height = edge(view.z + 0.80, 0.03) * edge(0.66 - view.z, 0.05)
    return path * height * edge(width * taper - np.abs(view.u))


def _spine(view: Projection, spacing: float) -> np.ndarray:
    """Path through vertebral bodies, their end plates and processes."""
    column = view.chord((0.0, -0.34, 0.0), (0.095, 0.10, 6.0))
    plates = 0.62 + 0.38 * np.cos((2 * math.pi / spacing) * view.z)
    processes = view.chord((0.0, -0.47, 0.0), (0.03, 0.07, 6.0))
    return column * plates + 0.5 * processes


def _heart(view: Projection, scale: float) -> np.ndarray:
    """Path of soft tissue that the heart and great vessels put in place of lung."""
    heart = view.chord(
        (0.04 + 0.09 * scale, 0.36 - 0.17 * scale, 0.27 - 0.03 * scale), (0.29 * scale, 0.21 * scale, 0.30)
    )
    right = view.chord((-0.06, 0.15, 0.22), (0.12 + 0.08 * scale, 0.12 * scale, 0.25))
    arch = view.chord((0.07, -0.02, -0.30), (0.10, 0.20, 0.11))
    mediastinum = view.chord((0.0, 0.02, -0.30), (0.11, 0.26, 0.75), power=4.0)
    return np.maximum(np.maximum(heart, right), np.maximum(arch, mediastinum))


def _finding(rng: np.random.Generator, view: Projection, scene: Scene) -> np.ndarray:
    """What the finding adds to the attenuation along each ray (a bulla takes away)."""
    left, front = SITES[scene.values["view"]]
    down = ZONES[scene.values["zone"]] + rng.uniform(-0.03, 0.03)
    if scene.values["view"] == "Frontal" and down < 0.0 and rng.uniform() < 0.5:
        left = -left  # above the heart either lung will do
    # The chest narrows towards the apex.
    left *= 0.82 if scene.values["zone"] == "Lung apex" else 1.0
    centre = (left + rng.uniform(-0.03, 0.03), front + rng.uniform(-0.03, 0.03), down)
    radius = RADII[scene.values["size"]] * rng.uniform(0.94, 1.06)
    kind = scene.values["kind"]
    depth = 0.45 * radius + 0.19  # small findings are drawn deep along the ray, or they would be missed
    axes = (radius, radius, radius)
    ball = view.chord(centre, axes) * (depth / radius)
    if kind == "Solid mass":
        return ball * (SOFT - LUNG)
    inner = radius - max(0.34 * radius, 0.03)
    hollow = view.chord(centre, (inner, inner, inner)) * (depth / radius)
    if kind == "Cavity":
        return (ball - hollow) * (1.5 * SOFT) - hollow * LUNG
    if kind == "Bulla":
        skin = radius - 0.022
        wall = ball - view.chord(centre, (skin, skin, skin)) * (depth / radius)
        return wall * (0.9 * SOFT) - ball * (2.2 * LUNG)
    cloud = np.zeros_like(ball)
    for _ in range(16):
        away, turn = radius * math.sqrt(rng.uniform(0.0, 1.0)), rng.uniform(0.0, 2 * math.pi)
        du = view.u - (view.across(centre[0], centre[1]) + away * math.cos(turn))
        dz = view.z - (down + away * math.sin(turn))
        spread = rng.uniform(0.13, 0.30) * radius
        cloud += np.exp((np.square(du) + np.square(dz)) * (-0.5 / spread**2)) * rng.uniform(0.4, 1.0)
    return np.minimum(cloud, 1.3) * (1.5 * depth * (SOFT - LUNG))


def _vessels(rng: np.random.Generator, view: Projection) -> np.ndarray:
    """Relative lung density: vessels that run out from both hila and thin with distance."""
    bend = smooth_noise(rng, view.u.shape[0], 7)
    density = np.ones_like(view.u)
    for left in (-0.17, 0.17):
        hilum = (view.across(left, 0.4 * left), 0.02 - 0.3 * left)
        away, angle = polar(view.u, view.z, hilum)
        strands = np.exp(-7.0 * np.abs(np.sin(4.0 * angle + 1.6 * bend + rng.uniform(0.0, math.pi))))
        density += strands * (1.0 - np.exp(-8.0 * away)) * np.exp(-2.6 * away) * 0.8 + 0.35 * np.exp(
            -np.square(away * 7.0)
        )
    return density


def _expose(rng: np.random.Generator, path: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Photons that arrive (Beer-Lambert, Poisson), as the film-like picture of their logarithm, 0 .. 1.

    The window is set as an automatic exposure does it: the lungs dark, the spine nearly white.
    """
    photons = rng.uniform(6000.0, 14000.0)
    counts = photons * np.exp(-path) + 1.0
    counts += np.sqrt(counts) * rng.standard_normal(counts.shape, dtype=np.float32)
    absorbed = np.log(photons / np.maximum(counts, 1.0))
    dark = float(np.quantile(absorbed[lungs > 0.25], 0.08))
    light = float(np.quantile(absorbed, 0.97))
    low = dark - 0.30 * (light - dark)
    return np.asarray((absorbed - low) * (0.97 / (light - low)))


def render(scene: Scene, size: int) -> np.ndarray:
    """A chest radiograph, bone white, uint8 [size, size]."""
    rng, finding, noise = streams(scene.nuisance_seed)
    shift = (rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03))
    u, z = pose(size, shift=shift, turn=rng.uniform(-0.04, 0.04), zoom=rng.uniform(0.97, 1.05))
    view = Projection(u, z, TURNS[scene.values["view"]] + rng.uniform(-0.07, 0.07))
    trunk = view.chord((0.0, 0.0, 0.55), (0.93, 0.66, 1.62), power=3.0)
    neck = view.chord((0.0, -0.05, -1.1), (0.24, 0.24, 0.8), power=4.0)
    arms = abs(view.cos)  # raised out of the beam from the side
    for left in (-0.80, 0.80):
        trunk = np.maximum(trunk, arms * view.chord((left * 1.05, -0.08, -0.30), (0.26, 0.30, 0.55)))
    lungs = _lungs(view, rng.uniform(-0.04, 0.04))
    heart = np.minimum(_heart(view, HEART_SCALES[scene.values["heart"]] * rng.uniform(0.95, 1.05)), lungs)
    path = np.maximum(trunk, neck) * SOFT - (lungs - heart) * (SOFT - LUNG * _vessels(rng, view))
    spacing = rng.uniform(0.185, 0.215)
    path += (BONE - SOFT) * (_spine(view, 0.17) + _ribs(view, spacing, rng.uniform(0.0, spacing)) * 1.2)
    collar = edge(0.035 - np.abs(z + 0.66 + 0.12 * np.abs(u)), 0.02)
    path += collar * edge(view.width(0.72, 0.2) - np.abs(u)) * (0.3 * arms)
    path += _finding(finding, view, scene) * np.minimum(lungs * 5.0, 1.0)
    # The wider the chest, the harder the beam it is given.
    hardness = 0.66 / view.width(0.66, 0.93)
    return to_grey(_expose(noise, np.maximum(path, 0.0) * hardness, lungs))


IMAGING = Imaging(Modality.XRAY, "X-Ray", ATTRIBUTES, render)
