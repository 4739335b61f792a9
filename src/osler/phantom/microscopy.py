"""Microscopy: white and red cells on a slide, from what stains absorb, emit or delay."""

from __future__ import annotations

from osler.phantom.scene import Attribute
from osler.records import QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Haematoxylin and eosin", "Giemsa stain", "Immunofluorescence", "Phase contrast"),
        ("Which microscopy technique is this?", "How were these cells made visible?"),
    ),
    Attribute(
        "cell",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Neutrophil", "Lymphocyte", "Eosinophil", "Monocyte"),
        ("Which white blood cell is shown?", "What kind of white cell is this?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Malaria", "Sickle cell disease", "Sleeping sickness", "Bacterial infection"),
        ("Which disease does the blood show?", "What is the diagnosis of this smear?"),
    ),
    Attribute(
        "severity",
        QuestionType.LESION_GRADING,
        ("Minimal", "Mild", "Moderate", "Severe"),
        ("How severe is the blood disease?",),
    ),
    Attribute(
        "count",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("One", "Two", "Three", "Four"),
        ("How many white cells are in the field?",),
    ),
)
