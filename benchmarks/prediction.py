"""Predicted beside measured: time by part and peak memory of a GRPO run on this machine.

    python benchmarks/prediction.py RECIPE OUT [key=value ...]

Trains the recipe into OUT, then predicts its step from the lengths that it really had and from ceilings
measured before and after (their mean). The first step is left out: it loads code and fills caches.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from osler import doctor
from osler.config import load_config
from osler.costs.memory import predict_memory
from osler.costs.seconds import Ceilings, predict_seconds
from osler.costs.workload import workload
from osler.peak_memory import held_bytes
from osler.tracking import JsonLines
from osler.train.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    config = load_config(arguments.recipe, arguments.overrides)
    shape = doctor.shape_of(config)
    if shape is None:
        raise SystemExit("the model's config.json is not on this machine")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before, idle = doctor.measure(device), held_bytes(device)
    train(config, arguments.out)
    doctor.matmul_ceiling.cache_clear()
    after = doctor.measure(device)
    steps = [s for s in JsonLines(arguments.out / "metrics.jsonl") if "time/step" in s][1:]

    def median(name: str) -> float:
        return statistics.median(s.get(name, 0.0) for s in steps)

    machine = Ceilings(
        *(
            (before[n] + after[n]) / 2
            for n in ("flops_per_second_fp32", "bytes_per_second", "seconds_per_call")
        )
    )
    load = workload(config, shape.tower, completion_tokens=round(median("completion/length_mean")))
    seconds = predict_seconds(config, shape, load, machine)
    print(f"{machine}, {load.work}, n = {len(steps)} steps\n")
    print("| part | predicted | measured, median |\n|---|---|---|")
    for part in ("data", "rollout", "reward", "reference", "loss", "optimizer", "other", "step"):
        name = f"time/{part}"
        shown = f"{seconds[name]:.3f} s" if name in seconds else ""
        print(f"| {part} | {shown} | {median(name):.3f} s |")
    peak = predict_memory(config, shape, load).peak + idle
    print(f"| peak memory | {peak / 2**20:.0f} MiB | {median('memory/peak_bytes') / 2**20:.0f} MiB |")
    print(f"\nmodel FLOP utilisation {median('throughput/mfu'):.3f}")


if __name__ == "__main__":
    main()
