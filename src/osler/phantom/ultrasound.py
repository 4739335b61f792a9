"""Ultrasound: speckle of random scatterers, depth attenuation, shadow and enhancement, Doppler, stiffness."""

from __future__ import annotations

import numpy as np

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


def render(scene: Scene, size: int) -> np.ndarray:
    raise NotImplementedError


IMAGING = Imaging(Modality.ULTRASOUND, "ultrasound", ATTRIBUTES, render)
