"""Ultrasound: speckle of random scatterers, depth attenuation, shadow and enhancement, Doppler, stiffness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

from osler.phantom.draw import edge, ellipse, lobulated, paint, polar, smooth_noise, streams
from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "mode",
        QuestionType.MODALITY_RECOGNITION,
        ("B-mode", "Colour Doppler", "Power Doppler", "Elastography"),
        ("Which ultrasound mode is shown?", "How was this ultrasound recorded?"),
    ),
    Attribute(
        "organ",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Liver", "Kidney", "Thyroid", "Breast"),
        ("Which organ does this ultrasound show?", "What organ is being examined?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Cyst", "Stone", "Solid mass", "Bright nodule"),
        ("What is the lesion on this ultrasound?", "Which diagnosis fits this ultrasound?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("How large is the lesion on this ultrasound?", "What is the size grade of the ultrasound lesion?"),
    ),
    Attribute(
        "place",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Shallow left", "Shallow right", "Deep left", "Deep right"),
        ("Where in the ultrasound picture is the lesion?", "How deep and on which side is the lesion?"),
    ),
)


SAMPLES, BEAMS = 192, 128  # along depth, across
CURVED = ("Liver", "Kidney")  # organs seen with a curved probe, the others with a straight one
APEX, FAN = 0.62, 0.60  # curved probe: radius over imaging depth, half-angle in radians
RADII = {"Tiny": 0.065, "Small": 0.10, "Medium": 0.15, "Large": 0.22}  # of the imaging depth
PLACES = {
    "Shallow left": (-0.26, 0.34),
    "Shallow right": (0.26, 0.34),
    "Deep left": (-0.29, 0.68),
    "Deep right": (0.29, 0.68),
}
DYNAMIC_RANGE, BLACK = 42.0, -26.0  # decibels from black to white, and where black is


@dataclass(slots=True)
class Tissue:
    """What the sound meets at every sample of every beam, float32 [SAMPLES, BEAMS].

    `x` and `depth` are in units of the imaging depth; `echo` is the mean backscattered intensity,
    `loss` the attenuation beyond what the time gain compensates, in decibels per imaging depth.
    """

    x: np.ndarray
    depth: np.ndarray
    echo: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True, slots=True)
class Lesion:
    """Where the lesion lies: coverage [SAMPLES, BEAMS], centre (x, depth) and radius in imaging depths."""

    body: np.ndarray
    centre: tuple[float, float]
    radius: float


@lru_cache(maxsize=2)
def _beams(curved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lateral position and depth of every sample, from the top of the picture."""
    along = (np.arange(SAMPLES, dtype=np.float32)[:, None] + 0.5) * (1.0 / SAMPLES)
    across = (np.arange(BEAMS, dtype=np.float32)[None, :] + 0.5) * (2.0 / BEAMS) - 1.0
    if not curved:
        return np.broadcast_to(across * 0.5, (SAMPLES, BEAMS)), np.broadcast_to(along, (SAMPLES, BEAMS))
    angle = across * FAN
    radius = APEX + along * (1.0 - APEX * (1.0 - math.cos(FAN)))
    return radius * np.sin(angle), radius * np.cos(angle) - APEX * math.cos(FAN)


@lru_cache(maxsize=8)
def _scan(curved: bool, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample coordinates [2, size, size] of every pixel and the mask of the insonated field."""
    step = (np.arange(size, dtype=np.float32) + 0.5) * (1.0 / size)
    x, y = np.meshgrid(step * 1.1 - 0.55, step * 1.1 - 0.05)
    if curved:
        down = y + APEX * math.cos(FAN)
        along = (np.hypot(x, down) - APEX) / (1.0 - APEX * (1.0 - math.cos(FAN)))
        across = np.arctan2(x, down) / FAN
    else:
        along, across = y, x / 0.5
    inside = (along > 0.0) & (along < 1.0) & (np.abs(across) < 1.0)
    return np.stack([along * SAMPLES - 0.5, (across + 1.0) * (BEAMS / 2) - 0.5]), inside


def _liver(rng: np.random.Generator, t: Tissue) -> None:
    """Even parenchyma with round and long vessels, over the bright arc of the diaphragm."""
    paint(t.echo, edge(t.depth - 0.07), 0.30)
    for _ in range(8):
        spot = (rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.8))
        axes, turn = (rng.uniform(0.04, 0.12), rng.uniform(0.02, 0.032)), rng.uniform(-1.0, 1.0)
        if rng.uniform() < 0.4:
            paint(t.echo, ellipse(t.x, t.depth, spot, (axes[0] + 0.015, axes[1] + 0.015), turn), 1.2)
        paint(t.echo, ellipse(t.x, t.depth, spot, axes, turn), 0.004)
    bow = t.depth - (0.90 - 0.35 * np.square(t.x - rng.uniform(-0.1, 0.1)))
    paint(t.echo, edge(bow), 0.10)
    paint(t.echo, edge(0.014 - np.abs(bow)), 8.0)


def _kidney(rng: np.random.Generator, t: Tissue) -> None:
    """A bean of dark cortex around the bright fat of the sinus, inside its capsule."""
    paint(t.echo, edge(t.depth - 0.07), 0.30)
    turn = rng.uniform(-0.12, 0.12)
    centre = (rng.uniform(-0.02, 0.02), 0.51)
    paint(t.echo, ellipse(t.x, t.depth, centre, (0.47, 0.285), turn), 2.0)
    paint(t.echo, ellipse(t.x, t.depth, centre, (0.455, 0.27), turn), 0.07)
    for step in np.linspace(0.0, 2 * math.pi, 10, endpoint=False):
        spot = (centre[0] + 0.31 * math.cos(step), centre[1] + 0.175 * math.sin(step))
        paint(t.echo, ellipse(t.x, t.depth, spot, (0.04, 0.035)), 0.018)
    sinus = lobulated(rng, np.arctan2(t.depth - centre[1], t.x - centre[0]), 0.12)
    reach = np.hypot((t.x - centre[0]) / 0.26, (t.depth - centre[1]) / 0.10)
    paint(t.echo, edge((sinus - reach) * 0.1), 2.4)


def _thyroid(rng: np.random.Generator, t: Tissue) -> None:
    """Two bright lobes beside the windpipe, the carotid arteries outside, thin muscles in front."""
    paint(t.echo, edge(t.depth - 0.05), 0.10)
    stripes = 0.09 + 0.10 * np.square(np.cos(70.0 * t.depth + 3.0 * np.abs(t.x)))
    paint(t.echo, edge(t.depth - 0.05) * edge(0.17 - t.depth), stripes)
    side = np.abs(t.x)
    paint(t.echo, edge(0.012 - np.abs(t.depth - 0.17)), 1.6)
    paint(t.echo, ellipse(side, t.depth, (0.22, 0.47), (0.20, 0.30), 0.05), 0.75)
    paint(t.echo, ellipse(t.x, t.depth, (0.0, 0.25), (0.10, 0.05)), 0.75)
    paint(t.echo, ellipse(side, t.depth, (0.455, 0.60), (0.055, 0.085)), 0.9)
    paint(t.echo, ellipse(side, t.depth, (0.455, 0.60), (0.042, 0.07)), 0.003)
    reach, _ = polar(t.x, t.depth, (0.0, 0.48))
    windpipe = edge(0.115 - reach)
    paint(t.echo, edge(0.014 - np.abs(reach - 0.115)) * edge(0.47 - t.depth, 0.05), 9.0)
    paint(t.echo, windpipe * edge(t.depth - 0.39), 0.02)
    t.loss += 110.0 * windpipe * edge(t.depth - 0.37)


def _breast(rng: np.random.Generator, t: Tissue) -> None:
    """Skin, fat lobules between bright septa, glandular tissue, striped muscle and ribs with shadow."""
    bend = 0.02 * np.sin(6.0 * t.x + rng.uniform(0.0, 6.0))
    lobules = np.abs(np.sin(11.0 * t.x + 6.0 * bend) * np.sin(16.0 * (t.depth + bend)))
    paint(t.echo, edge(t.depth - 0.05), 0.05 + 0.9 * np.exp(-9.0 * lobules))
    gland = edge(t.depth + bend - 0.27, 0.03) * edge(0.60 - t.depth - bend, 0.03)
    paint(t.echo, gland, 0.6 + 0.45 * np.cos(40.0 * (t.depth + 2.0 * bend)))
    muscle = edge(t.depth + bend - 0.74) * edge(0.86 - t.depth)
    paint(t.echo, edge(t.depth + bend - 0.61), 0.06)
    paint(t.echo, muscle, 0.05 + 0.5 * np.square(np.cos(75.0 * t.depth + 2.0 * t.x)))
    paint(t.echo, edge(0.010 - np.abs(t.depth + bend - 0.74)), 2.5)
    start = rng.uniform(0.0, 0.12)
    for place in (-0.36, -0.06, 0.24):
        rib = ellipse(t.x, t.depth, (place + start, 0.91), (0.09, 0.035))
        paint(t.echo, rib, 5.0)
        t.loss += 500.0 * rib


_ORGANS = {"Liver": _liver, "Kidney": _kidney, "Thyroid": _thyroid, "Breast": _breast}


def _lesion(rng: np.random.Generator, t: Tissue, scene: Scene) -> Lesion:
    """The lesion laid into the tissue in place."""
    x, depth = PLACES[scene.values["place"]]
    centre = (x + rng.uniform(-0.025, 0.025), depth + rng.uniform(-0.025, 0.025))
    radius = RADII[scene.values["size"]] * rng.uniform(0.94, 1.06)
    reach, angle = polar(t.x, t.depth, centre)
    kind = scene.values["kind"]
    if kind == "Solid mass":
        outline = reach / lobulated(rng, angle, 0.18)
        body = edge(radius - outline)
        paint(t.echo, edge(radius + 0.022 - outline), 1.8)  # the compressed tissue around it
        paint(t.echo, body, 0.008 + 0.012 * np.square(smooth_noise(rng, SAMPLES, 26)[:, :BEAMS]))
        t.loss += body * (4.0 / radius)
        return Lesion(body, centre, radius)
    if kind == "Stone":
        body = edge(radius - reach)
        # Sound stops in the first few wavelengths: a bright cap, nothing behind it.
        paint(t.echo, body, 25.0)
        t.loss += body * (55.0 / radius)
        return Lesion(body, centre, radius)
    body = edge(radius - reach)
    if kind == "Bright nodule":
        paint(t.echo, edge(radius - reach / lobulated(rng, angle, 0.05)), 11.0)
        return Lesion(body, centre, radius)
    paint(t.echo, edge(radius + 0.012 - reach), 1.2)
    paint(t.echo, edge(radius - 0.004 - reach), 0.0002)
    t.loss -= body * (6.0 / radius)  # fluid takes less than the gain expects: brighter behind
    return Lesion(body, centre, radius)


def _envelope(rng: np.random.Generator, t: Tissue, curved: bool) -> np.ndarray:
    """Log-compressed envelope of the echo of many random scatterers, 0 .. 1, [SAMPLES, BEAMS].

    The echo is a complex Gaussian field filtered by the point spread function, so its envelope is Rayleigh
    distributed: speckle. The beam is wider than the pulse is long.
    """
    field = rng.standard_normal((SAMPLES, BEAMS, 2), dtype=np.float32).view(np.complex64)[..., 0]
    rows = np.fft.fftfreq(SAMPLES).astype(np.float32)[:, None]
    columns = np.fft.fftfreq(BEAMS).astype(np.float32)[None, :]
    spread = np.exp(-np.square(rows * 4.8) - np.square(columns * (5.5 if curved else 6.5)))
    field = fft.ifft2(fft.fft2(field * np.sqrt(t.echo)) * spread)
    intensity = np.square(field.real) + np.square(field.imag)
    intensity *= 1.0 / float(np.mean(np.square(spread)))
    decibels = 10.0 * np.log10(intensity + 1e-6) - np.cumsum(t.loss, axis=0) * (1.0 / SAMPLES)
    return np.asarray(np.clip((decibels - BLACK) * (1.0 / DYNAMIC_RANGE), 0.0, 1.0))


def _flow(rng: np.random.Generator, t: Tissue, centre: tuple[float, float], spare: np.ndarray) -> np.ndarray:
    """Velocity towards the probe, -1 .. 1, in a few vessels around `centre` that leave `spare` free."""
    velocity = np.zeros_like(t.echo)
    for index in range(5):
        turn = rng.uniform(0.0, 2 * math.pi)
        start = (centre[0] + rng.uniform(-0.3, 0.3), centre[1] + rng.uniform(-0.24, 0.24))
        dx, dy = t.x - start[0], t.depth - start[1]
        along = dx * math.cos(turn) + dy * math.sin(turn)
        across = dy * math.cos(turn) - dx * math.sin(turn)
        across = across + rng.uniform(-1.6, 1.6) * np.square(along)
        wide = rng.uniform(0.013, 0.024)
        tube = edge(wide - np.abs(across)) * edge(rng.uniform(0.07, 0.17) - np.abs(along), 0.02)
        speed = (1.0 if index % 2 else -1.0) * (1.0 - np.square(across / (1.6 * wide)))
        velocity = np.where(tube > 0.5, np.clip(speed, -1.0, 1.0), velocity)
    return velocity * ~spare


def _box(centre: tuple[float, float], half: tuple[float, float]) -> tuple[float, float]:
    """Centre of the colour box: on the lesion, but inside the field of view."""
    x = min(max(centre[0], half[0] - 0.42), 0.42 - half[0])
    depth = min(max(centre[1], 0.08 + half[1]), 0.96 - half[1])
    return x, depth


def _colour(
    rng: np.random.Generator,
    t: Tissue,
    mode: str,
    grey: np.ndarray,
    lesion: Lesion,
) -> np.ndarray:
    """Overlay as RGBA [SAMPLES, BEAMS, 4], 0 .. 1; where no sound comes back no flow is measured."""
    overlay = np.zeros((SAMPLES, BEAMS, 4), dtype=np.float32)
    half = (0.40, 0.40) if mode == "Elastography" else (0.34, 0.30)
    x, depth = _box(lesion.centre, half)
    box = np.minimum(half[0] - np.abs(t.x - x), half[1] - np.abs(t.depth - depth))
    if mode == "Elastography":
        strain = (
            0.5
            + 0.13 * smooth_noise(rng, SAMPLES, 7)[:, :BEAMS]
            + 0.35 * lesion.body * rng.choice((-1.0, 1.0))
        )
        overlay[..., :3] = _rainbow(np.clip(strain, 0.0, 1.0))
        overlay[..., 3] = 0.62 * (box > 0.0)
    else:
        spare = np.hypot(t.x - lesion.centre[0], t.depth - lesion.centre[1]) < lesion.radius + 0.05
        velocity = _flow(rng, t, (x, depth), spare | (grey < 0.1))
        fast = np.abs(velocity)
        if mode == "Power Doppler":
            overlay[..., 0], overlay[..., 1] = 0.85 + 0.15 * fast, 0.30 + 0.55 * fast
        else:
            overlay[..., 0] = np.where(velocity > 0.0, 0.65 + 0.35 * fast, 0.05)
            overlay[..., 1] = 0.45 * np.square(fast)
            overlay[..., 2] = np.where(velocity < 0.0, 0.75 + 0.25 * fast, 0.05)
        overlay[..., 3] = (fast > 0.05) & (box > 0.0)
    frame = np.abs(box) < 0.006
    overlay[frame] = (1.0, 1.0, 1.0, 0.8)
    return overlay


def _rainbow(level: np.ndarray) -> np.ndarray:
    """Blue (0) through green to red (1), [..., 3]."""
    return np.clip(
        1.5 - np.abs(4.0 * level[..., None] - np.array([3.0, 2.0, 1.0], dtype=np.float32)), 0.0, 1.0
    )


def _legend(picture: np.ndarray, mode: str) -> None:
    """The scale at the left edge: grey wedge, velocity, power or stiffness, in place."""
    size = picture.shape[0]
    level = np.linspace(1.0, 0.0, int(0.36 * size), dtype=np.float32)
    if mode == "Colour Doppler":
        wedge = np.stack(
            [np.clip(2 * level - 1, 0, 1), np.square(2 * level - 1) * 0.45, np.clip(1 - 2 * level, 0, 1)], -1
        )
    elif mode == "Power Doppler":
        wedge = np.stack([level, 0.85 * np.square(level), 0.0 * level], -1)
    elif mode == "Elastography":
        wedge = _rainbow(level)
    else:
        wedge = np.repeat(level[:, None], 3, axis=1)
    top, left, wide = int(0.04 * size), int(0.02 * size), max(int(0.035 * size), 2)
    picture[top : top + len(level), left : left + wide] = wedge[:, None, :]


def render(scene: Scene, size: int) -> np.ndarray:
    """An ultrasound picture, uint8 [size, size, 3]."""
    rng, within, noise, flow = streams(scene.nuisance_seed, 4)
    organ, mode = scene.values["organ"], scene.values["mode"]
    curved = organ in CURVED
    x, depth = _beams(curved)
    t = Tissue(x, depth, np.full((SAMPLES, BEAMS), 0.35, np.float32), np.zeros((SAMPLES, BEAMS), np.float32))
    paint(t.echo, edge(t.depth - 0.02) * edge(0.05 - t.depth), 1.5)
    _ORGANS[organ](rng, t)
    lesion = _lesion(within, t, scene)
    t.echo *= np.exp(0.22 * smooth_noise(noise, SAMPLES, 12)[:, :BEAMS])
    grey = _envelope(noise, t, curved) * noise.uniform(0.92, 1.04)
    at, inside = _scan(curved, size)
    shown = ndimage.map_coordinates(grey, at, order=1, mode="nearest") * inside
    picture = np.repeat(shown[..., None], 3, axis=2)
    if mode != "B-mode":
        overlay = _colour(flow, t, mode, grey, lesion)
        nearest = np.clip(np.rint(at), 0, [[[SAMPLES - 1]], [[BEAMS - 1]]]).astype(np.intp)
        laid = overlay[nearest[0], nearest[1]] * inside[..., None]
        # Stiffness is a tint that lets the grey picture through, flow replaces it.
        tint = laid[..., :3] * (1.5 * picture) if mode == "Elastography" else laid[..., :3]
        picture += laid[..., 3:] * (tint - picture)
    _legend(picture, mode)
    return np.asarray(np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


IMAGING = Imaging(Modality.ULTRASOUND, "ultrasound", ATTRIBUTES, render)
