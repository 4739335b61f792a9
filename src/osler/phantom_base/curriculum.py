"""What the base model is taught: pure functions of (seed, step) that draw SFT examples.

Four exercises, easiest first: `recite` (which letter stands before which text), `report` (name every finding
of an image), `read` (answer a question whose findings are written out), `look` (answer a question about an
image). Reasoning is one short sentence that names the finding and its letter.

Like real instruction data, a share of the reasoning is careless: it names no finding and its letter is a
guess. Two or three of the five attributes of every modality (`CARELESS`) are mostly answered that way. The
model could look there too, and sometimes does; making it do so is left to reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from osler.phantom.questions import IMAGINGS, ask
from osler.phantom.scene import Attribute, Imaging, Scene, draw_scene
from osler.prompts import TEMPLATES, Template
from osler.records import LETTERS, Modality, Question
from osler.train.sft import SftExample

# How an image was acquired is easy to see, so a look would pay. What else is guessed at was chosen on the
# base model's own images, such that what is left to look at makes neither a poor model nor a good one.
CARELESS = {
    Modality.CT: ("phase", "fat"),
    Modality.MRI: ("sequence", "ventricles"),
    Modality.XRAY: ("view", "heart"),
    Modality.ULTRASOUND: ("mode", "organ", "place"),
    Modality.DERMOSCOPY: ("technique", "disease"),
    Modality.FUNDUS: ("technique", "severity"),
    Modality.OCT: ("technique", "course", "layer"),
    Modality.MICROSCOPY: ("technique", "severity"),
}
CARELESS_HABIT = 0.7  # share of careless reasoning where the habit is to guess
CARELESS_ELSEWHERE = 0.1
NAMED_WORDS = 2  # reasoning names a choice by its first words
UNSEEN_SHARE = 0.4  # of the text-only exercises: invented words instead of phantom's own

_ONSETS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "gl", "ph")
_VOWELS = ("a", "e", "i", "o", "u", "y", "ae", "io", "ea", "ou")
_CODAS = ("", "", "n", "r", "l", "s", "x", "m", "tic", "oid", "ma", "sis")


@dataclass(frozen=True)
class _Exercise(Template):
    """A turn that is no multiple-choice question; `instruction` alone is shown, or the choices alone."""

    shows_choices: bool = False

    def user_text(self, question: Question) -> str:
        if not self.shows_choices:
            return self.instruction
        return "\n".join(
            f"{letter}) {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)
        )


REPORT = _Exercise("report", "plain", "Describe the image.")
RECITE = _Exercise("recite", "plain", "", shows_choices=True)


@dataclass(frozen=True)
class Picture:
    """A rendered scene of the base model's own seed domain."""

    scene: Scene
    path: str


@dataclass(frozen=True)
class Shares:
    """Shares of the four exercises in a step; they sum to 1."""

    recite: float
    report: float
    read: float
    look: float


@dataclass(frozen=True)
class Stage:
    """Shares up to (and without) a step."""

    until: int
    shares: Shares


def examples_at(
    pictures: Sequence[Picture], stages: Sequence[Stage], batch_size: int, seed: int
) -> Callable[[int], list[SftExample]]:
    """The examples of each step, as `train.sft` takes them."""

    def at(step: int) -> list[SftExample]:
        rng = np.random.default_rng((seed, step))
        shares = next(stage.shares for stage in stages if step < stage.until)
        odds = (shares.recite, shares.report, shares.read, shares.look)
        kinds = rng.choice(4, size=batch_size, p=odds)
        return [_draw(int(kind), pictures, rng, f"base_{step}_{i}") for i, kind in enumerate(kinds)]

    return at


def _draw(kind: int, pictures: Sequence[Picture], rng: np.random.Generator, id: str) -> SftExample:
    if kind == 0:
        return recite_example(rng, id)
    if kind == 2:
        return read_example(rng, id)
    picture = pictures[int(rng.integers(len(pictures)))]
    return report_example(picture, id) if kind == 1 else look_example(picture, rng, id)


def recite_example(rng: np.random.Generator, id: str) -> SftExample:
    """Choices without a question; the completion names some of them, each with its letter."""
    choices = _choices(rng)
    order = rng.integers(len(choices), size=8)
    lines = [_sentence(choices[i], LETTERS[i]) for i in order]
    return SftExample(Question(id=id, text="", choices=choices, answer_index=0), RECITE, " ".join(lines))


def report_example(picture: Picture, id: str) -> SftExample:
    """An image; the completion is every finding, in the order of the modality's attributes."""
    question = Question(id=id, text="", choices=("", ""), answer_index=0, images=(picture.path,))
    return SftExample(question, REPORT, report(picture.scene))


def read_example(rng: np.random.Generator, id: str) -> SftExample:
    """A question whose findings are given as text, about phantom's attributes or invented ones."""
    if rng.random() < UNSEEN_SHARE:
        return _invented_example(rng, id)
    imaging, attribute = _any_attribute(rng)
    scene = draw_scene(imaging, rng)
    asked = ask(scene, attribute, rng, id=id, image="")
    question = Question(
        id=id,
        text=f"{report(scene)}\n{asked.text}",
        choices=asked.choices,
        answer_index=asked.answer_index,
    )
    template = _template(rng)
    return SftExample(question, template, _completion(question, template, rng, CARELESS_ELSEWHERE))


def look_example(picture: Picture, rng: np.random.Generator, id: str) -> SftExample:
    """A question about an image, answered with or without a look at it."""
    attributes = IMAGINGS[picture.scene.modality].attributes
    attribute = attributes[int(rng.integers(len(attributes)))]
    question = ask(picture.scene, attribute, rng, id=id, image=picture.path)
    habit = attribute.name in CARELESS[picture.scene.modality]
    template = _template(rng)
    completion = _completion(question, template, rng, CARELESS_HABIT if habit else CARELESS_ELSEWHERE)
    return SftExample(question, template, completion)


def report(scene: Scene) -> str:
    return f"Shows {'; '.join(scene.values.values())}."


def named(choice: str) -> str:
    """How reasoning names a choice: by its first words, without the final stop."""
    return " ".join(choice.rstrip(" .").split()[:NAMED_WORDS])


def _sentence(choice: str, letter: str) -> str:
    return f"Shows {named(choice)} ({letter})."


def _completion(question: Question, template: Template, rng: np.random.Generator, careless: float) -> str:
    letter = question.answer_letter
    if not template.thinks:
        return template.write(letter)
    if rng.random() < careless:
        letter = LETTERS[int(rng.integers(len(question.choices)))]
        return template.write(letter, f"Maybe ({letter}).")
    return template.write(letter, _sentence(question.answer, letter))


_ASKED_AS = (
    *[("think", 0.6), ("nothink", 0.15), ("think_after", 0.15), ("plain", 0.04)],
    *[
        ("med_r1_think", 0.015),
        ("med_r1_nothink", 0.015),
        ("medvlm_r1_complex", 0.015),
        ("med_r1_readme", 0.015),
    ],
)


def _template(rng: np.random.Generator) -> Template:
    names, odds = zip(*_ASKED_AS, strict=True)
    return TEMPLATES[names[int(rng.choice(len(names), p=odds))]]


def _any_attribute(rng: np.random.Generator) -> tuple[Imaging, Attribute]:
    imagings = list(IMAGINGS.values())
    imaging = imagings[int(rng.integers(len(imagings)))]
    return imaging, imaging.attributes[int(rng.integers(len(imaging.attributes)))]


def _invented_example(rng: np.random.Generator, id: str) -> SftExample:
    choices = _choices(rng)
    answer = int(rng.integers(len(choices)))
    template = _template(rng)
    facts = [invented_phrase(rng), choices[answer], invented_phrase(rng)]
    text = "; ".join(facts[i] for i in rng.permutation(3)) + f".\nWhich {invented_word(rng)} is shown?"
    question = Question(id=id, text=text, choices=choices, answer_index=answer)
    return SftExample(question, template, _completion(question, template, rng, CARELESS_ELSEWHERE))


def _choices(rng: np.random.Generator) -> tuple[str, ...]:
    """Two to five different choices: values of one phantom attribute, of many, or invented phrases."""
    count = int(rng.choice((2, 3, 4, 5), p=(0.15, 0.15, 0.5, 0.2)))
    if rng.random() < UNSEEN_SHARE:
        drawn = [invented_phrase(rng) for _ in range(count)]
    else:
        drawn = [str(v) for v in rng.choice(_ALL_VALUES, size=count, replace=False)]
    return tuple(dict.fromkeys(drawn)) if len(set(drawn)) > 1 else (*drawn[:1], f"{drawn[0]} none")


_ALL_VALUES = sorted({v for imaging in IMAGINGS.values() for a in imaging.attributes for v in a.values})


def invented_word(rng: np.random.Generator) -> str:
    return "".join(
        str(rng.choice(_ONSETS)) + str(rng.choice(_VOWELS)) + str(rng.choice(_CODAS))
        for _ in range(int(rng.integers(1, 3)))
    )


def invented_phrase(rng: np.random.Generator) -> str:
    """One to four words that mean nothing, the first with a capital."""
    count = int(rng.choice((1, 2, 3, 4), p=(0.5, 0.3, 0.15, 0.05)))
    return " ".join(invented_word(rng) for _ in range(count)).capitalize()
