"""Abdominal CT: attenuation in Hounsfield units, contrast phases, quantum noise, the abdominal window."""

from __future__ import annotations

import numpy as np

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


def render(scene: Scene, size: int) -> np.ndarray:
    raise NotImplementedError


IMAGING = Imaging(Modality.CT, "CT(Computed Tomography)", ATTRIBUTES, render)
