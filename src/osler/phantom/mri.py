"""Axial brain MRI: relaxation times, signal equations of each sequence, complex noise in k-space."""

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
        "sequence",
        QuestionType.MODALITY_RECOGNITION,
        ("T1-weighted", "T2-weighted", "FLAIR", "T1 with contrast"),
        ("Which MRI sequence is shown?", "How was this MRI acquired?"),
    ),
    Attribute(
        "region",
        QuestionType.ANATOMY_IDENTIFICATION,
        (
            "Right frontal",
            "Left frontal",
            "Right temporal",
            "Left temporal",
            "Right occipital",
            "Left occipital",
        ),
        ("In which lobe of the brain is the lesion?", "Where is the lesion on this MRI?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Cyst", "Abscess", "Infarct", "Solid tumour"),
        ("What is the lesion on this MRI?", "Which diagnosis fits this brain MRI?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("How large is the lesion on this MRI?", "What is the size grade of the brain lesion?"),
    ),
    Attribute(
        "ventricles",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Slit-like", "Normal", "Dilated", "Ballooned"),
        ("How wide are the ventricles?", "What do the ventricles look like on this MRI?"),
    ),
)


# [T1 ms, T2 ms, proton density, gadolinium mmol/l after injection], about 1.5 tesla. Blood in motion is
# mostly washed out before the echo, which a long T1 and a short T2 stand for.
TISSUES: Mapping[str, tuple[float, float, float, float]] = {
    "white matter": (560.0, 78.0, 0.72, 0.02),
    "grey matter": (1050.0, 102.0, 0.84, 0.04),
    "fluid": (4300.0, 1800.0, 1.00, 0.0),
    "fat": (260.0, 70.0, 0.92, 0.0),
    "bone": (500.0, 20.0, 0.06, 0.0),
    "marrow": (350.0, 60.0, 0.30, 0.0),
    "blood": (3000.0, 40.0, 0.80, 3.0),
    "dura": (1000.0, 45.0, 0.65, 2.2),
    "plexus": (1300.0, 180.0, 0.90, 1.6),
    "oedema": (1250.0, 190.0, 0.90, 0.0),
    "infarct": (1900.0, 260.0, 0.92, 0.0),
    "tumour": (1250.0, 190.0, 0.88, 0.6),
    "necrosis": (2600.0, 500.0, 0.95, 0.0),
    "pus": (2300.0, 190.0, 0.92, 0.0),
    "capsule": (330.0, 38.0, 0.80, 1.2),
}
RELAXIVITY = 4.5e-3  # per ms and mmol/l
DISPLAY_GAIN = {"T1-weighted": 1.75, "T1 with contrast": 1.6, "T2-weighted": 1.6, "FLAIR": 2.3}
RADII = {"Tiny": 0.075, "Small": 0.125, "Medium": 0.195, "Large": 0.285}  # of half the picture
VENTRICLE_WIDTHS = {"Slit-like": 0.014, "Normal": 0.05, "Dilated": 0.095, "Ballooned": 0.15}
LOBES = {"frontal": (0.33, -0.50), "temporal": (0.45, 0.05), "occipital": (0.33, 0.56)}
HALF_AXES = (0.67, 0.83)  # of the brain

Layer = tuple[np.ndarray, str]


def signal(tissue: str, sequence: str) -> float:
    """Magnitude of a spin echo (T1, T2) or of an inversion recovery (FLAIR), by the steady-state equations.

    S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2), where a spin echo has no inversion and so
    S = PD (1 - exp(-TR/T1)) exp(-TE/T2). Contrast agent shortens T1: 1/T1' = 1/T1 + r1 C.
    """
    t1, t2, density, gadolinium = TISSUES[tissue]
    if sequence == "T1 with contrast":
        t1 = 1.0 / (1.0 / t1 + RELAXIVITY * gadolinium)
    if sequence == "FLAIR":
        repeat, echo, inversion = 9000.0, 105.0, 2480.0
        recovered = abs(1.0 - 2.0 * math.exp(-inversion / t1) + math.exp(-repeat / t1))
    else:
        repeat, echo = (4200.0, 100.0) if sequence == "T2-weighted" else (520.0, 12.0)
        recovered = 1.0 - math.exp(-repeat / t1)
    return density * recovered * math.exp(-echo / t2)


def _head(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, tones: Mapping[str, float]) -> np.ndarray:
    """Scalp, skull, meninges and the folded cortex; magnitude [size, size]."""
    a, b = HALF_AXES
    rho, angle = polar(x * (1.0 / a), y * (1.0 / b), (0.0, 0.0))
    depth = (1.0 - rho) * math.sqrt(a * b)  # distance under the surface of the brain
    image = np.zeros_like(x)
    for tissue, outside in (
        ("fat", 0.155),
        ("bone", 0.095),
        ("marrow", 0.078),
        ("bone", 0.062),
        ("dura", 0.042),
    ):
        paint(image, edge(depth + outside), tones[tissue])
    paint(image, edge(depth + 0.018), tones["fluid"])
    folds = np.zeros_like(x)
    for waves in (9, 13, 17, 22):
        swirl = rng.uniform(4.0, 12.0)
        folds += np.cos(waves * angle + swirl * depth + rng.uniform(0, 2 * math.pi))
    sulcus = np.clip(folds * 0.6 - 0.55, 0.0, 1.0)
    reach = 0.012 + 0.07 * sulcus
    paint(image, edge(depth), tones["grey matter"])
    paint(image, edge(0.075 * sulcus - depth, 0.02) * edge(depth), tones["fluid"])
    paint(image, edge(depth - reach - 0.055, 0.02), tones["white matter"])
    return image


def _deep(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    image: np.ndarray,
    width: float,
    tones: Mapping[str, float],
) -> None:
    """Fissure, falx and sinus, basal ganglia and thalamus, and ventricles of half-width `width`, in place."""
    side = np.abs(x)
    middle = edge(np.abs(y) - 0.34, 0.03) * edge(HALF_AXES[1] - np.abs(y))
    paint(image, middle * edge(0.045 - side, 0.02), tones["grey matter"])
    paint(image, middle * edge(0.014 - side), tones["fluid"])
    paint(image, middle * edge(0.005 - side) * 0.8, tones["dura"])
    paint(image, ellipse(x, y, (0.0, 0.84), (0.075, 0.06)), tones["blood"])
    paint(image, ellipse(x, y, (0.0, -0.85), (0.04, 0.035)), tones["blood"])
    grey = tones["grey matter"]
    spread = 0.6 * width
    paint(image, ellipse(side, y, (0.12 + spread, 0.08), (0.10, 0.13), -0.3, 0.03), grey)
    paint(image, ellipse(side, y, (0.27 + spread, -0.06), (0.05, 0.15), 0.25, 0.02), grey)
    paint(image, ellipse(side, y, (0.11 + 2.0 * width, -0.22), (0.045, 0.10), -0.3, 0.02), grey)
    lean = rng.uniform(0.9, 1.1)
    paint(
        image,
        ellipse(side, y, (0.035 + 0.95 * width, -0.21), (width * lean, 0.13 + 0.4 * width), -0.3),
        tones["fluid"],
    )
    paint(
        image,
        ellipse(side, y, (0.12 + 0.95 * width, 0.27), (width * lean, 0.14 + 0.35 * width), 0.3),
        tones["fluid"],
    )
    paint(image, ellipse(x, y, (0.0, 0.03), (0.010 + 0.16 * width, 0.12)), tones["fluid"])
    paint(image, ellipse(side, y, (0.12 + 0.95 * width, 0.25), (0.025, 0.065), 0.3), tones["plexus"])
    for _ in range(9):
        turn, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.93)
        spot = (far * HALF_AXES[0] * math.cos(turn), far * HALF_AXES[1] * math.sin(turn))
        paint(image, ellipse(x, y, spot, (0.016, 0.016)), tones["blood"])


def _lesion(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scene: Scene) -> list[Layer]:
    """What the lesion is made of: coverage and tissue, to be painted in this order."""
    side, lobe = scene.values["region"].split()
    # Radiological convention: the patient's right is on the left of the picture.
    sign = -1.0 if side == "Right" else 1.0
    across, along = LOBES[lobe]
    centre = (sign * (across + rng.uniform(-0.03, 0.03)), along + rng.uniform(-0.03, 0.03))
    radius = RADII[scene.values["size"]] * rng.uniform(0.93, 1.07)
    distance, angle = polar(x, y, centre)
    kind = scene.values["kind"]
    if kind == "Infarct":
        return [(_wedge(x, y, centre, radius), "infarct")]
    if kind == "Cyst":
        return [(edge(radius + 0.02 - distance), "grey matter"), (edge(radius - distance), "fluid")]
    outline = distance / lobulated(rng, angle, 0.13 if kind == "Solid tumour" else 0.05)
    if kind == "Abscess":
        core = radius - max(0.3 * radius, 0.03)
        swelling = edge(1.3 * radius + 0.02 - outline, 0.04) * 0.9
        return [(swelling, "oedema"), (edge(radius - outline), "capsule"), (edge(core - outline), "pus")]
    patches, within = smooth_noise(rng, x.shape[0], 34), edge(0.9 * radius - outline)
    return [
        (edge(radius - outline), "tumour"),
        (within * edge(patches - 0.85, 0.15), "necrosis"),
        (within * edge(-patches - 1.1, 0.15), "blood"),
    ]


def _wedge(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Coverage of a vessel territory: a triangle with its tip towards the middle of the brain."""
    length = math.hypot(*centre)
    dx, dy = centre[0] / length, centre[1] / length
    along = (x - centre[0]) * dx + (y - centre[1]) * dy
    across = np.abs((y - centre[1]) * dx - (x - centre[0]) * dy)
    tip = along + 1.15 * radius  # 0 at the tip, 2.1 radii at the cortex
    return edge(np.minimum(0.62 * tip - across, 2.1 * radius - tip))


def _acquire(rng: np.random.Generator, magnitude: np.ndarray, deviation: float) -> np.ndarray:
    """The scanner's picture: a band of k-space with complex noise, and the magnitude of its inverse.

    Cutting the band off gives the ringing at sharp edges, the magnitude gives Rician noise.
    """
    size = magnitude.shape[0]
    frequencies = fft.fft2(magnitude.astype(np.complex64))
    lines = np.minimum(np.arange(size), size - np.arange(size))
    keep_read, keep_phase = lines <= 0.46 * size, lines <= rng.uniform(0.36, 0.44) * size
    drawn = rng.standard_normal((size, size, 2), dtype=np.float32) * (deviation * size)
    frequencies = (frequencies + drawn.view(np.complex64)[..., 0]) * np.outer(keep_phase, keep_read)
    return np.asarray(np.abs(fft.ifft2(frequencies)))


def render(scene: Scene, size: int) -> np.ndarray:
    """An axial slice of the brain, uint8 [size, size]."""
    rng, lesion, noise = streams(scene.nuisance_seed)
    sequence = scene.values["sequence"]
    tones = {tissue: signal(tissue, sequence) for tissue in TISSUES}
    shift = (rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04))
    x, y = pose(size, shift=shift, turn=rng.uniform(-0.08, 0.08), zoom=rng.uniform(0.95, 1.02))
    image = _head(rng, x, y, tones)
    width = VENTRICLE_WIDTHS[scene.values["ventricles"]] * rng.uniform(0.92, 1.08)
    _deep(rng, x, y, image, width, tones)
    image *= 1.0 + 0.035 * smooth_noise(rng, size, 40)
    brain = ellipse(x, y, (0.0, 0.0), HALF_AXES)
    for coverage, tissue in _lesion(lesion, x, y, scene):
        paint(image, coverage * brain, tones[tissue])
    image *= 1.0 + 0.08 * smooth_noise(noise, size, 2)  # uneven sensitivity of the coil
    gain = DISPLAY_GAIN[sequence] * noise.uniform(0.93, 1.07)
    return to_grey(_acquire(noise, image, noise.uniform(0.006, 0.012)) * gain)


IMAGING = Imaging(Modality.MRI, "MR (Mag-netic Resonance Imaging)", ATTRIBUTES, render)
