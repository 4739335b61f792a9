"""Ultrasound: speckle of random scatterers, depth attenuation, shadow and enhancement, Doppler, stiffness."""

from __future__ import annotations

import numpy as np

from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "mode",
        QuestionType.MODALITY_RECOGNITION,
        ("B-mode", "colour Doppler", "power Doppler", "elastography"),
        ("Which ultrasound mode is shown?", "How was this ultrasound recorded?"),
    ),
    Attribute(
        "organ",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("liver", "kidney", "thyroid", "breast"),
        ("Which organ does this ultrasound show?", "What organ is being examined?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("cyst", "stone", "solid mass", "bright nodule"),
        ("What is the lesion on this ultrasound?", "Which diagnosis fits this ultrasound?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("tiny", "small", "medium", "large"),
        ("How large is the lesion on this ultrasound?", "What is the size grade of the ultrasound lesion?"),
    ),
    Attribute(
        "place",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("shallow left", "shallow right", "deep left", "deep right"),
        ("Where in the ultrasound picture is the lesion?", "How deep and on which side is the lesion?"),
    ),
)


def render(scene: Scene, size: int) -> np.ndarray:
    raise NotImplementedError


IMAGING = Imaging(Modality.ULTRASOUND, "ultrasound", ATTRIBUTES, render)
