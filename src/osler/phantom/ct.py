"""Abdominal CT: attenuation in Hounsfield units, contrast phases, quantum noise, the abdominal window."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import fft

from osler.phantom.draw import edge, ellipse, lobulated, paint, polar, pose, smooth_noise, streams, to_grey
from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "phase",
        QuestionType.MODALITY_RECOGNITION,
        ("No contrast", "Arterial phase", "Venous phase", "Delayed phase"),
        ("Which contrast phase does this CT show?", "When after contrast injection was this CT taken?"),
    ),
    Attribute(
        "organ",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Liver", "Spleen", "Pancreas", "Left kidney", "Right kidney"),
        ("Which organ contains the lesion on this CT?", "Where in the abdomen is the lesion?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Cyst", "Abscess", "Calcification", "Lipoma"),
        ("What is the lesion on this CT?", "Which diagnosis fits this abdominal CT?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("How large is the lesion on this CT?", "What is the size grade of the abdominal lesion?"),
    ),
    Attribute(
        "fat",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Minimal", "Thin", "Moderate", "Thick"),
        ("How thick is the fat layer under the skin?", "How much subcutaneous fat does this CT show?"),
    ),
)


# Hounsfield units by contrast phase: No contrast, Arterial, Venous, Delayed.
_PHASES = {"No contrast": 0, "Arterial phase": 1, "Venous phase": 2, "Delayed phase": 3}
ENHANCING: Mapping[str, tuple[float, float, float, float]] = {
    "aorta": (42, 340, 165, 95),
    "cava": (40, 90, 160, 92),
    "liver": (58, 70, 118, 86),
    "liver vein": (40, 66, 190, 96),
    "spleen": (48, 130, 122, 88),
    "pancreas": (46, 112, 88, 62),
    "cortex": (44, 230, 185, 120),
    "medulla": (40, 60, 175, 115),
    "urine": (4, 4, 6, 700),
    "rim": (88, 120, 165, 140),
}
FAT, MUSCLE, SKIN, WATER, GAS, BONE, MARROW = -100.0, 55.0, 40.0, 8.0, -950.0, 650.0, 180.0
WINDOW_CENTRE, WINDOW_WIDTH = 45.0, 360.0  # the usual abdominal window, HU
CAVITY = (0.66, 0.53)  # half-axes of the body inside its fat
FAT_LAYERS = {"Minimal": 0.015, "Thin": 0.065, "Moderate": 0.125, "Thick": 0.195}
RADII = {"Tiny": 0.068, "Small": 0.11, "Medium": 0.16, "Large": 0.235}  # of half the picture
# Radiological convention: the patient's right is on the left of the picture, the back is below.
ORGANS = {
    "Liver": (-0.36, -0.10),
    "Spleen": (0.50, -0.03),
    "Pancreas": (0.07, -0.10),
    "Left kidney": (0.34, 0.28),
    "Right kidney": (-0.34, 0.28),
}


def _body(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, fat: float) -> np.ndarray:
    """Skin, fat, muscle wall, ribs, spine and the table, in HU [size, size]."""
    hounsfield = np.full_like(x, -1000.0)
    a, b = CAVITY
    outer = (a + 0.05 + fat, b + 0.05 + fat * 0.95)
    table = edge(0.012 - np.abs(y - (outer[1] + 0.03 - 0.10 * np.square(x))))
    paint(hounsfield, table * edge(0.75 - np.abs(x)), -350.0)
    paint(hounsfield, ellipse(x, y, (0.0, 0.0), (outer[0] + 0.02, outer[1] + 0.02)), SKIN)
    paint(hounsfield, ellipse(x, y, (0.0, 0.0), outer), FAT)
    paint(hounsfield, ellipse(x, y, (0.0, 0.0), (a + 0.035, b + 0.035)), MUSCLE)
    paint(hounsfield, ellipse(x, y, (0.0, 0.0), (a - 0.035, b - 0.035)), FAT)
    side = np.abs(x)
    paint(hounsfield, ellipse(side, y, (0.17, 0.445), (0.12, 0.08), 0.15), MUSCLE)
    paint(hounsfield, ellipse(side, y, (0.13, 0.26), (0.06, 0.10), -0.2), MUSCLE)
    for _ in range(10):
        turn = rng.uniform(-0.15, 1.05) * math.pi
        spot = (a * math.cos(turn), b * math.sin(turn))
        paint(hounsfield, ellipse(x, y, spot, (0.045, 0.018), turn + math.pi / 2), BONE)
    paint(hounsfield, ellipse(x, y, (0.0, 0.27), (0.125, 0.10)), BONE)
    paint(hounsfield, ellipse(x, y, (0.0, 0.27), (0.10, 0.077)), MARROW)
    paint(hounsfield, ellipse(side, y, (0.085, 0.41), (0.05, 0.02), 0.7), BONE)
    paint(hounsfield, ellipse(x, y, (0.0, 0.47), (0.018, 0.06)), BONE)
    paint(hounsfield, ellipse(x, y, (0.0, 0.385), (0.05, 0.037)), WATER + 20)
    return hounsfield


def _organs(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, hounsfield: np.ndarray, phase: int
) -> None:
    """Liver with its veins, spleen, stomach, pancreas, kidneys and the great vessels, in place."""
    tone = {tissue: values[phase] + rng.uniform(-4.0, 4.0) for tissue, values in ENHANCING.items()}
    inside = ellipse(x, y, (0.0, 0.0), (CAVITY[0] - 0.045, CAVITY[1] - 0.045))
    for _ in range(5):
        loop = (rng.uniform(-0.05, 0.4), rng.uniform(-0.05, 0.2))
        paint(hounsfield, ellipse(x, y, loop, (0.06, 0.05), rng.uniform(0.0, 3.0)), 30.0)
    stomach = (0.26 + rng.uniform(-0.02, 0.02), -0.25)
    paint(hounsfield, ellipse(x, y, stomach, (0.18, 0.14), 0.3) * inside, 45.0)
    paint(hounsfield, ellipse(x, y, stomach, (0.155, 0.115), 0.3) * inside, 15.0)
    paint(hounsfield, ellipse(x, y, stomach, (0.15, 0.11), 0.3) * edge(stomach[1] - 0.04 - y), GAS)
    liver = np.maximum(
        ellipse(x, y, (-0.36, -0.06), (0.26, 0.40), 0.12), ellipse(x, y, (-0.13, -0.26), (0.30, 0.17), 0.25)
    )
    paint(hounsfield, liver * inside, tone["liver"])
    for _ in range(6):
        spot = (rng.uniform(-0.50, -0.15), rng.uniform(-0.30, 0.10))
        branch = ellipse(x, y, spot, (rng.uniform(0.04, 0.10), 0.017), rng.uniform(-1.2, 0.6))
        paint(hounsfield, branch * liver, tone["liver vein"])
    mottle = 45.0 * np.sin(14.0 * (x + 0.4 * y) + 2.0 * smooth_noise(rng, x.shape[0], 10))
    spleen = tone["spleen"] + (mottle if phase == 1 else 0.0)
    paint(hounsfield, ellipse(x, y, (0.50, 0.0), (0.105, 0.24), 0.12) * inside, spleen)
    paint(hounsfield, ellipse(x, y, (0.07, -0.10), (0.22, 0.06), -0.3), tone["pancreas"])
    paint(hounsfield, ellipse(x, y, (0.12, -0.05), (0.16, 0.02), -0.3), tone["liver vein"])
    paint(hounsfield, ellipse(x, y, (-0.07, -0.02), (0.04, 0.04)), tone["liver vein"])
    side = np.abs(x)
    paint(hounsfield, ellipse(side, y, (0.27, 0.25), (0.115, 0.135), -0.25), tone["cortex"])
    paint(hounsfield, ellipse(side, y, (0.265, 0.25), (0.075, 0.095), -0.25), tone["medulla"])
    paint(hounsfield, ellipse(side, y, (0.225, 0.24), (0.055, 0.05)), FAT)
    paint(hounsfield, ellipse(side, y, (0.225, 0.24), (0.036, 0.042)), tone["urine"])
    paint(hounsfield, ellipse(x, y, (0.035, 0.125), (0.055, 0.055)), tone["aorta"])
    paint(hounsfield, ellipse(x, y, (-0.095, 0.125), (0.062, 0.045)), tone["cava"])


def _lesion(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, hounsfield: np.ndarray, scene: Scene
) -> None:
    """The lesion over its organ, in place."""
    along, down = ORGANS[scene.values["organ"]]
    centre = (along + rng.uniform(-0.02, 0.02), down + rng.uniform(-0.02, 0.02))
    radius = RADII[scene.values["size"]] * rng.uniform(0.94, 1.06)
    distance, angle = polar(x, y, centre)
    kind = scene.values["kind"]
    if kind == "Cyst":
        paint(hounsfield, edge(radius - distance), 0.0)
        return
    if kind == "Lipoma":
        paint(hounsfield, edge(radius - distance / lobulated(rng, angle, 0.05)), -115.0)
        return
    if kind == "Calcification":
        clumps = 600.0 + 150.0 * smooth_noise(rng, x.shape[0], 30)
        paint(hounsfield, edge(radius - distance / lobulated(rng, angle, 0.16)), clumps)
        return
    phase = _PHASES[scene.values["phase"]]
    outline = distance / lobulated(rng, angle, 0.04)
    paint(hounsfield, edge(radius - outline), ENHANCING["rim"][phase])
    core = edge(0.68 * radius - outline)
    paint(hounsfield, core, 18.0)
    # Gas rises to the front of a patient lying on the back, over a level of pus.
    paint(hounsfield, core * edge(centre[1] - 0.05 * radius - y), GAS)


def _quantum_noise(rng: np.random.Generator, hounsfield: np.ndarray, deviation: float) -> np.ndarray:
    """Noise of a filtered back-projection: its power rises with frequency up to the kernel's roll-off.

    More of it in the middle of a wide body, where few photons arrive; `deviation` in HU.
    """
    size = hounsfield.shape[0]
    white = rng.standard_normal((size, size), dtype=np.float32)
    rows = np.fft.fftfreq(size).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(size).astype(np.float32)[None, :]
    frequency = np.hypot(rows, columns)
    ramp = np.sqrt(frequency) * np.exp(-np.square(frequency / np.float32(0.28)))
    noise = fft.irfft2(fft.rfft2(white) * ramp, s=(size, size))
    width = float(np.mean(hounsfield > -500.0))
    return np.asarray(noise * (deviation * (0.7 + width) / float(noise.std())))


def render(scene: Scene, size: int) -> np.ndarray:
    """An axial slice of the upper abdomen in the abdominal window, uint8 [size, size]."""
    rng, lesion, noise = streams(scene.nuisance_seed)
    shift = (rng.uniform(-0.01, 0.01), rng.uniform(-0.06, 0.02))
    x, y = pose(size, shift=shift, turn=rng.uniform(-0.06, 0.06), zoom=rng.uniform(1.03, 1.09))
    fat = FAT_LAYERS[scene.values["fat"]] * rng.uniform(0.94, 1.06)
    hounsfield = _body(rng, x, y, fat)
    _organs(rng, x, y, hounsfield, _PHASES[scene.values["phase"]])
    hounsfield += 5.0 * smooth_noise(rng, size, 24) * (hounsfield > -200.0)
    _lesion(lesion, x, y, hounsfield, scene)
    hounsfield += _quantum_noise(noise, hounsfield, noise.uniform(7.0, 13.0))
    return to_grey((hounsfield - (WINDOW_CENTRE - WINDOW_WIDTH / 2)) * (1.0 / WINDOW_WIDTH))


IMAGING = Imaging(Modality.CT, "CT(Computed Tomography)", ATTRIBUTES, render)
