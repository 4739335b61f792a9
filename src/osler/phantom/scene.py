"""What a phantom image shows, drawn before any pixel: the closed answer sets, and the scene.

A modality is described by its attributes. Each attribute has a closed set of at least four values,
each scene draws every attribute uniformly and independently, and a question about an attribute takes
all its choices from that set. Nothing in the text can therefore tell the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from osler.records import Modality, QuestionType


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be asked about an image.

    >>> Attribute("sequence", QuestionType.MODALITY_RECOGNITION,
    ...           ("T1-weighted", "T2-weighted", "FLAIR", "T1 with contrast"),
    ...           ("Which MRI sequence is this?",)).values[2]
    'FLAIR'
    """

    name: str
    question_type: QuestionType
    values: tuple[str, ...]  # the closed answer set, at least 4, as shown to the reader
    wordings: tuple[str, ...]  # question stems, each asked about this attribute


@dataclass(frozen=True, slots=True)
class Scene:
    """The truth of one image: the value of every attribute, and a seed for all that is not asked."""

    modality: Modality
    values: Mapping[str, str]
    nuisance_seed: int


Render = Callable[[Scene, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Imaging:
    """One modality: what can be asked, and how a scene becomes pixels.

    `render(scene, size)` returns uint8 [size, size] (grey) or [size, size, 3] (colour), a pure
    function of its arguments.
    """

    modality: Modality
    label: str  # OmniMedVQA's literal `modality_type`
    attributes: tuple[Attribute, ...]
    render: Render


def draw_scene(imaging: Imaging, rng: np.random.Generator) -> Scene:
    """Every attribute uniform over its set and independent of the others."""
    values = {a.name: a.values[int(rng.integers(len(a.values)))] for a in imaging.attributes}
    return Scene(imaging.modality, values, int(rng.integers(2**31)))
