"""Chest radiograph: attenuation of 3-D ellipsoids integrated along rays, Beer-Lambert, photon noise."""

from __future__ import annotations

import numpy as np

from osler.phantom.scene import Attribute, Imaging, Scene
from osler.records import Modality, QuestionType

ATTRIBUTES = (
    Attribute(
        "view",
        QuestionType.MODALITY_RECOGNITION,
        ("Frontal", "Lateral", "Left oblique", "Right oblique"),
        ("Which view is this chest X-ray?", "From which direction was this X-ray taken?"),
    ),
    Attribute(
        "zone",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Lung apex", "Upper zone", "Middle zone", "Lung base"),
        ("Which part of the lung is affected?", "Where is the finding on this chest X-ray?"),
    ),
    Attribute(
        "kind",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Solid mass", "Cavity", "Consolidation", "Bulla"),
        ("What is the finding on this chest X-ray?", "Which diagnosis fits this chest X-ray?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("How large is the finding on this X-ray?", "What is the size grade of the lung finding?"),
    ),
    Attribute(
        "heart",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Narrow", "Normal", "Enlarged", "Massive"),
        ("How wide is the heart?", "What does the heart shadow look like?"),
    ),
)


def render(scene: Scene, size: int) -> np.ndarray:
    raise NotImplementedError


IMAGING = Imaging(Modality.XRAY, "X-Ray", ATTRIBUTES, render)
