"""Axial brain MRI: relaxation times, signal equations of each sequence, complex noise in k-space."""

from __future__ import annotations

import numpy as np

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


def render(scene: Scene, size: int) -> np.ndarray:
    raise NotImplementedError


IMAGING = Imaging(Modality.MRI, "MR (Mag-netic Resonance Imaging)", ATTRIBUTES, render)
