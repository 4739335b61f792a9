"""The repair of Med-R1's released question files: the blind baseline before and after, modality by modality.

    python benchmarks/repair.py MED_R1_FILES [OMNIMEDVQA] [--keep 0.6] [--seed 0] [--stems-as-they-are]

MED_R1_FILES holds Med-R1's released files by modality, `<label>_train.json` and `<label>_test.json`, in any
subfolders. They are converted with `--rebuild-choices --one-stem --keep 0.6` into a temporary folder, and the
folder is audited. With OMNIMEDVQA (a root with QA_information/, whose rows name their question type) it also
prints for how many questions the rule that infers question types names the right one. No image is read.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from osler.audit.baselines import Accuracy
from osler.audit.repair_effect import RepairRow, repair_effect
from osler.data.convert import convert
from osler.data.load import load_questions
from osler.data.question_types import question_types
from osler.data.rebuild import REASONS, RepairOptions
from osler.data.repair_record import read_repair
from osler.records import QuestionType

FAR_ABOVE = 0.15  # a modality further above chance than this is named


def shown(accuracy: Accuracy) -> str:
    bounds = accuracy.interval
    return f"{100 * accuracy.share:.1f} ({100 * bounds.low:.1f}-{100 * bounds.high:.1f})"


def above(row: RepairRow) -> float:
    return row.refit.share - row.refit.chance


def rows_of(source: Path, options: RepairOptions, workers: int) -> tuple[RepairRow, ...]:
    with tempfile.TemporaryDirectory() as folder:
        out = convert(source, Path(folder) / "repaired", no_images=True, repair=options).out
        records = [read_repair(out, split) for split in ("train", "test")]
        parts = [load_questions(out, no_images=True, split=split).questions for split in ("train", "test")]
    train, test = records
    assert train is not None and test is not None
    return repair_effect(parts[0], parts[1], train, test, workers)


def print_table(rows: tuple[RepairRow, ...]) -> None:
    heads = (
        "modality", "before (chance)", "chance now", "original fit", "refit", "refit over chance",
        "n test", "kept train / test, %", *(f"dropped: {reason}" for reason in REASONS), "unbalanced in test",
    )  # fmt: skip
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        kept = (row.num_train / row.num_train_before, row.num_test / row.num_test_before)
        cells = (
            row.modality,
            f"{shown(row.before)} ({100 * row.before.chance:.1f})",
            f"{100 * row.refit.chance:.1f}",
            shown(row.original_fit),
            shown(row.refit),
            f"{100 * above(row):+.1f}",
            f"{row.num_test:,}",
            f"{100 * kept[0]:.1f} / {100 * kept[1]:.1f}",
            *(f"{row.dropped.get(reason, 0):,}" for reason in REASONS),
            f"{row.unbalanced:,}",
        )
        print("| " + " | ".join(cells) + " |")
    print(f"\nmean refit over chance: {100 * np.mean([above(row) for row in rows]):+.1f} points")
    far = [f"{row.modality} ({100 * above(row):+.1f})" for row in rows if above(row) > FAR_ABOVE]
    print(f"above {100 * FAR_ABOVE:g} points: {', '.join(far) or 'none'}")


def print_type_rule(root: Path) -> None:
    questions = load_questions(root, no_images=True).questions
    inferred = question_types([replace(q, question_type=QuestionType.UNKNOWN) for q in questions])
    right = np.mean([kind is q.question_type for kind, q in zip(inferred, questions, strict=True)])
    print(f"question type inferred from stems: right for {100 * right:.1f} % of {len(questions):,} questions")


def main() -> int:
    parser = argparse.ArgumentParser(description="The repair of Med-R1's released question files.")
    parser.add_argument("med_r1_files", type=Path)
    parser.add_argument("omnimedvqa", type=Path, nargs="?")
    parser.add_argument("--keep", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stems-as-they-are", action="store_true", help="without --one-stem")
    given = parser.parse_args()
    options = RepairOptions(seed=given.seed, one_stem=not given.stems_as_they_are, keep=given.keep)
    print_table(rows_of(given.med_r1_files, options, os.cpu_count() or 1))
    if given.omnimedvqa is not None:
        print_type_rule(given.omnimedvqa)
    return 0


if __name__ == "__main__":
    sys.exit(main())
