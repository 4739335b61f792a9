"""Microscopy: white and red cells on a slide, from what stains absorb, emit or delay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from osler.phantom.colour import (
    Window,
    absorb,
    add_blob,
    add_cluster,
    blend,
    cover,
    plane,
    sensor_noise,
    streams,
    strokes,
    sunflower,
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
        ("Haematoxylin and eosin", "Giemsa stain", "Immunofluorescence", "Phase contrast"),
        ("Which microscopy technique is this?", "How were these cells made visible?"),
    ),
    Attribute(
        "cell",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Neutrophil", "Lymphocyte", "Eosinophil", "Monocyte"),
        ("Which white blood cell is shown?", "What kind of white cell is this?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Malaria", "Sickle cell disease", "Sleeping sickness", "Bacterial infection"),
        ("Which disease does the blood show?", "What is the diagnosis of this smear?"),
    ),
    Attribute(
        "severity",
        QuestionType.LESION_GRADING,
        ("Minimal", "Mild", "Moderate", "Severe"),
        ("What grade is the blood disease?",),
    ),
    Attribute(
        "count",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("One", "Two", "Three", "Four"),
        ("How many white cells are in the field?",),
    ),
)

# Optical density per unit of dye, for red, green and blue light.
HAEMATOXYLIN = (1.15, 1.25, 0.55)
EOSIN = (0.08, 0.95, 0.42)
AZURE = (1.05, 1.30, 0.42)  # thiazine dyes of Giemsa's mixture, on nucleic acid
HAEMOGLOBIN = (0.10, 0.42, 0.40)
ORANGE = (0.10, 0.75, 1.25)  # eosin held in the granules of eosinophils

_WHITE_RADIUS = 0.29
_RED_RADIUS = 0.13
_SPACING = 0.315  # between red cells
_COUNT = {"One": 1, "Two": 2, "Three": 3, "Four": 4}
_AFFECTED = {"Minimal": 0.0, "Mild": 0.30, "Moderate": 0.60, "Severe": 1.0}  # at least one always


@dataclass(frozen=True, slots=True)
class _Slide:
    """How much of each substance lies at each pixel, [size, size], about 0 to 1."""

    nucleus: np.ndarray
    body: np.ndarray  # cytoplasm of white cells
    basophil: np.ndarray  # ribonucleic acid: blue cytoplasm
    granules: np.ndarray
    red: np.ndarray  # haemoglobin
    germ: np.ndarray  # nucleic acid of parasites and bacteria


def render(scene: Scene, size: int) -> np.ndarray:
    """A blood scene as uint8 [size, size, 3].

    White cells, red cells and germs are laid out once as amounts of substance; each technique then
    turns amounts into light: absorbed by dyes, emitted by fluorophores, or delayed and interfering.
    """
    places, whites, reds, stain, sensor = streams(scene.nuisance_seed, 5)
    slide = _slide(places, whites, reds, size, scene.values)
    view = {
        "Haematoxylin and eosin": _haematoxylin_eosin,
        "Giemsa stain": _giemsa,
        "Immunofluorescence": _fluorescence,
        "Phase contrast": _phase,
    }[scene.values["technique"]]
    return to_bytes(sensor_noise(sensor, view(stain, slide), 0.014))


def _slide(
    places: np.random.Generator,
    white_shapes: np.random.Generator,
    red_shapes: np.random.Generator,
    size: int,
    values: Mapping[str, str],
) -> _Slide:
    slide = _Slide(*(np.zeros((size, size), dtype=np.float32) for _ in fields(_Slide)))
    whites = _white_places(places, _COUNT[values["count"]])
    for y, x in whites:
        _white_cell(white_shapes, slide, y, x, values["cell"])
    reds = _red_places(places, whites)
    affected = max(1, round(_AFFECTED[values["severity"]] * len(reds)))
    for k, (y, x) in enumerate(reds):
        sick = k < affected
        if values["disease"] == "Sickle cell disease" and sick:
            _sickle(red_shapes, slide.red, y, x)
            continue
        _red_cell(red_shapes, slide.red, y, x)
        if sick and values["disease"] == "Malaria":
            _malaria_ring(red_shapes, slide.germ, y, x)
        elif sick and values["disease"] == "Bacterial infection":
            _cocci(red_shapes, slide.germ, y - 0.5 * _SPACING * (1 if y > 0 else -1), x)
    if values["disease"] == "Sleeping sickness":
        hosts = 0.85 * reds[: max(1, round(0.62 * affected))]
        courses = [_trypanosome(red_shapes, y, x) for y, x in hosts]
        np.maximum(slide.germ, strokes(size, courses), out=slide.germ)
    return slide


def _white_places(rng: np.random.Generator, number: int) -> np.ndarray:
    """Centres [number, 2] in a different quarter of the field each."""
    quarters = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])
    chosen = quarters[rng.permutation(4)[:number]]
    loose = 0.16 if number <= 2 else 0.10
    return chosen + rng.uniform(-loose, loose, (number, 2))


def _red_places(rng: np.random.Generator, whites: np.ndarray) -> np.ndarray:
    """Centres [n, 2] of the red cells, clear of the white ones and of the rim, in random order."""
    rows = np.arange(-3, 4)
    lattice = np.array([((j * 0.87), i + 0.5 * (j % 2)) for j in rows for i in rows]) * _SPACING
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    places = lattice @ rotation + rng.uniform(-0.15, 0.15, 2) + rng.normal(0, 0.022, lattice.shape)
    inside = np.abs(places).max(axis=1) < 0.89
    clear = np.linalg.norm(places[:, None] - whites[None], axis=2).min(axis=1) > _WHITE_RADIUS + 0.135
    return rng.permutation(places[inside & clear])


def _white_cell(rng: np.random.Generator, slide: _Slide, y: float, x: float, kind: str) -> None:
    radius = _WHITE_RADIUS * rng.uniform(0.93, 1.03) * (0.80 if kind == "Lymphocyte" else 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    spot = window(len(slide.body), y, x, radius * 1.2)
    angle = np.arctan2(spot.y, spot.x)
    outline = radius * (1 + 0.03 * np.cos(2 * angle + turn) + 0.02 * np.cos(3 * angle - turn))
    body = cover(spot.radius - outline, 0.03)
    np.maximum(slide.body[spot.area], body, out=slide.body[spot.area])
    nucleus = slide.nucleus[spot.area]
    if kind == "Lymphocyte":
        # One round nucleus that nearly fills the cell, a thin blue rim.
        np.maximum(nucleus, cover(_lobe(spot, 0.06 * radius, turn, 0.80 * radius), 0.03), out=nucleus)
        slide.basophil[spot.area] += body
    elif kind == "Monocyte":
        # A large kidney-shaped nucleus: a disc with a deep bay.
        kidney = _lobe(spot, 0.08 * radius, turn, 0.70 * radius)
        bay = _lobe(spot, 0.52 * radius, turn, 0.42 * radius)
        np.maximum(nucleus, 0.8 * cover(np.maximum(kidney, -bay), 0.04), out=nucleus)
        slide.basophil[spot.area] += 0.55 * body
    elif kind == "Neutrophil":
        # Four small lobes on a bow, joined by thin strands.
        for k in range(4):
            lobe = _lobe(spot, 0.48 * radius, turn + (k - 1.5) * 1.15, 0.27 * radius)
            np.maximum(nucleus, cover(lobe, 0.03), out=nucleus)
        strand = np.abs(spot.radius - 0.48 * radius) - 0.035
        bow = np.cos(angle - turn) > np.cos(1.7)
        np.maximum(nucleus, 0.85 * cover(strand, 0.03) * bow, out=nucleus)
    else:
        # Two lobes side by side, the cytoplasm packed with coarse granules.
        for way in (-1, 1):
            lobe = _lobe(spot, 0.42 * radius, turn + way * 0.85, 0.36 * radius)
            np.maximum(nucleus, cover(lobe, 0.03), out=nucleus)
        _granules(rng, slide, y, x, radius)


def _lobe(spot: Window, out: float, angle: float, radius: float) -> np.ndarray:
    """Signed distance to a disc that lies `out` from the window's centre in one direction."""
    dy, dx = spot.y - np.float32(out * np.sin(angle)), spot.x - np.float32(out * np.cos(angle))
    return np.asarray(np.sqrt(dy**2 + dx**2) - np.float32(radius))


def _granules(rng: np.random.Generator, slide: _Slide, y: float, x: float, radius: float) -> None:
    add_cluster(slide.granules, y, x, sunflower(rng, 48, 0.92 * radius, 0.008), 0.027, 0.02)


def _red_cell(rng: np.random.Generator, red: np.ndarray, y: float, x: float) -> None:
    """A biconcave disc: thinner, so paler, in the middle."""
    radius = _RED_RADIUS * rng.uniform(0.92, 1.06)
    spot = window(len(red), y, x, radius * 1.2)
    stretch = rng.uniform(0.92, 1.0)
    distance = np.sqrt((spot.y * np.float32(stretch)) ** 2 + (spot.x / np.float32(stretch)) ** 2)
    thickness = 1 - 0.55 * np.exp(-((distance / np.float32(0.48 * radius)) ** 2))
    view = red[spot.area]
    np.maximum(view, thickness * cover(distance - radius, 0.025), out=view)


def _sickle(rng: np.random.Generator, red: np.ndarray, y: float, x: float) -> None:
    """A crescent: what one disc leaves of another."""
    turn = rng.uniform(0, 2 * np.pi)
    radius = 0.19
    spot = window(len(red), y, x, radius * 1.6)
    whole = _lobe(spot, 0.10, turn, radius)
    bite = _lobe(spot, 0.205, turn, radius * 1.03)
    view = red[spot.area]
    np.maximum(view, 1.15 * cover(np.maximum(whole, -bite), 0.025), out=view)


def _malaria_ring(rng: np.random.Generator, germ: np.ndarray, y: float, x: float) -> None:
    """The ring form of Plasmodium inside a red cell, with its dot of chromatin."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = y + rng.normal(0, 0.012), x + rng.normal(0, 0.012)
    spot = window(len(germ), y, x, 0.13)
    ring = np.abs(spot.radius - 0.058) - 0.017
    view = germ[spot.area]
    np.maximum(view, 0.9 * cover(ring, 0.02), out=view)
    add_blob(germ, y + 0.058 * np.sin(turn), x + 0.058 * np.cos(turn), 0.036, 0.02)


def _cocci(rng: np.random.Generator, germ: np.ndarray, y: float, x: float) -> None:
    """A grape-like cluster of staphylococci between the cells."""
    add_cluster(germ, y, x, sunflower(rng, 12, 0.115, 0.008), 0.021, 0.014)


def _trypanosome(rng: np.random.Generator, y: float, x: float) -> tuple[np.ndarray, np.ndarray]:
    """A wavy flagellate, thick in the middle, whip-like at one end: points [28, 2] and widths."""
    t = np.linspace(-1, 1, 28)
    turn, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    along, across = 0.27 * t, 0.055 * np.sin(2 * np.pi * 1.25 * t + phase)
    points = np.stack(
        [
            y + along * np.sin(turn) + across * np.cos(turn),
            x + along * np.cos(turn) - across * np.sin(turn),
        ],
        axis=1,
    )
    return points, 0.016 + 0.050 * np.clip(1 - ((t + 0.25) / 0.75) ** 2, 0, 1)


def _chromatin(rng: np.random.Generator, slide: _Slide) -> np.ndarray:
    """Nuclei with the clumps of their chromatin."""
    return slide.nucleus * np.clip(1 + 0.13 * value_noise(rng, len(slide.nucleus), 34), 0.6, 1.4)


def _giemsa(rng: np.random.Generator, slide: _Slide) -> np.ndarray:
    """A stained smear: nuclei purple, red cells salmon, eosinophil granules orange, empty ground."""
    strength = rng.uniform(0.9, 1.1)
    bare = slide.red * (1 - slide.body)
    return absorb(
        (0.95, 0.945, 0.90),
        (strength * 0.95 * _chromatin(rng, slide), AZURE),
        (strength * (0.12 * slide.body + 0.40 * slide.basophil), (0.95, 0.55, 0.10)),
        (strength * 0.16 * slide.body, EOSIN),
        (strength * 0.95 * slide.granules * (1 - 0.8 * slide.nucleus), ORANGE),
        (strength * 0.95 * bare, HAEMOGLOBIN),
        (strength * 1.25 * slide.germ, AZURE),
    )


def _haematoxylin_eosin(rng: np.random.Generator, slide: _Slide) -> np.ndarray:
    """A tissue section: the same cells in a bed of pink collagen fibres."""
    size = len(slide.red)
    y, x = plane(size)
    turn = rng.uniform(0, np.pi)
    along = np.cos(turn) * x + np.sin(turn) * y + 0.13 * value_noise(rng, size, 5)
    fibres = np.sin(along * 26 + 1.5 * value_noise(rng, size, 7)) + 0.5 * value_noise(rng, size, 18)
    matrix = np.clip(0.36 + 0.14 * fibres, 0.08, 0.8) * (1 - 0.75 * slide.body)
    strength = rng.uniform(0.9, 1.1)
    bare = slide.red * (1 - slide.body)
    return absorb(
        (0.98, 0.95, 0.97),
        (strength * 1.0 * _chromatin(rng, slide), HAEMATOXYLIN),
        (strength * 0.35 * slide.basophil, HAEMATOXYLIN),
        (strength * matrix * (1 - bare), EOSIN),
        (strength * (0.20 * slide.body + 1.35 * bare), EOSIN),
        (strength * 0.9 * slide.granules * (1 - 0.8 * slide.nucleus), ORANGE),
        (strength * 1.5 * slide.germ, HAEMATOXYLIN),
    )


def _fluorescence(rng: np.random.Generator, slide: _Slide) -> np.ndarray:
    """Blue nuclear dye, green antibody on white cells, red autofluorescence of red cells, on black."""
    glow = np.array([rng.uniform(0.9, 1.05) for _ in range(4)], dtype=np.float32)
    chromatin = _chromatin(rng, slide)[..., None] * np.asarray((0.10, 0.28, 1.0), dtype=np.float32)
    membrane = np.clip(slide.body - ndimage.gaussian_filter(slide.body, 0.018 * len(slide.body)), 0, 1)
    green = (0.30 + 0.20 * slide.basophil) * slide.body * (1 - slide.nucleus) + 1.1 * membrane
    red = 0.42 * slide.red * (1 - slide.body)
    image = glow[0] * chromatin
    image = image + glow[1] * green[..., None] * np.asarray((0.08, 1.0, 0.22), dtype=np.float32)
    image = image + glow[2] * red[..., None] * np.asarray((1.0, 0.16, 0.10), dtype=np.float32)
    grains = slide.granules * (1 - 0.8 * slide.nucleus)
    image = blend(image + 0.015, (1.0, 0.85, 0.15), 0.9 * grains)
    return blend(image, glow[3] * np.asarray((0.35, 0.85, 1.0)), 0.95 * slide.germ)


def _phase(rng: np.random.Generator, slide: _Slide) -> np.ndarray:
    """Zernike phase contrast: thick is dark, and low spatial frequencies are lost, so halos are bright."""
    size = len(slide.red)
    delay = 0.42 * slide.body + 0.85 * _chromatin(rng, slide) + 0.50 * slide.red * (1 - slide.body)
    delay = delay + 0.75 * slide.germ - 0.85 * slide.granules * (1 - 0.8 * slide.nucleus)
    delay = ndimage.gaussian_filter(delay, 0.004 * size)
    halo = delay - 0.88 * ndimage.gaussian_filter(delay, 0.034 * size)
    grey = 0.56 - 0.66 * halo + 0.012 * value_noise(rng, size, 12)
    tint = np.asarray((0.98, 1.0, 0.97), dtype=np.float32) * rng.uniform(0.95, 1.05)
    return grey[..., None] * tint


IMAGING = Imaging(Modality.MICROSCOPY, "Microscopy Images", ATTRIBUTES, render)
