"""The phantom benchmark on disk: three parts, each a folder in OmniMedVQA's own layout.

    OUT/train/QA_information/Open-access/Phantom CT.json      one file per modality
    OUT/train/Images/Phantom_CT/train_000000.png
    OUT/validation/…  OUT/test/…
    OUT/contact_sheet.png     some images of every modality with question and answer
    OUT/phantom.json          how it was made, which cells exist, what was planted

The same call writes the same bytes. Questions are drawn before any pixel; images are rendered last, by
several processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osler.errors import BadInput
from osler.phantom.contact_sheet import draw_contact_sheet
from osler.phantom.questions import (
    DATASETS,
    IMAGINGS,
    PARTS,
    QUESTIONS_PER_IMAGE,
    draw_questions,
    question_types,
    stream,
)
from osler.phantom.scene import Scene
from osler.processes import spread
from osler.records import LETTERS, Modality, Question, QuestionType

DRAWING_VERSION = 1  # raised whenever the same seed gives other pixels or other questions
IMAGE_SIZE = 168  # pixels, a multiple of the 28 that one visual token covers
MIN_IMAGES = 10
PLANTS = ("leak", "shortcut")
LEAK_SHARE = 0.25  # of the test images of every modality
DECOY_PREFIX = "Atypical"
QUESTION_TYPE_LABELS = {
    QuestionType.MODALITY_RECOGNITION: "Modality Recognition",
    QuestionType.ANATOMY_IDENTIFICATION: "Anatomy Identification",
    QuestionType.DISEASE_DIAGNOSIS: "Disease Diagnosis",
    QuestionType.LESION_GRADING: "Lesion Grading",
    QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES: "Other Biological Attributes",
}
_CHUNK = 50  # images that one worker draws at a time

Progress = Callable[[int, int], None]  # images drawn so far, of how many


@dataclass(frozen=True, slots=True)
class Part:
    """One modality of one part, before any pixel: question k is about scene k // QUESTIONS_PER_IMAGE."""

    name: str
    modality: Modality
    scenes: tuple[Scene, ...]
    questions: tuple[Question, ...]
    copies: tuple[tuple[str, str], ...] = ()  # planted leak: (image path in test, image path in train)


def part_sizes(images: int) -> dict[str, int]:
    """Images per part: 60 % train, 10 % validation, the rest test."""
    train, validation = round(0.6 * images), round(0.1 * images)
    return {"train": train, "validation": validation, "test": images - train - validation}


def draw_parts(
    images: int,
    seed: int,
    plant: str | None = None,
    modalities: Sequence[Modality] = tuple(IMAGINGS),
) -> tuple[Part, ...]:
    """All scenes and questions of a benchmark, nothing rendered; modality by modality, train first.

    Raises BadInput for fewer than 10 images, a negative seed or an unknown plant.
    """
    if images < MIN_IMAGES:
        raise BadInput(f"--images {images}: a phantom needs at least {MIN_IMAGES} images per modality")
    if plant is not None and plant not in PLANTS:
        raise BadInput(f"--plant {plant!r}: choose one of {', '.join(PLANTS)}")
    parts: list[Part] = []
    for modality in modalities:
        drawn = {
            name: Part(name, modality, *draw_questions(modality, count, seed, name))
            for name, count in part_sizes(images).items()
        }
        if plant == "leak":
            drawn["test"] = _leak(drawn["train"], drawn["test"], stream(modality, "plant", seed))
        if plant == "shortcut":
            drawn = {name: _shortcut(part) for name, part in drawn.items()}
        parts += drawn.values()
    return tuple(parts)


def _leak(train: Part, test: Part, rng: np.random.Generator) -> Part:
    """The test part with LEAK_SHARE of its images, and their questions, taken from the train part."""
    count = max(1, round(LEAK_SHARE * len(test.scenes)))
    targets = sorted(int(i) for i in rng.choice(len(test.scenes), count, replace=False))
    origins = [int(i) for i in rng.choice(len(train.scenes), count, replace=False)]
    scenes, questions = list(test.scenes), list(test.questions)
    copies: list[tuple[str, str]] = []
    for target, origin in zip(targets, origins, strict=True):
        scenes[target] = train.scenes[origin]
        for number in range(QUESTIONS_PER_IMAGE):
            old = questions[target * QUESTIONS_PER_IMAGE + number]
            new = train.questions[origin * QUESTIONS_PER_IMAGE + number]
            questions[target * QUESTIONS_PER_IMAGE + number] = replace(
                new, id=old.id, images=old.images, split=old.split
            )
        copies.append((old.images[0], new.images[0]))
    return replace(test, scenes=tuple(scenes), questions=tuple(questions), copies=tuple(copies))


def _shortcut(part: Part) -> Part:
    """The part with every wrong choice turned into a text that is never right anywhere."""
    questions = []
    for question in part.questions:
        choices = tuple(
            choice if index == question.answer_index else f"{DECOY_PREFIX} {choice[0].lower()}{choice[1:]}"
            for index, choice in enumerate(question.choices)
        )
        questions.append(replace(question, choices=choices))
    return replace(part, questions=tuple(questions))


def write_benchmark(
    out: str | Path,
    images: int,
    seed: int,
    plant: str | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    modalities: Sequence[Modality] = tuple(IMAGINGS),
) -> None:
    """Write a whole benchmark of `images` images per modality, two questions each, under `out`.

    The folder appears only when it is complete. `workers` processes render (default: one per core; 1 renders
    in this process); their number does not change a byte. Raises BadInput if `out` exists and is not an
    empty folder, and as `draw_parts` does.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} already exists and is not empty: choose another folder or remove it first")
    parts = draw_parts(images, seed, plant, modalities)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for part in parts:
            _write_questions(unfinished / part.name, part)
        _render_all(unfinished, parts, progress, os.cpu_count() or 1 if workers is None else workers)
        shown = [(part.scenes, part.questions) for part in parts if part.name == "train"]
        draw_contact_sheet(shown).save(unfinished / "contact_sheet.png")
        _write_json(unfinished / "phantom.json", _manifest(parts, images, seed, plant))
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _row(question: Question) -> dict[str, str]:
    """One question with OmniMedVQA's keys and literal labels, in its order."""
    options = {f"option_{letter}": choice for letter, choice in zip(LETTERS, question.choices, strict=False)}
    return {
        "dataset": question.dataset,
        "question_id": question.id,
        "question_type": QUESTION_TYPE_LABELS[question.question_type],
        "question": question.text,
        "gt_answer": question.answer,
        "image_path": question.images[0],
        **options,
        "modality_type": IMAGINGS[question.modality].label,
    }


def _write_questions(root: Path, part: Part) -> None:
    folder = root / "QA_information" / "Open-access"
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / f"{DATASETS[part.modality]}.json", [_row(question) for question in part.questions])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _manifest(parts: Sequence[Part], images: int, seed: int, plant: str | None) -> dict[str, Any]:
    drawn = dict.fromkeys(part.modality for part in parts)
    planted: dict[str, Any] | None = None
    if plant == "leak":
        planted = {
            "kind": "leak",
            "share_of_test_images": LEAK_SHARE,
            "copies": [{"test": test, "train": train} for part in parts for test, train in part.copies],
        }
    if plant == "shortcut":
        planted = {"kind": "shortcut", "share_of_questions": 1.0, "never_right": f"{DECOY_PREFIX} …"}
    return {
        "drawing_version": DRAWING_VERSION,
        "seed": seed,
        "images_per_modality": images,
        "image_size_pixels": IMAGE_SIZE,
        "questions_per_image": QUESTIONS_PER_IMAGE,
        "images": {name: part_sizes(images)[name] for name in PARTS},
        "cells": {m.value: [t.value for t in question_types(m)] for m in drawn},
        "planted": planted,
    }


def _jobs(root: Path, parts: Sequence[Part]) -> Iterator[tuple[tuple[Scene, ...], tuple[str, ...]]]:
    """Scenes and the files they become, in pieces of at most _CHUNK."""
    for part in parts:
        files = [
            str(root / part.name / question.images[0]) for question in part.questions[::QUESTIONS_PER_IMAGE]
        ]
        Path(files[0]).parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(files), _CHUNK):
            yield part.scenes[start : start + _CHUNK], tuple(files[start : start + _CHUNK])


def _render_chunk(job: tuple[tuple[Scene, ...], tuple[str, ...]]) -> int:
    scenes, files = job
    for scene, file in zip(scenes, files, strict=True):
        pixels = IMAGINGS[scene.modality].render(scene, IMAGE_SIZE)
        Image.fromarray(pixels).save(file, format="PNG")
    return len(files)


def _render_all(root: Path, parts: Sequence[Part], progress: Progress | None, workers: int) -> None:
    total, done = sum(len(part.scenes) for part in parts), 0
    for drawn in spread(_render_chunk, list(_jobs(root, parts)), workers):
        done += drawn
        if progress is not None:
            progress(done, total)
