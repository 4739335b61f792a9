"""Fundus: the disc, the vessel tree and the pigmented background of the retina, seen through the pupil."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from osler.phantom.colour import (
    absorb,
    add_blob,
    blend,
    cover,
    plane,
    sensor_noise,
    streams,
    strokes,
    sunflower,
    to_bytes,
    value_noise,
)
from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Colour photograph", "Red-free photograph", "Fluorescein angiogram", "Autofluorescence"),
        ("Which fundus imaging technique is this?", "How was this retina imaged?"),
    ),
    Attribute(
        "region",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Macula", "Superior retina", "Inferior retina", "Nasal retina"),
        ("Which region of the retina is affected?", "Where do the lesions of the retina lie?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Drusen", "Haemorrhages", "Cotton-wool spots", "Laser scars"),
        ("Which abnormality does the retina show?", "What are the lesions of this fundus?"),
    ),
    Attribute(
        "severity",
        QuestionType.LESION_GRADING,
        ("Minimal", "Mild", "Moderate", "Severe"),
        ("What grade is the retinal disease?",),
    ),
    Attribute(
        "vessels",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Normal", "Narrowed", "Dilated", "Tortuous"),
        ("How do the retinal vessels look?",),
    ),
)

HAEMOGLOBIN = (0.22, 1.15, 0.9)  # absorption of red, green and blue light
PIGMENT = (0.45, 0.8, 1.1)  # melanin of the retinal and choroidal pigment
_CHOROID = (0.93, 0.47, 0.20)  # what the choroid and sclera send back
_FIELD = 0.97  # radius of the camera's round field

_CALIBRE = {"Normal": 1.0, "Narrowed": 0.42, "Dilated": 2.1, "Tortuous": 1.0}
_WAVES = {"Normal": 0.0, "Narrowed": 0.0, "Dilated": 0.0, "Tortuous": 0.052}
# How many lesions each grade has, of each kind: four steps of about twice the area.
_NUMBER = {
    "Drusen": {"Minimal": 6, "Mild": 14, "Moderate": 29, "Severe": 56},
    "Haemorrhages": {"Minimal": 2, "Mild": 5, "Moderate": 9, "Severe": 16},
    "Cotton-wool spots": {"Minimal": 2, "Mild": 4, "Moderate": 7, "Severe": 12},
    "Laser scars": {"Minimal": 3, "Mild": 6, "Moderate": 12, "Severe": 21},
}
# Centre and half axes (y, x) of each region in a right-sided frame: fovea left, disc right.
_DISC = np.array([0.0, 0.30])
_FOVEA = np.array([0.06, -0.36])
_REGION = {
    "Macula": (_FOVEA, np.array([0.34, 0.36])),
    "Superior retina": (np.array([-0.67, -0.08]), np.array([0.20, 0.48])),
    "Inferior retina": (np.array([0.67, -0.08]), np.array([0.20, 0.48])),
    "Nasal retina": (np.array([0.0, 0.69]), np.array([0.44, 0.19])),
}


@dataclass(frozen=True, slots=True)
class _Retina:
    """What lies in the retina, each share [size, size] from 0 to 1."""

    vessels: np.ndarray
    disc: np.ndarray
    cup: np.ndarray
    macula: np.ndarray
    drusen: np.ndarray
    bleeding: np.ndarray
    cotton: np.ndarray
    scar: np.ndarray  # laser burn: loss of pigment epithelium
    scar_centre: np.ndarray  # its pigmented middle
    texture: np.ndarray  # choroidal pattern, mean 0


def render(scene: Scene, size: int) -> np.ndarray:
    """A fundus scene as uint8 [size, size, 3].

    One retina (vessel tree, disc, macula, lesions) is laid out, then seen in one of four ways: by
    what it reflects of white or green light, by fluorescein in its vessels, or by its own lipofuscin.
    """
    eye, tree, spots, camera, sensor = streams(scene.nuisance_seed, 5)
    left_eye = bool(eye.integers(2))
    shift = eye.uniform(-0.03, 0.03, 2)
    vessels = _vessels(tree, size, shift, scene.values["vessels"])
    lesions = _lesions(spots, size, shift, scene.values)
    retina = _retina(eye, size, shift, vessels, lesions)
    view = {
        "Colour photograph": _colour,
        "Red-free photograph": _red_free,
        "Fluorescein angiogram": _angiogram,
        "Autofluorescence": _autofluorescence,
    }[scene.values["technique"]]
    image = view(camera, retina)
    y, x = plane(size)
    towards = eye.uniform(-0.25, 0.25, 2)
    light = 1.06 - 0.30 * ((y - np.float32(towards[0])) ** 2 + (x - np.float32(towards[1])) ** 2)
    field = cover(np.hypot(y, x) - _FIELD, 0.03)
    image = sensor_noise(sensor, image * light[..., None], 0.014) * field[..., None]
    return to_bytes(image[:, ::-1] if left_eye else image)


def _retina(
    rng: np.random.Generator,
    size: int,
    shift: np.ndarray,
    vessels: np.ndarray,
    lesions: Mapping[str, np.ndarray],
) -> _Retina:
    y, x = plane(size)
    disc_y, disc_x = _DISC + shift
    fovea_y, fovea_x = _FOVEA + shift
    from_disc = np.hypot((y - np.float32(disc_y)) * np.float32(0.9), x - np.float32(disc_x))
    from_fovea = np.hypot(y - np.float32(fovea_y), x - np.float32(fovea_x))
    radius = rng.uniform(0.14, 0.165)
    texture = 0.6 * value_noise(rng, size, 9) + 0.4 * value_noise(rng, size, 28)
    return _Retina(
        vessels=vessels,
        disc=cover(from_disc - radius, 0.035),
        cup=cover(from_disc - radius * rng.uniform(0.35, 0.5), 0.05),
        macula=np.exp(-((from_fovea / 0.17) ** 2)),
        texture=texture,
        **lesions,
    )


def _vessels(rng: np.random.Generator, size: int, shift: np.ndarray, look: str) -> np.ndarray:
    """Four arcades, each an artery beside a wider vein, with side branches, all from the disc."""
    calibre, waves = _CALIBRE[look], _WAVES[look]
    lines: list[tuple[np.ndarray, np.ndarray]] = []
    for up in (-1.0, 1.0):
        for temporal in (True, False):
            for vein in (False, True):
                course = _arcade(rng, up, temporal, vein) + _DISC + shift
                width = calibre * (0.040 if vein else 0.029) * (1.0 if temporal else 0.8)
                lines.append(_tapering(_wavy(rng, course, waves), width))
                for part in rng.uniform(0.2, 0.85, 3):
                    side = _side_branch(rng, course, part)
                    tip = width * (0.62 - 0.25 * part)
                    lines.append(_tapering(_wavy(rng, side, waves), tip))
    return strokes(size, lines)


def _tapering(course: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    return course, np.linspace(width, 0.5 * width, len(course))


def _arcade(rng: np.random.Generator, up: float, temporal: bool, vein: bool) -> np.ndarray:
    """Points [25, 2] of a main vessel from the disc's centre: temporal ones arch around the macula."""
    t = np.linspace(0, 1, 25)
    apart = rng.uniform(0.02, 0.05) * (1 if vein else -1)
    if temporal:
        height = rng.uniform(0.50, 0.58) + apart
        return np.stack([up * height * np.sin(1.9 * t) ** 0.8, -1.25 * t**1.35 + apart * np.sqrt(t)], axis=1)
    height = rng.uniform(0.50, 0.72) + apart
    return np.stack([up * height * t**1.1, 0.60 * t + apart * np.sqrt(t)], axis=1)


def _side_branch(rng: np.random.Generator, course: np.ndarray, part: float) -> np.ndarray:
    """Points [16, 2] of a branch that leaves a main vessel at a part of its length and bends away."""
    start = round(part * (len(course) - 2))
    ahead = course[start + 1] - course[start]
    heading = np.arctan2(ahead[0], ahead[1])
    turn = rng.choice((-1.0, 1.0))
    steps = np.linspace(0, rng.uniform(0.35, 0.6) * (1.2 - part), 16)
    angles = heading + turn * (rng.uniform(0.55, 0.9) - rng.uniform(0.2, 1.0) * steps)
    stride = np.diff(steps, prepend=0.0)
    moves = np.stack([np.sin(angles) * stride, np.cos(angles) * stride], axis=1)
    return course[start] + np.cumsum(moves, axis=0)


def _wavy(rng: np.random.Generator, course: np.ndarray, amplitude: float) -> np.ndarray:
    """The same course with corkscrew bends; unchanged for amplitude 0."""
    phase, wavelength = rng.uniform(0, 2 * np.pi), rng.uniform(0.23, 0.28)
    if amplitude == 0:
        return course
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(course, axis=0).T))])
    fine = np.linspace(0, lengths[-1], max(8, round(lengths[-1] / 0.028)))
    dense = np.stack([np.interp(fine, lengths, course[:, k]) for k in range(2)], axis=1)
    along = np.gradient(dense, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    bend = amplitude * np.sin(2 * np.pi * fine / wavelength + phase) * np.clip(fine / 0.12, 0, 1)
    return dense + bend[:, None] * np.stack([along[:, 1], -along[:, 0]], axis=1)


def _places(rng: np.random.Generator, shift: np.ndarray, values: Mapping[str, str]) -> np.ndarray:
    """Lesion centres [n, 2]: a sunflower that fills its region only at the highest grade."""
    numbers = _NUMBER[values["disease"]]
    number, most = numbers[values["severity"]], numbers["Severe"]
    centre, axes = _REGION[values["region"]]
    spread = sunflower(rng, most, 1.0, 0.25 / np.sqrt(most))[:number]
    return centre + shift + spread * axes


def _lesions(
    rng: np.random.Generator, size: int, shift: np.ndarray, values: Mapping[str, str]
) -> dict[str, np.ndarray]:
    kinds = ("drusen", "bleeding", "cotton", "scar", "scar_centre")
    maps = {kind: np.zeros((size, size), dtype=np.float32) for kind in kinds}
    disease = values["disease"]
    for y, x in _places(rng, shift, values):
        if disease == "Drusen":
            add_blob(maps["drusen"], y, x, rng.uniform(0.022, 0.038), 0.03, rng.uniform(0.8, 1.0))
        elif disease == "Haemorrhages":
            _blot(rng, maps["bleeding"], y, x)
        elif disease == "Cotton-wool spots":
            add_blob(maps["cotton"], y, x, rng.uniform(0.065, 0.085), 0.11)
            add_blob(maps["cotton"], y + rng.normal(0, 0.03), x + rng.normal(0, 0.045), 0.055, 0.10)
        else:
            radius = rng.uniform(0.058, 0.068)
            add_blob(maps["scar"], y, x, radius, 0.025)
            add_blob(maps["scar_centre"], y, x, 0.5 * radius, 0.025)
    return maps


def _blot(rng: np.random.Generator, canvas: np.ndarray, y: float, x: float) -> None:
    """One haemorrhage: a few overlapping drops, so that its outline is irregular."""
    for _ in range(4):
        dy, dx = rng.normal(0, 0.035, 2)
        add_blob(canvas, y + dy, x + dx, rng.uniform(0.03, 0.06), 0.025)


def _reflected(retina: _Retina) -> np.ndarray:
    """White light sent back, [size, size, 3]: choroid through blood and pigment, plus white scatterers."""
    pigment = 0.30 + 0.55 * retina.macula + 0.06 * retina.texture + 1.3 * retina.scar_centre
    image = absorb(_CHOROID, (pigment, PIGMENT))
    image = blend(image, (0.97, 0.80, 0.50), 0.92 * retina.disc)
    image = blend(image, (1.0, 0.94, 0.76), 0.85 * retina.cup)
    image = blend(image, (1.0, 0.88, 0.45), 0.9 * retina.drusen)
    image = blend(image, (1.0, 0.93, 0.70), 0.85 * retina.scar * (1 - retina.scar_centre))
    blood = 0.95 * retina.vessels + 1.8 * retina.bleeding
    image = image * absorb((1, 1, 1), (blood, HAEMOGLOBIN))
    return blend(image, (1.0, 0.96, 0.86), 0.92 * retina.cotton)


def _colour(rng: np.random.Generator, retina: _Retina) -> np.ndarray:
    tone = np.array([rng.uniform(0.92, 1.05), rng.uniform(0.88, 1.10), rng.uniform(0.8, 1.2)])
    return _reflected(retina) * tone.astype(np.float32)


def _red_free(rng: np.random.Generator, retina: _Retina) -> np.ndarray:
    """The green channel alone, where blood absorbs most, shown in green."""
    green = 1.9 * (_reflected(retina)[..., 1] - 0.04) * rng.uniform(0.9, 1.05)
    green = green / (1 + 0.55 * green)
    return green[..., None] * np.asarray((0.30, 1.0, 0.42), dtype=np.float32)


def _angiogram(rng: np.random.Generator, retina: _Retina) -> np.ndarray:
    """Late-phase fluorescein: vessels bright, leaking and staining lesions bright, blood blocks."""
    flush = 0.31 + 0.04 * retina.texture - 0.20 * retina.macula
    glow = np.maximum(flush, 0.80 * retina.vessels)
    glow = np.maximum(glow, 0.45 * retina.disc)
    glow = np.maximum(glow, 1.05 * retina.drusen)
    glow = np.maximum(glow, 0.95 * retina.scar)
    glow = np.maximum(glow, 0.95 * retina.cotton)
    glow = glow * (1 - 0.95 * retina.bleeding) * (1 - 0.93 * retina.scar_centre)
    return _grey(glow * rng.uniform(0.92, 1.08))


def _autofluorescence(rng: np.random.Generator, retina: _Retina) -> np.ndarray:
    """Lipofuscin of the pigment epithelium glows; blood, macular pigment, disc and burns are dark.

    Drusen glow by their own lipofuscin; cotton-wool spots throw excitation light through the filter.
    """
    glow = 0.50 + 0.035 * retina.texture - 0.26 * retina.macula
    glow = glow * (1 - 0.88 * retina.disc)
    glow = np.maximum(glow, 0.92 * retina.drusen)
    glow = np.maximum(glow, 0.88 * retina.scar)
    glow = glow * (1 - 0.62 * retina.vessels)
    glow = glow * (1 - 0.95 * retina.bleeding) * (1 - 0.95 * retina.scar_centre)
    return _grey(np.maximum(glow, 0.90 * retina.cotton) * rng.uniform(0.92, 1.08))


def _grey(glow: np.ndarray) -> np.ndarray:
    return np.repeat(glow[..., None], 3, axis=2)


IMAGING = Imaging(Modality.FUNDUS, "Fundus Photography", ATTRIBUTES, render)
