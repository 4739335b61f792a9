"""The demo with several training seeds on one fixed test set, as the table of the README.

python benchmarks/demo_seeds.py OUT [SEED ...]

Prints Markdown: a row per seed and model with accuracy in % and its 95 % interval (clustered by image, never
over pooled seeds), the mean over seeds, chance and blind baseline, and GRPO against zero-shot per seed, with
the minimal detectable difference (MDD) in points.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from osler import demo

COLUMNS = [m.value for m in demo.TESTED]
NAMES = {"mri": "MRI", "ct": "CT", "xray": "X-ray"}


def cell(row: dict[str, float]) -> str:
    return f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f}-{100 * row['high']:.1f})"


def points(difference: float | None) -> str:
    return "none" if difference is None else f"{100 * difference:.1f}"


def main(out: Path, seeds: list[int]) -> None:
    runs: dict[int, dict[str, Any]] = {seed: demo.run(out / f"seed_{seed}", seed) for seed in seeds}
    first = next(iter(runs.values()))["accuracy"]
    sizes = first["grpo_think"]
    heads = [f"{NAMES[c]} (n = {sizes[c]['n']})" for c in COLUMNS]
    print(f"| model | seed | {' | '.join(heads)} |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for model in demo.MODELS:
        rows = {seed: run["accuracy"][model.folder] for seed, run in runs.items()}
        if not model.recipe:
            # Greedy answers of the base model do not depend on the seed of training.
            cells = [cell(first[model.folder][c]) for c in COLUMNS]
            print(f"| {model.label} | - | {' | '.join(cells)} |")
            continue
        for seed, row in rows.items():
            print(f"| {model.label} | {seed} | {' | '.join(cell(row[c]) for c in COLUMNS)} |")
        means = [sum(r[c]["accuracy"] for r in rows.values()) / len(rows) for c in COLUMNS]
        print(f"| {model.label} | mean | {' | '.join(f'{100 * m:.1f}' for m in means)} |")
    print("| chance | - | " + " | ".join(f"{100 * sizes[c]['chance']:.1f}" for c in COLUMNS) + " |")
    print("| blind baseline | - | " + " | ".join(f"{100 * sizes[c]['blind']:.1f}" for c in COLUMNS) + " |")
    print()
    print("| GRPO minus zero-shot (think) | " + " | ".join(NAMES[c] for c in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for seed, run in runs.items():
        found = [run["grpo_against_zero_shot"][c] for c in COLUMNS]
        shown = [
            f"{100 * f['difference']:+.1f} ({100 * f['low']:+.1f} to {100 * f['high']:+.1f}), "
            f"p {f['mcnemar_exact_p']:.2g}, MDD {points(f['minimal_detectable_difference'])}"
            for f in found
        ]
        print(f"| seed {seed} | {' | '.join(shown)} |")
    print()
    print("seconds per seed: " + ", ".join(f"{run['seconds']:.0f}" for run in runs.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(s) for s in sys.argv[2:]] or [0, 1, 2])
