"""Dermoscopy: a pigmented lesion on skin, from what melanin and haemoglobin absorb."""

from __future__ import annotations

from osler.phantom.scene import Attribute
from osler.records import QuestionType

ATTRIBUTES = (
    Attribute(
        "technique",
        QuestionType.MODALITY_RECOGNITION,
        ("Polarised dermoscopy", "Gel immersion", "Dry unpolarised", "Clinical photograph"),
        ("How was this skin image taken?", "Which skin imaging technique is this?"),
    ),
    Attribute(
        "site",
        QuestionType.ANATOMY_IDENTIFICATION,
        ("Face", "Trunk", "Sole", "Lip"),
        ("Which body site does the skin belong to?", "Where on the body is this skin?"),
    ),
    Attribute(
        "disease",
        QuestionType.DISEASE_DIAGNOSIS,
        ("Melanocytic naevus", "Melanoma", "Seborrhoeic keratosis", "Haemangioma"),
        ("What is the diagnosis of this skin lesion?", "Which lesion does the image show?"),
    ),
    Attribute(
        "size",
        QuestionType.LESION_GRADING,
        ("Tiny", "Small", "Medium", "Large"),
        ("How large is the skin lesion?",),
    ),
    Attribute(
        "hairs",
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        ("None", "One", "Three", "Eight"),
        ("How many hairs cross the image?",),
    ),
)
