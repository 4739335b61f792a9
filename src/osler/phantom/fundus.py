"""Fundus: the disc, the vessel tree and the pigmented background of the retina, seen through the pupil."""

from __future__ import annotations

from osler.phantom.scene import Attribute
from osler.records import QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Colour photograph", "Red-free photograph", "Fluorescein angiogram", "Autofluorescence"),
        ("Which fundus imaging technique is this?", "How was this retina imaged?"),
    ),
    Attribute(
        "region",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Macula", "Superior retina", "Inferior retina", "Nasal retina"),
        ("Which region of the retina is affected?", "Where do the lesions of the retina lie?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Drusen", "Haemorrhages", "Cotton-wool spots", "Laser scars"),
        ("Which abnormality does the retina show?", "What are the lesions of this fundus?"),
    ),
    Attribute(
        "severity",
        QuestionType.LESION_GRADING,
        ("Minimal", "Mild", "Moderate", "Severe"),
        ("How severe is the retinal disease?",),
    ),
    Attribute(
        "vessels",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("Normal", "Narrowed", "Dilated", "Tortuous"),
        ("How do the retinal vessels look?",),
    ),
)
