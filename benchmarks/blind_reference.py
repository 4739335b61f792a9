"""How far the released Med-R1 question files go without any image: the blind baseline, file by file.

    python benchmarks/blind_reference.py MED_R1_FILES

MED_R1_FILES holds Med-R1's released files by modality (`<label>_train.json`, `<label>_test.json`, in any
subfolders). No image is read. Every modality with both files is one line: fitted on its training file,
tested on its test file. A modality with one file is named and left out. Intervals
count an image path as one cluster.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from osler.audit.blind import fit_blind
from osler.data.labels import meaning_of_file_name
from osler.data.load import load_questions
from osler.evaluate.stats import accuracy_interval, chance_level
from osler.records import Modality

LINE = "{:<12} {:>8} {:>7} {:>7} {:>9} {:>15} {:>8}"


def question_files(folder: Path) -> dict[Modality, dict[str, Path]]:
    """Train and test file of every modality, recognised by name; all other files are left out."""
    found: dict[Modality, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.json")):
        meaning = meaning_of_file_name(path.name)
        if meaning.modality is not Modality.UNKNOWN and meaning.split in ("train", "test"):
            found.setdefault(meaning.modality, {})[meaning.split] = path
    return found


def line(modality: Modality, train_file: Path, test_file: Path) -> tuple[str, float]:
    """One line of the table, and the accuracy (0 to 1)."""
    started = time.perf_counter()
    train = load_questions(train_file, no_images=True).questions
    test = load_questions(test_file, no_images=True).questions
    chosen = fit_blind(train).predict(test)
    correct = chosen == np.array([q.answer_index for q in test])
    interval = accuracy_interval(correct, ["+".join(q.images) for q in test])
    cells = (
        modality.value,
        f"{len(train):,}",
        f"{len(test):,}",
        f"{100 * chance_level([len(q.choices) for q in test]):.1f}",
        f"{100 * correct.mean():.2f}",
        f"{100 * interval.low:.2f}-{100 * interval.high:.2f}",
        f"{time.perf_counter() - started:.1f}",
    )
    return LINE.format(*cells), float(correct.mean())


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python benchmarks/blind_reference.py MED_R1_FILES", file=sys.stderr)
        return 2
    print(LINE.format("modality", "n train", "n test", "chance", "accuracy", "95 % interval", "seconds"))
    accuracies = []
    for modality, files in question_files(Path(arguments[0])).items():
        if len(files) < 2:
            print(f"{modality.value:<12} only the {next(iter(files))} file is there: left out")
            continue
        shown, accuracy = line(modality, files["train"], files["test"])
        print(shown, flush=True)
        accuracies.append(accuracy)
    if accuracies:
        print(f"mean of {len(accuracies)} modalities: {100 * np.mean(accuracies):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
