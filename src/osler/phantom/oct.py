"""OCT: a cross-section of the retina, from the reflectivity of its layers, speckle and shadow."""

from __future__ import annotations

from osler.phantom.scene import Attribute
from osler.records import QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Time-domain", "Spectral-domain", "Swept-source", "Flow angiography"),
        ("Which kind of OCT scan is this?", "Which OCT technique is this?"),
    ),
    Attribute(
        "layer",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Nerve fibre layer", "Outer nuclear layer", "Pigment epithelium", "Choroid"),
        ("Which layer does the arrow mark?", "At which layer does the arrow point?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Cystoid oedema", "Drusen", "Macular hole", "Subretinal fluid"),
        ("Which abnormality does the scan show?", "What is the diagnosis of this retina?"),
    ),
    Attribute(
        "severity",
        QuestionType.LESION_GRADING,
        ("Minimal", "Mild", "Moderate", "Severe"),
        ("How severe is the macular disease?",),
    ),
    Attribute(
        "course",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Rising", "Falling", "Bowl-shaped", "Dome-shaped"),
        ("How does the retina run from left to right?",),
    ),
)
