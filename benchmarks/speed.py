"""Seconds of what runs without a model: statistics, reading, the blind fit, adversarial completions.

    python benchmarks/speed.py OMNIMEDVQA MED_R1_FILES

OMNIMEDVQA is a data set in OmniMedVQA's layout, MED_R1_FILES the folder of Med-R1's released files by
modality; no image is read. Each line is the fastest and the slowest of three runs in this process: the
machine may have other work. Nothing in the tests depends on these figures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from osler.answers import extract_answer
from osler.audit.blind import fit_blind
from osler.data.labels import meaning_of_file_name
from osler.data.load import load_questions
from osler.evaluate.stats import (
    accuracy_interval,
    cluster_flip_test,
    mcnemar,
    paired_cluster_bootstrap,
)
from osler.records import Modality, Question

RUNS = 3
RESAMPLES = 10_000
NUM_ANSWERS, NUM_IMAGES = 17_000, 6_000
NUM_CHARACTERS = 1_000_000
PIECES = ("<answer>", "</answer>", "<think>", "</think>", " ", "\n", "(((", "answer is ", "选", "I cannot ")
CHOICES = ("Fracture", "Kidney", "Normal", "CT")
LINE = "{:<58} {:>9} {:>9}"


def show(what: str, work: Callable[[], object]) -> None:
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    print(LINE.format(what, f"{min(seconds):.2f}", f"{max(seconds):.2f}"), flush=True)


def statistics() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(NUM_ANSWERS) < 0.7).astype(int), (rng.random(NUM_ANSWERS) < 0.75).astype(int)
    images = rng.integers(0, NUM_IMAGES, NUM_ANSWERS).tolist()
    size = f"{RESAMPLES:,} resamples of {NUM_ANSWERS:,} answers"
    show(f"accuracy interval, {size}", lambda: accuracy_interval(a, images, resamples=RESAMPLES))
    show(f"difference, {size}", lambda: paired_cluster_bootstrap(a, b, images, resamples=RESAMPLES))
    show(f"McNemar, {NUM_ANSWERS:,} answers", lambda: mcnemar(a, b))
    show(f"McNemar by image, {NUM_ANSWERS:,} answers", lambda: cluster_flip_test(a, b, images))


def completions() -> None:
    texts = [piece * (NUM_CHARACTERS // len(piece)) for piece in PIECES]
    show(
        f"reading {len(texts)} adversarial completions of {NUM_CHARACTERS:,} characters",
        lambda: [extract_answer(text, CHOICES) for text in texts],
    )


def reading(data: str) -> None:
    number = len(load_questions(data, no_images=True).questions)
    show(f"reading {number:,} questions", lambda: load_questions(data, no_images=True))


def training_files(folder: Path) -> dict[Modality, tuple[Question, ...]]:
    """The largest training file of every modality, recognised by name."""
    found: dict[Modality, tuple[Question, ...]] = {}
    for path in sorted(folder.rglob("*.json")):
        meaning = meaning_of_file_name(path.name)
        if meaning.modality is Modality.UNKNOWN or meaning.split != "train":
            continue
        questions = load_questions(path, no_images=True).questions
        if len(questions) > len(found.get(meaning.modality, ())):
            found[meaning.modality] = questions
    return found


def blind(folder: Path) -> None:
    for modality, questions in training_files(folder).items():
        fit = partial(fit_blind, questions)
        show(f"blind fit, {modality.value}, {len(questions):,} questions", fit)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not all(Path(argument).is_dir() for argument in arguments):
        print("usage: python benchmarks/speed.py OMNIMEDVQA MED_R1_FILES", file=sys.stderr)
        return 2
    print(LINE.format("what", "fastest s", "slowest s"))
    statistics()
    completions()
    reading(arguments[0])
    blind(Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
