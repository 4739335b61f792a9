"""Dermoscopy: a pigmented lesion on skin, from what melanin and haemoglobin absorb."""

from __future__ import annotations

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
    window,
)
from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Polarised dermoscopy", "Gel immersion", "Dry unpolarised", "Clinical photograph"),
        ("How was this skin image taken?", "Which skin imaging technique is this?"),
    ),
    Attribute(
        "site",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Face", "Trunk", "Sole", "Lip"),
        ("Which body site does the skin belong to?", "Where on the body is this skin?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Melanocytic naevus", "Melanoma", "Seborrhoeic keratosis", "Haemangioma"),
        ("What is the diagnosis of this skin lesion?", "Which lesion does the image show?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("What size is the skin lesion?",),
    ),
    Attribute(
        "hairs",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("None", "One", "Three", "Eight"),
        ("How many hairs cross the image?",),
    ),
)

# Absorption of red, green and blue light: melanin rises steadily to blue, haemoglobin peaks in green.
MELANIN = (0.38, 0.72, 1.05)
HAEMOGLOBIN = (0.16, 1.0, 0.78)
_LIGHT = (0.98, 0.93, 0.88)
_BLUE_WHITE = (0.50, 0.58, 0.74)  # dermal melanin under a thick epidermis: short waves scatter back
_KERATIN = (1.0, 0.96, 0.84)

_RADIUS = {"Tiny": 0.24, "Small": 0.40, "Medium": 0.58, "Large": 0.80}
_HAIRS = {"None": 0, "One": 1, "Three": 3, "Eight": 8}
# How uneven the outline is, and how softly it ends.
_OUTLINE = {
    "Melanocytic naevus": (0.05, 0.16),
    "Melanoma": (0.15, 0.09),
    "Seborrhoeic keratosis": (0.08, 0.035),
    "Haemangioma": (0.06, 0.06),
}


def render(scene: Scene, size: int) -> np.ndarray:
    """A skin scene as uint8 [size, size, 3].

    Melanin and haemoglobin amounts are laid down for skin, then lesion; light is absorbed by both;
    what scatters (keratin, the blue-white veil) and what lies above the skin (hair, gel, glare, the
    contact plate, a ruler) follows. Hairs may be loose ones, so they cross soles and lips too.
    """
    skin, place, lesion, hair, front, sensor = streams(scene.nuisance_seed, 6)
    values = scene.values
    melanin, blood, pale = _skin(skin, size, values["site"])
    radius = _RADIUS[values["size"]] * place.uniform(0.95, 1.05)
    centre = place.uniform(-1, 1, 2) * max(0.0, min(0.3, 0.84 - radius))
    share = _lesion_share(lesion, size, centre, radius, values["disease"])
    melanin, blood, veil, keratin = _lesion(
        lesion, size, centre, radius, share, melanin, blood, values["disease"]
    )
    tone = np.asarray(_LIGHT) * place.uniform(0.93, 1.05) * place.uniform(0.98, 1.02, 3)
    image = absorb(tone, (melanin, MELANIN), (blood, HAEMOGLOBIN))
    image = blend(image, _KERATIN, 0.72 * pale * (1 - 0.75 * share))
    image = blend(image, _BLUE_WHITE, veil)
    image = blend(image, _KERATIN, keratin)
    strands = _hairs(hair, size, _HAIRS[values["hairs"]])
    image = blend(image, (0.07, 0.045, 0.035), 0.93 * strands)
    image = _take(front, image, values["technique"])
    return to_bytes(sensor_noise(sensor, image, 0.012))


def _hexagons(rng: np.random.Generator, size: int, spacing: float) -> np.ndarray:
    """A slightly warped hexagonal wave: 3 at the cell centres, below -1 on the walls between them."""
    y, x = plane(size)
    bend = 0.20 * spacing
    warped_y = y + bend * value_noise(rng, size, 7)
    warped_x = x + bend * value_noise(rng, size, 7)
    turn = rng.uniform(0, np.pi)
    wave = 2 * np.pi / (spacing * np.sqrt(3) / 2)
    total = np.zeros((size, size), dtype=np.float32)
    for angle in turn + np.arange(3) * np.pi / 3:
        total += np.cos(
            np.float32(wave * np.cos(angle)) * warped_x + np.float32(wave * np.sin(angle)) * warped_y
        )
    return total


def _skin(rng: np.random.Generator, size: int, site: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Melanin, blood and pale (keratin) share of healthy skin at one body site."""
    y, x = plane(size)
    patchy = value_noise(rng, size, 5)
    melanin: np.ndarray = rng.uniform(0.10, 0.30) + 0.02 * patchy
    blood = rng.uniform(0.10, 0.22) + 0.03 * value_noise(rng, size, 6)
    pale: np.ndarray = np.zeros((size, size), dtype=np.float32)
    if site == "Face":
        # Follicle openings: a pale plug inside a ring of pigment.
        cells = _hexagons(rng, size, rng.uniform(0.26, 0.31))
        pale = np.clip((cells - 1.5) * 1.2, 0, 1)
        melanin = melanin + 0.60 * np.clip(1 - np.abs(cells - 0.9) / 0.9, 0, 1)
        blood = blood + 0.10
    elif site == "Sole":
        # Friction ridges run parallel, ridge pale and furrow pigmented.
        turn = rng.uniform(0, np.pi)
        along = np.cos(turn) * x + np.sin(turn) * y + 0.10 * value_noise(rng, size, 4)
        ridge = np.sin(along * np.float32(2 * np.pi / rng.uniform(0.22, 0.27)) + rng.uniform(0, 6))
        melanin = melanin + 0.38 * np.clip(-ridge * 1.6, 0, 1)
        pale = 0.75 * np.clip(ridge, 0, 1)
    elif site == "Lip":
        # Thin epithelium over blood, with upright grooves.
        across = x + 0.06 * value_noise(rng, size, 4) + rng.uniform(-0.2, 0.2) * y
        groove = np.cos(across * np.float32(2 * np.pi / rng.uniform(0.34, 0.42)) + rng.uniform(0, 6))
        blood = blood + 0.55 + 0.30 * np.clip(groove - 0.3, 0, 1)
        melanin = melanin * 0.5
        pale = 0.25 * np.clip(-groove - 0.5, 0, 1)
    else:
        lines = _hexagons(rng, size, rng.uniform(0.10, 0.13))
        melanin = melanin + 0.035 * np.clip(-lines, 0, 1.5)
    return melanin, blood, pale


def _lesion_share(
    rng: np.random.Generator, size: int, centre: np.ndarray, radius: float, disease: str
) -> np.ndarray:
    y, x = plane(size)
    from_y, from_x = y - np.float32(centre[0]), x - np.float32(centre[1])
    angle = np.arctan2(from_y, from_x)
    uneven, softness = _OUTLINE[disease]
    outline = np.ones_like(angle)
    for wave in range(2, 7):
        outline += np.float32(uneven * rng.normal() / np.sqrt(wave)) * np.cos(
            wave * angle + rng.uniform(0, 6.3)
        )
    outline = np.clip(outline, 0.65, 1.35).astype(np.float32)
    outline /= np.sqrt(np.mean(np.square(outline)))  # whatever the shape, the area is that of the radius
    distance = np.sqrt(from_y**2 + from_x**2) - radius * np.minimum(outline, 1.2)
    return cover(distance, max(softness * radius, 3 / size))


def _lesion(
    rng: np.random.Generator,
    size: int,
    centre: np.ndarray,
    radius: float,
    share: np.ndarray,
    melanin: np.ndarray,
    blood: np.ndarray,
    disease: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Melanin, blood, blue-white veil and keratin with the lesion laid over the skin."""
    nothing = np.zeros((size, size), dtype=np.float32)
    y, x = plane(size)
    if disease == "Melanocytic naevus":
        # A regular brown network: pigment along the rete ridges, lighter holes over the papillae.
        walls = np.clip((0.3 - _hexagons(rng, size, 0.135)) / 1.2, 0, 1)
        walls *= np.clip(1 + 0.25 * value_noise(rng, size, 9), 0.5, 1.4)
        depth = np.clip(1 - np.hypot(y - np.float32(centre[0]), x - np.float32(centre[1])) / radius, 0, 1)
        own = 0.45 + 0.45 * depth + 0.85 * walls + 0.10 * value_noise(rng, size, 8)
        return melanin + share * own, blood * (1 - 0.3 * share), nothing, nothing
    if disease == "Melanoma":
        # Black and dark brown in disorder, with one blue-white area off the centre.
        own = (
            2.1 + 0.7 * value_noise(rng, size, max(4, round(3 / radius))) + 0.35 * value_noise(rng, size, 26)
        )
        turn = rng.uniform(0, 2 * np.pi)
        away_y, away_x = centre + 0.34 * radius * np.array([np.sin(turn), np.cos(turn)])
        distance = np.hypot(y - np.float32(away_y), x - np.float32(away_x)) - 0.46 * radius
        distance = distance + 0.08 * radius * value_noise(rng, size, 12)
        cloud = np.clip(0.80 + 0.10 * value_noise(rng, size, 16), 0.5, 0.95)
        veil = cloud * share * cover(distance, 0.3 * radius)
        return melanin * (1 - share) + share * np.clip(own, 1.0, 3.8), blood * (1 - share), veil, nothing
    if disease == "Seborrhoeic keratosis":
        # Waxy yellow-brown, with round white cysts and dark plugs of keratin.
        own = 0.78 + 0.08 * value_noise(rng, size, 10)
        cysts, plugs = _cysts_and_plugs(rng, size, centre, radius)
        rim = np.clip(share * (1 - share) * 4, 0, 1)
        amount = melanin * (1 - share) + share * (own + 2.2 * plugs) + 0.5 * rim
        return amount, blood * (1 - 0.6 * share), nothing, 0.95 * share * cysts
    # Haemangioma: blood-filled lacunae, red to purple, apart by pale septa.
    lacunae = np.clip(_hexagons(rng, size, rng.uniform(0.26, 0.30)) + 1.1, 0, 1.6) / 1.6
    own = 0.45 + (2.0 + 0.3 * value_noise(rng, size, 6)) * lacunae
    septa = 0.30 * share * (1 - lacunae)
    return melanin * (1 - share) + share * 0.32 * lacunae, blood * (1 - share) + share * own, nothing, septa


def _cysts_and_plugs(
    rng: np.random.Generator, size: int, centre: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    cysts = np.zeros((size, size), dtype=np.float32)
    plugs = np.zeros((size, size), dtype=np.float32)
    number = max(8, round(70 * radius**2))
    for k, (y, x) in enumerate(centre + sunflower(rng, number, 0.9 * radius, 0.012)):
        if k % 5 < 3:
            add_blob(cysts, y, x, rng.uniform(0.035, 0.055), 0.03)
        else:
            add_blob(plugs, y, x, rng.uniform(0.035, 0.06), 0.03)
    return cysts, plugs


def _hairs(rng: np.random.Generator, size: int, number: int) -> np.ndarray:
    """Dark strands across the whole image, side by side so that they can be counted."""
    turn = rng.uniform(0, np.pi)
    along = np.array([np.sin(turn), np.cos(turn)])
    across = np.array([along[1], -along[0]])
    lines = []
    steps = np.linspace(-1.5, 1.5, 13)
    for k in range(number):
        offset = (k + 0.5 - number / 2) * (1.7 / max(number, 3)) + rng.uniform(-0.06, 0.06)
        bow, slant = rng.uniform(-0.12, 0.12), rng.uniform(-0.10, 0.10)
        sideways = offset + bow * (steps**2 - 0.5) + slant * steps
        lines.append(
            (steps[:, None] * along + sideways[:, None] * across, np.full(13, rng.uniform(0.028, 0.038)))
        )
    return strokes(size, lines)


def _take(rng: np.random.Generator, image: np.ndarray, technique: str) -> np.ndarray:
    """What the camera and the medium in front of the skin add."""
    size = len(image)
    y, x = plane(size)
    from_centre = np.sqrt(y**2 + x**2)
    if technique == "Polarised dermoscopy":
        aperture = cover(from_centre - rng.uniform(0.96, 1.0), 0.05)
        return image * (0.06 + aperture[..., None]) * np.asarray((1.03, 0.98, 0.95), dtype=np.float32)
    if technique == "Gel immersion":
        return _bubbles(rng, image)
    if technique == "Dry unpolarised":
        return _glare(rng, image)
    fall_off = 1 - 0.16 * (np.cos(rng.uniform(0, 6.3)) * x + np.sin(rng.uniform(0, 6.3)) * y)
    return _ruler(rng, image * fall_off[..., None])


def _bubbles(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Air in the gel: each bubble has a dark rim from total reflection and a bright spot."""
    size = len(image)
    dark = np.zeros((size, size), dtype=np.float32)
    bright = np.zeros((size, size), dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    number = int(rng.integers(9, 13))
    for k in range(number):
        angle = turn + 2 * np.pi * k / number + rng.normal(0, 0.12)
        out = rng.uniform(0.70, 1.05)
        radius = rng.uniform(0.08, 0.17)
        centre_y, centre_x = out * np.sin(angle), out * np.cos(angle)
        spot = window(size, centre_y, centre_x, radius * 1.4)
        ring = np.abs(spot.radius - radius)
        np.maximum(dark[spot.area], cover(ring - 0.022, 0.03), out=dark[spot.area])
        inside = 0.35 * cover(spot.radius - 0.85 * radius, 0.05)
        np.maximum(bright[spot.area], inside, out=bright[spot.area])
        add_blob(bright, centre_y - 0.35 * radius, centre_x - 0.35 * radius, 0.32 * radius, 0.03)
    image = blend(image, (0.20, 0.12, 0.10), 0.75 * dark)
    return blend(image, (1.0, 1.0, 0.98), bright)


def _glare(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light thrown back by the dry horny layer: a haze, and glints with the ring of lamps in them."""
    size = len(image)
    y, x = plane(size)
    image = 0.86 * image + 0.12
    shine = np.zeros((size, size), dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    for k in range(3):
        angle = turn + k * 2 * np.pi / 3 + rng.normal(0, 0.15)
        out, width = rng.uniform(0.62, 0.80), rng.uniform(0.17, 0.24)
        distance = np.hypot(y - np.float32(out * np.sin(angle)), (x - np.float32(out * np.cos(angle))) * 0.8)
        shine += np.exp(-((distance / width) ** 2))
    texture = np.clip(0.75 + 0.6 * value_noise(rng, size, 30), 0, 2)
    return blend(image, (1, 1, 1), np.clip(1.15 * shine * texture, 0, 1))


def _ruler(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A paper scale along one edge, ticks every millimetre, long ones every fifth."""
    size = len(image)
    y, x = plane(size)
    depth = np.broadcast_to(1 - y, (size, size))  # distance from the edge that carries the ruler
    phase = np.broadcast_to(x, (size, size)) / np.float32(0.11) + np.float32(rng.uniform(0, 5))
    nearest = np.round(phase)
    long = np.where(nearest % 5 == 0, 0.24, 0.13).astype(np.float32)
    tick = cover((np.abs(phase - nearest) * 0.11 - 0.016), 2 / size) * (depth < long)
    paper = cover(depth - 0.30, 0.02)
    edge = int(rng.integers(4))
    paper, tick = np.rot90(paper, edge), np.rot90(tick, edge)
    image = blend(image, (0.93, 0.95, 0.97), paper)
    return blend(image, (0.05, 0.05, 0.08), tick)


IMAGING = Imaging(Modality.DERMOSCOPY, "Dermoscopy", ATTRIBUTES, render)
