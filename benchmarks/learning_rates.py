"""The learning rates of the phantom recipes: one grid for GRPO and SFT, on data of another seed.

python benchmarks/learning_rates.py OUT

Trains on 600 MRI questions of phantom seed 7 (the demo's data have another seed) and prints the accuracy on
360 MRI questions held out there. The best learning rate in-domain is what the recipes carry; CT and X-ray
are printed and decide nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from osler.config import load_config
from osler.phantom.benchmark import write_benchmark
from osler.records import Modality
from osler.tracking import JsonLines
from osler.train.run import train

SEED = 7
IMAGES = 600
SFT_RATES = ("1e-4", "3e-4", "1e-3", "3e-3")
# name: recipe, overrides, rates; each row of rates goes on until the best one is not at its end.
RECIPES = {
    "grpo": ("phantom_medvlm_r1_mri", (), ("3e-6", "1e-5", "3e-5", "1e-4", "3e-4")),
    "sft_visits": ("sft_phantom_medvlm_r1_mri", (), SFT_RATES),
    "sft_steps": ("sft_phantom_medvlm_r1_mri", ("sft.max_steps=150",), SFT_RATES),
}
MODALITIES = (Modality.MRI, Modality.CT, Modality.XRAY)


def main(out: Path) -> None:
    data = out / "data"
    if not data.exists():
        write_benchmark(data, IMAGES, SEED, modalities=MODALITIES)
    found = []
    print("method      lr      " + "  ".join(f"{m.value:>12}" for m in MODALITIES))
    for name, (recipe, extra, rates) in RECIPES.items():
        for rate in rates:
            overrides = [f'data.train="{data / "train"}"', f"optim.lr={rate}", "seed=7", *extra]
            for m in MODALITIES:
                where = f"validation.sets.{m.value}"
                overrides += [f'{where}.data="{data / "test"}"', f'{where}.modality=["{m.value}"]']
            overrides.append("validation.every_questions=1000000")  # at the start and at the end
            run = out / f"{name}_{rate}"
            train(load_config(recipe, overrides), run, resume=(run / "config.json").is_file())
            curve = [r for r in JsonLines(run / "metrics.jsonl") if "eval/accuracy/mri" in r]
            row = {
                m.value: [r[f"eval/accuracy/{m.value}"] for r in (curve[0], curve[-1])] for m in MODALITIES
            }
            found.append({"method": name, "lr": rate, "accuracy_start_end": row})
            shown = "  ".join(f"{100 * a:5.1f}->{100 * b:5.1f}" for a, b in row.values())
            print(f"{name:<11} {rate:<7} {shown}", flush=True)
    (out / "learning_rates.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
