"""Which questions a phantom image is asked: drawn from the scene, before any pixel.

The gold answer is uniform over the attribute's closed set, the three distractors are drawn uniformly and
without replacement from the same set, and the order is shuffled. Wording, choices and order are therefore
independent of the gold answer: a reader of the text alone can only guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum
from types import MappingProxyType

import numpy as np

from osler.errors import BadInput
from osler.phantom import ct, dermoscopy, fundus, microscopy, mri, oct, ultrasound, xray
from osler.phantom.scene import Attribute, Imaging, Scene, draw_scene
from osler.records import Modality, Question, QuestionType

NUM_CHOICES = 4
QUESTIONS_PER_IMAGE = 2
PARTS = ("train", "validation", "test")

IMAGINGS: Mapping[Modality, Imaging] = MappingProxyType(
    {
        module.IMAGING.modality: module.IMAGING
        for module in (ct, mri, xray, ultrasound, dermoscopy, fundus, oct, microscopy)
    }
)

DATASETS: Mapping[Modality, str] = MappingProxyType(
    {
        Modality.CT: "Phantom CT",
        Modality.MRI: "Phantom MRI",
        Modality.XRAY: "Phantom X-Ray",
        Modality.ULTRASOUND: "Phantom Ultrasound",
        Modality.DERMOSCOPY: "Phantom Dermoscopy",
        Modality.FUNDUS: "Phantom Fundus",
        Modality.OCT: "Phantom OCT",
        Modality.MICROSCOPY: "Phantom Microscopy",
    }
)


class Domain(IntEnum):
    """Who the images are for. Seeds of one domain cannot reach the scenes of the other."""

    EXPERIMENT = 0  # what `osler phantom --seed` writes
    BASE = 1  # what the tiny base model is built from


def stream(
    modality: Modality, purpose: str, seed: int, domain: Domain = Domain.EXPERIMENT
) -> np.random.Generator:
    """The random stream for one purpose (a part's name, or what is planted) in one modality.

    The four keys are hashed as one text, so streams of different keys share nothing: no seed of one domain
    stands for a seed of the other. Raises BadInput for a negative seed.
    """
    if seed < 0:
        raise BadInput(f"seed {seed}: a phantom seed is a whole number of 0 or more")
    key = f"phantom/{domain.name.lower()}/{modality.value}/{purpose}/{seed}"
    return np.random.default_rng(
        np.random.SeedSequence(int.from_bytes(hashlib.sha256(key.encode()).digest(), "big"))
    )


def question_types(modality: Modality) -> tuple[QuestionType, ...]:
    """The cells of a modality's row that exist, in the order of the five types."""
    present = {attribute.question_type for attribute in IMAGINGS[modality].attributes}
    return tuple(kind for kind in QuestionType if kind in present)


def ask(
    scene: Scene, attribute: Attribute, rng: np.random.Generator, *, id: str, image: str, part: str = ""
) -> Question:
    """One question about one attribute of a scene: four choices from its closed set, in random order."""
    gold = scene.values[attribute.name]
    others = [value for value in attribute.values if value != gold]
    picked = rng.choice(len(others), NUM_CHOICES - 1, replace=False)
    choices = [gold, *(others[int(i)] for i in picked)]
    order = [int(i) for i in rng.permutation(NUM_CHOICES)]
    return Question(
        id=id,
        text=attribute.wordings[int(rng.integers(len(attribute.wordings)))],
        choices=tuple(choices[i] for i in order),
        answer_index=order.index(0),
        images=(image,),
        modality=scene.modality,
        question_type=attribute.question_type,
        dataset=DATASETS[scene.modality],
        split=part,
    )


def draw_questions(
    modality: Modality, num_images: int, seed: int, part: str, domain: Domain = Domain.EXPERIMENT
) -> tuple[tuple[Scene, ...], tuple[Question, ...]]:
    """`num_images` scenes and two questions, of different attributes, about each; nothing is rendered.

    Question k is about scene k // 2. `Question.images` holds the path inside the benchmark's part,
    `Images/<data set>/<part>_000123.png`. The low bits of `nuisance_seed` carry domain and part, so no scene
    occurs in two parts or in two domains. Raises BadInput for a negative seed or an unknown part.
    """
    if part not in PARTS:
        raise BadInput(f"part {part!r} is none of {', '.join(PARTS)}")
    imaging = IMAGINGS[modality]
    rng = stream(modality, part, seed, domain)
    label = DATASETS[modality]
    scenes: list[Scene] = []
    questions: list[Question] = []
    for index in range(num_images):
        drawn = draw_scene(imaging, rng)
        scene = replace(drawn, nuisance_seed=drawn.nuisance_seed * 8 + domain * 4 + PARTS.index(part))
        scenes.append(scene)
        image = f"Images/{label.replace(' ', '_')}/{part}_{index:06d}.png"
        asked = rng.choice(len(imaging.attributes), QUESTIONS_PER_IMAGE, replace=False)
        for number, which in enumerate(asked, start=1):
            id = f"{label}_{part}_{index:06d}_{number}"
            questions.append(ask(scene, imaging.attributes[int(which)], rng, id=id, image=image, part=part))
    return tuple(scenes), tuple(questions)
