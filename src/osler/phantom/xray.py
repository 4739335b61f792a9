"""Chest radiograph: attenuation of 3-D ellipsoids integrated along rays, Beer-Lambert, photon noise."""

from __future__ import annotations

import numpy as np

from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "view",
        QuestionType.MODALITY_RECOGNITION,
        ("frontal", "lateral", "left oblique", "right oblique"),
        ("Which view is this chest X-ray?", "From which direction was this X-ray taken?"),
    ),
    Attribute(
        "zone",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("lung apex", "upper zone", "middle zone", "lung base"),
        ("Which part of the lung is affected?", "Where is the finding on this chest X-ray?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("solid mass", "cavity", "consolidation", "bulla"),
        ("What is the finding on this chest X-ray?", "Which diagnosis fits this chest X-ray?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("tiny", "small", "medium", "large"),
        ("How large is the finding on this X-ray?", "What is the size grade of the lung finding?"),
    ),
    Attribute(
        "heart",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("narrow", "normal", "enlarged", "massive"),
        ("How wide is the heart?", "What does the heart shadow look like?"),
    ),
)


def render(scene: Scene, size: int) -> np.ndarray:
    raise NotImplementedError


IMAGING = Imaging(Modality.XRAY, "X-Ray", ATTRIBUTES, render)
