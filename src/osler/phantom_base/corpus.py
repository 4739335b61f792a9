"""The tokenizer's corpus: our own text, written here or drawn by the curriculum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from osler.phantom.questions import IMAGINGS
from osler.phantom_base.curriculum import invented_phrase, read_example, recite_example
from osler.prompts import TEMPLATES
from osler.records import Question

_EXAMPLES = 4000
_NO_STEM = "\0"
_SENTENCES = (
    "The image shows a normal organ without any sign of disease.",
    "Which abnormality is present in this image? Is there a lesion, a tumour or an infection?",
    "What imaging technique was used to obtain this picture? Computed tomography, magnetic resonance "
    "imaging, ultrasound, X-ray, dermoscopy, fundus photography, optical coherence tomography or "
    "light microscopy.",
    "What part of the body is visible? The head, neck, chest, abdomen, pelvis, spine, shoulder, "
    "hand, knee, foot, brain, heart, lung, liver, kidney, breast, skin, eye and retina.",
    "A benign condition is harmless; a malignant condition is cancer, such as carcinoma, melanoma or "
    "lymphoma.",
    "Diabetic retinopathy, glaucoma, cataract, macular degeneration and macular oedema are diseases "
    "of the eye.",
    "Pneumonia, tuberculosis, pleural effusion, fracture, haemorrhage, inflammation, stenosis and "
    "thrombosis.",
    "Red blood cells, white blood cells and platelets; the nucleus of a cell; a stained section of tissue.",
    "Yes, an abnormality is seen. No, nothing abnormal is detected. I am not sure.",
    "The left side, the right side, upper and lower, anterior and posterior, frontal and lateral, "
    "axial and sagittal.",
    "Mild, moderate or severe; early or late stage; acute or chronic; grade one, two, three or four.",
    "What is the most likely diagnosis of the patient? Which condition or structure is indicated here?",
)


def corpus() -> Iterator[str]:
    """Sentences, phantom's wordings and values, every template's instruction, and drawn examples."""
    yield from _SENTENCES * 20
    # The stem's place stays, empty: a question without a stem would be written without it.
    question = Question(id="", text=_NO_STEM, choices=("", ""), answer_index=0)
    for template in TEMPLATES.values():
        yield from [template.user_text(question).replace(_NO_STEM, "")] * 60
    yield from ["Describe the image.", *(f"Maybe ({letter})." for letter in "ABCDE")] * 60
    for imaging in IMAGINGS.values():
        for attribute in imaging.attributes:
            # A value stands at the start of a line and after a space: each way is a token of its own.
            yield from attribute.wordings * 60
            for value in attribute.values:
                yield from [value, f" {value}; {value}", f"Shows {value} (B)."] * 60
    rng = np.random.default_rng(0)
    for index in range(_EXAMPLES):
        example = (read_example if index % 2 else recite_example)(rng, "")
        yield example.template.user_text(example.question)
        yield invented_phrase(rng)
