"""Predicted beside measured: time by part and peak memory of a training on this machine.

    python benchmarks/prediction.py RECIPE OUT [key=value ...]

Trains the recipe into OUT and prints, for its median step (the first is left out: it loads code and fills
caches): what arithmetic predicts from the lengths it really had and from measured ceilings, what a trial
of two steps takes, as `osler doctor` makes it, and what the training took. On a CPU one thread, and all
seconds are those of the process: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from unittest.mock import patch

import torch

from osler import doctor
from osler.config import load_config
from osler.costs.memory import predict_memory
from osler.costs.seconds import predict_seconds
from osler.costs.workload import workload
from osler.peak_memory import held_bytes
from osler.tracking import JsonLines
from osler.train import loop
from osler.train.clock import HostTimeline, timeline_of
from osler.train.run import train
from osler.trial import trial_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    config = load_config(arguments.recipe, arguments.overrides)
    shape = doctor.shape_of(config)
    if shape is None:
        raise SystemExit("the model's config.json is not on this machine")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter
    if device.type == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    machine, idle = doctor.ceilings_of(config, doctor.measure(device, clock)), held_bytes(device)
    of_process = HostTimeline(clock)
    with patch.object(loop, "timeline_of", lambda d: timeline_of(d) if d.type == "cuda" else of_process):
        train(config, arguments.out)
        tried = trial_seconds(config)
    steps = [s for s in JsonLines(arguments.out / "metrics.jsonl") if "time/step" in s][1:]

    def median(name: str) -> float:
        return statistics.median(s.get(name, 0.0) for s in steps)

    load = workload(config, shape.tower, completion_tokens=round(median("completion/length_mean")))
    seconds = predict_seconds(config, shape, load, machine)
    print(f"{machine}, {load.work}, n = {len(steps)} steps\n")
    print("| part | arithmetic | trial | measured, median |\n|---|---|---|---|")
    for part in ("data", "rollout", "reward", "reference", "loss", "optimizer", "other", "step"):
        name = f"time/{part}"
        both = (f"{found[name]:.3f} s" if name in found else "" for found in (seconds, tried))
        print(f"| {part} | {' | '.join(both)} | {median(name):.3f} s |")
    peak = predict_memory(config, shape, load).peak + idle
    measured = median("memory/peak_bytes")
    print(f"| peak memory | {peak / 2**20:.0f} MiB | | {measured / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
