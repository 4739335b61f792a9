"""OCT: a cross-section of the retina, from the reflectivity of its layers, speckle and shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from osler.phantom.colour import (
    add_blob,
    blend,
    cover,
    plane,
    polygon,
    streams,
    to_bytes,
    value_noise,
    window,
)
from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Time-domain", "Spectral-domain", "Swept-source", "Flow angiography"),
        ("Which kind of OCT scan is this?", "Which OCT technique is this?"),
    ),
    Attribute(
        "layer",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Nerve fibre layer", "Outer nuclear layer", "Pigment epithelium", "Choroid"),
        ("Which layer does the arrow mark?", "At which layer does the arrow point?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Cystoid oedema", "Drusen", "Macular hole", "Subretinal fluid"),
        ("Which abnormality does the scan show?", "What is the diagnosis of this retina?"),
    ),
    Attribute(
        "severity",
        QuestionType.LESION_GRADING,
        ("Minimal", "Mild", "Moderate", "Severe"),
        ("What grade is the macular disease?",),
    ),
    Attribute(
        "course",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Rising", "Falling", "Bowl-shaped", "Dome-shaped"),
        ("How does the retina run from left to right?",),
    ),
)

_THICKNESS = 0.60  # retina, from inner limiting membrane to pigment epithelium
_RPE_HALF = 0.028
_CHOROID_DEPTH = 0.24  # where the arrow meets the choroid, below the pigment epithelium
# Display level (log reflectivity, 0 to 1) against depth, as a share of the neurosensory retina.
_DEPTHS = (0.0, 0.11, 0.13, 0.34, 0.37, 0.45, 0.47, 0.54, 0.57, 0.80, 0.82, 0.84, 0.87, 0.90, 0.98, 1.0)
_LEVELS = (0.80, 0.84, 0.55, 0.52, 0.30, 0.30, 0.52, 0.50, 0.22, 0.22, 0.42, 0.26, 0.28, 0.74, 0.74, 0.45)
_RAINBOW_AT = (0.0, 0.18, 0.34, 0.48, 0.62, 0.76, 0.90, 1.0)
_RAINBOW = (
    (0.0, 0.0, 0.12),
    (0.0, 0.10, 0.65),
    (0.0, 0.55, 0.85),
    (0.05, 0.75, 0.25),
    (0.75, 0.90, 0.05),
    (1.0, 0.60, 0.0),
    (0.95, 0.10, 0.05),
    (1.0, 1.0, 1.0),
)
_ARROW = (1.0, 0.15, 0.85)  # a colour that no scan has
# Half extent across the scan, and number of cysts or drusen, of each grade.
_EXTENT = {"Minimal": 0.11, "Mild": 0.22, "Moderate": 0.38, "Severe": 0.56}
_CYSTS = {"Minimal": 2, "Mild": 5, "Moderate": 9, "Severe": 15}
_DRUSEN = {"Minimal": 1, "Mild": 3, "Moderate": 5, "Severe": 8}
_HOLE = {"Minimal": 0.07, "Mild": 0.15, "Moderate": 0.27, "Severe": 0.43}
_FLUID = {"Minimal": 0.11, "Mild": 0.18, "Moderate": 0.26, "Severe": 0.36}


@dataclass(frozen=True, slots=True)
class _Section:
    """Where the layers run: y of each border per column, [1, size]; y grows with depth."""

    inner: np.ndarray  # inner limiting membrane
    receptors: np.ndarray  # outer end of the neurosensory retina
    epithelium: np.ndarray  # middle of the pigment epithelium
    bruch: np.ndarray  # Bruch's membrane, the choroid's roof
    gap: np.ndarray  # share of the neurosensory retina that is missing
    cysts: np.ndarray  # [size, size] share of fluid inside the retina


def render(scene: Scene, size: int) -> np.ndarray:
    """An OCT scene as uint8 [size, size, 3].

    Layer borders are laid out per column, depth becomes reflectivity, vessels throw shadows, and each
    technique adds its own resolution, penetration, speckle and colours.
    """
    anatomy, tissue, scanner, pointer = streams(scene.nuisance_seed, 4)
    values = scene.values
    section = _section(anatomy, size, values)
    technique = values["technique"]
    level = _reflectivity(tissue, size, section, swept=technique == "Swept-source")
    side = float(pointer.choice((-1.0, 1.0)))
    if technique == "Time-domain":
        image = _time_domain(scanner, level)
    else:
        grain = np.log(scanner.standard_gamma(4.0, (size, size), dtype=np.float32) / 4 + np.float32(1e-3))
        shown = np.clip(level + np.float32(0.20) * np.sqrt(np.clip(level, 0.01, 1)) * grain, 0, 1)
        image = np.repeat((shown * scanner.uniform(0.92, 1.05))[..., None], 3, axis=2)
        if technique == "Flow angiography":
            image = _flow(scanner, image, section)
    return to_bytes(blend(image, _ARROW, _arrow(size, section, values["layer"], side)))


def _section(rng: np.random.Generator, size: int, values: Mapping[str, str]) -> _Section:
    _, x = plane(size)
    grade, disease = values["severity"], values["disease"]
    middle = rng.uniform(-0.06, 0.06)
    from_middle = x - np.float32(middle)
    slope = rng.uniform(0.24, 0.32)
    course = {
        "Rising": -slope * x,
        "Falling": slope * x,
        "Bowl-shaped": 1.6 * slope * (0.35 - x**2),
        "Dome-shaped": 1.6 * slope * (x**2 - 0.35),
    }[values["course"]]
    bruch = course + rng.uniform(0.20, 0.28)
    thickness = _THICKNESS * rng.uniform(0.94, 1.06) + np.zeros_like(x)
    lift = np.zeros_like(x)  # of the neurosensory retina off the pigment epithelium
    bumps = np.zeros_like(x)  # of the pigment epithelium off Bruch's membrane
    gap = np.zeros((size, size), dtype=np.float32)
    cysts = np.zeros((size, size), dtype=np.float32)
    pit = 0.15 * np.exp(-((from_middle / 0.15) ** 2))
    if disease == "Cystoid oedema":
        thickness = thickness + 0.20 * np.exp(-((from_middle / (_EXTENT[grade] + 0.08)) ** 2))
    elif disease == "Drusen":
        thickness = thickness - pit
        bumps = _bumps(rng, x, middle, _DRUSEN[grade])
    elif disease == "Subretinal fluid":
        thickness = thickness - 0.6 * pit
        width = _EXTENT[grade] + 0.06
        lift = _FLUID[grade] * np.clip(1 - (from_middle / width) ** 2, 0, 1)
    inner = bruch - thickness - 0.8 * lift
    epithelium = bruch - _RPE_HALF - bumps
    receptors = epithelium - _RPE_HALF - lift
    if disease == "Macular hole":
        inner, gap = _hole(size, from_middle, inner, receptors, _HOLE[grade])
    elif disease == "Cystoid oedema":
        cysts = _cysts(rng, size, middle, inner, receptors, grade)
    return _Section(inner, receptors, epithelium, bruch, gap, cysts)


def _bumps(rng: np.random.Generator, x: np.ndarray, middle: float, number: int) -> np.ndarray:
    places = middle + (np.arange(number) - (number - 1) / 2) * 0.15 + rng.uniform(-0.02, 0.02, number)
    heights = rng.uniform(0.13, 0.17, number)
    bumps = np.zeros_like(x)
    for place, height in zip(places, heights, strict=True):
        bumps = np.maximum(bumps, height * np.exp(-(((x - np.float32(place)) / 0.055) ** 4)))
    return bumps


def _hole(
    size: int, from_middle: np.ndarray, inner: np.ndarray, receptors: np.ndarray, half: float
) -> tuple[np.ndarray, np.ndarray]:
    """A full-thickness gap with swollen, rounded, overhanging edges: raised inner border and gap share."""
    y, _ = plane(size)
    beyond = np.abs(from_middle) - half
    inner = inner - 0.10 * np.exp(-((np.clip(beyond - 0.06, 0, None) / 0.14) ** 2))
    depth = np.clip((y - inner) / (receptors - inner), 0, 1)
    corner = 0.10 * np.clip(1 - depth / 0.25, 0, 1) ** 2
    undercut = 0.05 * np.clip((depth - 0.6) / 0.4, 0, 1)
    return inner, cover(beyond - corner - undercut, 0.03)


def _cysts(
    rng: np.random.Generator, size: int, middle: float, inner: np.ndarray, receptors: np.ndarray, grade: str
) -> np.ndarray:
    """Fluid in the inner and outer nuclear layers, the largest spaces in the middle."""
    canvas = np.zeros((size, size), dtype=np.float32)
    number, extent = _CYSTS[grade], _EXTENT[grade]
    for k, place in enumerate(np.linspace(-1, 1, number)):
        across = middle + extent * place + rng.uniform(-0.015, 0.015)
        column = min(size - 1, max(0, int((across + 1) * size / 2)))
        top, bottom = float(inner[0, column]), float(receptors[0, column])
        share, high = (0.66, 0.115) if k % 2 == 0 else (0.38, 0.065)
        centre = top + share * (bottom - top)
        wide = rng.uniform(0.055, 0.07) * (1.15 - 0.35 * abs(place))
        spot = window(size, centre, across, 0.2)
        rho = np.sqrt((spot.y / np.float32(high)) ** 2 + (spot.x / np.float32(wide)) ** 2)
        view = canvas[spot.area]
        np.maximum(view, cover((rho - 1) * wide, 0.02), out=view)
    return canvas


def _reflectivity(rng: np.random.Generator, size: int, section: _Section, swept: bool) -> np.ndarray:
    """Display level [size, size] before speckle: layers, fluid, choroid, then shadows under vessels."""
    y, x = plane(size)
    vitreous = 0.09 if swept else 0.03
    depth = (y - section.inner) / (section.receptors - section.inner)
    retina = np.interp(depth, _DEPTHS, _LEVELS).astype(np.float32)
    retina *= 1 + 0.06 * value_noise(rng, size, 20)
    edge = 3 / size
    inside = cover(section.inner - y, edge) * cover(y - section.receptors, edge)
    inside = inside * (1 - section.gap) * (1 - section.cysts)
    level = vitreous + (retina - vitreous) * inside
    below = y - section.bruch
    level = np.maximum(level, _choroid(rng, size, below, swept) * cover(-below, edge))
    material = cover(section.epithelium - y, edge) * cover(below, edge)
    level = np.maximum(level, 0.50 * material)
    pigment = cover(np.abs(y - section.epithelium) - _RPE_HALF, edge)
    level = np.maximum(level, 0.97 * pigment)
    shadow, lumen = np.zeros_like(x), np.zeros((size, size), dtype=np.float32)
    for place in rng.uniform(-1, 1, int(rng.integers(2, 5))):
        width = rng.uniform(0.02, 0.04)
        shadow = np.maximum(shadow, cover(np.abs(x - np.float32(place)) - width, 0.03))
        column = min(size - 1, int((place + 1) * size / 2))
        add_blob(lumen, float(section.inner[0, column]) + 0.06, place, width, 0.03)
    level = level * (1 - 0.42 * shadow * cover(section.inner + 0.09 - y, 0.05))
    return np.maximum(level, 0.85 * lumen * inside)


def _choroid(rng: np.random.Generator, size: int, below: np.ndarray, swept: bool) -> np.ndarray:
    """Level under Bruch's membrane; a swept source at 1050 nm passes the pigment down to the sclera."""
    vessels = np.clip(1.4 * value_noise(rng, size, 11) - 0.35, 0, 1)
    deep = np.clip(below, 0, None)
    if not swept:
        return np.asarray(0.60 * np.exp(-deep / np.float32(0.22)) * (1 - 0.45 * vessels))
    choroid = 0.62 * (1 - 0.85 * vessels * (deep > 0.04))
    sclera = 0.66 + 0.05 * value_noise(rng, size, 14)
    share = cover(0.46 - deep, 0.06)
    return np.asarray((choroid * (1 - share) + sclera * share) * np.exp(-deep / np.float32(2.2)))


def _time_domain(rng: np.random.Generator, level: np.ndarray) -> np.ndarray:
    """Few depth scans of 10 µm resolution in false colours, as the first clinical scanners showed them."""
    size = len(level)
    scans = 44
    rows = ndimage.gaussian_filter1d(level, 0.009 * size, axis=0)
    centres = ((np.arange(scans) + 0.5) * size / scans).astype(int)
    grain = np.log(rng.standard_gamma(6.0, (size, scans), dtype=np.float32) / 6 + np.float32(1e-3))
    grain = ndimage.gaussian_filter1d(grain, 0.008 * size, axis=0)
    shown = rows[:, centres] + 0.03 + 0.16 * grain * np.sqrt(np.clip(rows[:, centres], 0.02, 1))
    shown = shown[:, np.arange(size) * scans // size]
    table = np.stack(
        [np.interp(np.linspace(0, 1, 256), _RAINBOW_AT, c) for c in zip(*_RAINBOW, strict=True)], 1
    )
    index = (np.clip(0.97 * shown, 0, 1) * 255).astype(np.uint8)
    return np.asarray(table[index], dtype=np.float32)


def _flow(rng: np.random.Generator, image: np.ndarray, section: _Section) -> np.ndarray:
    """Decorrelation overlay: red capillary beds in the inner retina, yellow choriocapillaris."""
    size = len(image)
    y, _ = plane(size)
    depth = (y - section.inner) / (section.receptors - section.inner)
    inner = cover(np.abs(depth - 0.27) - 0.22, 0.08) * (1 - section.gap) * (1 - section.cysts)
    moving = np.clip(2.5 * value_noise(rng, size, 40) - 0.4, 0, 1)
    image = blend(image, (1.0, 0.08, 0.05), 0.92 * moving * inner)
    below = y - section.bruch
    choroid = cover(np.abs(below - 0.11) - 0.09, 0.04)
    moving = np.clip(2.5 * value_noise(rng, size, 34) + 0.6, 0, 1)
    return blend(image, (1.0, 0.72, 0.05), 0.88 * moving * choroid)


def _arrow(size: int, section: _Section, layer: str, side: float) -> np.ndarray:
    """Coverage of an arrow that comes in from one edge along its layer and stops with its tip in it."""
    columns = [int((1 + side * at) * size / 2) for at in (0.90, 0.66)]
    points = []
    for column in columns:
        inner, receptors = float(section.inner[0, column]), float(section.receptors[0, column])
        epithelium, bruch = float(section.epithelium[0, column]), float(section.bruch[0, column])
        height = {
            "Nerve fibre layer": inner + 0.055 * (receptors - inner),
            "Outer nuclear layer": inner + 0.69 * (receptors - inner),
            "Pigment epithelium": epithelium,
            "Choroid": bruch + _CHOROID_DEPTH,
        }[layer]
        points.append(np.array([height, 2 * (column + 0.5) / size - 1]))
    tail, tip = points
    along = (tip - tail) / np.linalg.norm(tip - tail)
    across = np.array([along[1], -along[0]])
    start, neck = tip - 0.36 * along, tip - 0.17 * along
    outline = [
        (start, 0.035),
        (neck, 0.035),
        (neck, 0.10),
        (tip, 0),
        (neck, -0.10),
        (neck, -0.035),
        (start, -0.035),
    ]
    return polygon(size, np.stack([point + offset * across for point, offset in outline]))


IMAGING = Imaging(Modality.OCT, "OCT (Optical Coherence Tomography", ATTRIBUTES, render)
