"""Does what docs/hardware.md recommends for a card train on a card of that size?

    python -m benchmarks.fast_path.machines SPEC FOLDER

SPEC is the row and scale as JSON. In a process that may take no more memory than the card has (less what
driver and gaps need), the product's own loop trains STEPS steps with the keys of that page, and writes its
checkpoint. Prints as JSON: the highest peak of a step beside the predicted one, what the allocator reserved,
seconds beside those predicted from this device's ceilings. On a CPU memory is resident memory beyond what
the process held before the model, and nothing is limited.
"""

from __future__ import annotations

import gc
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import hardware
from benchmarks.fast_path import osler_side
from benchmarks.fast_path.case import Case, make_case
from benchmarks.fast_path.floor import shape_of
from benchmarks.fast_path.models import ASK, TOKEN_PIXELS
from benchmarks.fast_path.rows import Row, Scale
from osler import doctor
from osler.config import TrainConfig
from osler.costs.memory import predict_memory
from osler.costs.seconds import predict_seconds
from osler.costs.workload import workload
from osler.peak_memory import held_bytes, peak_bytes
from osler.tracking import JsonLines
from osler.train.loop import TrainingLoop

STEPS = 5
SETTLED = 2  # steps before are no measure of time: code loads, a decoding step runs before it is captured
HEAD = (
    "| card | way | fits | peak, measured | predicted | reserved | seconds per step, measured | predicted "
    "| keys |"
)


def measure_machine(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    """One card and way. The ratio is how many times over the card has what was taken; 0: it ran out."""
    keys = recommended(row)
    spec = json.dumps({"row": asdict(row), "scale": asdict(scale)})
    found = in_own_process(spec, folder)
    enough = 0.0 if found["out_of_memory"] else found["limit_bytes"] / found["reserved_bytes"]
    return {"ratios": {"card": enough}, "clock": "bytes", "keys": keys, **found}


def recommended(row: Row) -> tuple[str, ...]:
    """The keys that docs/hardware.md names. Raises ValueError where it says that nothing fits."""
    (card,) = (card for card in hardware.CARDS if card.gigabytes == row.gigabytes)
    keys = hardware.predicted_row(row.way, card).keys
    if not keys:
        raise ValueError(f"{row.way} is predicted not to fit {row.gigabytes} GB")
    return keys


def in_own_process(spec: str, folder: Path) -> dict[str, Any]:
    """`train_within` in a fresh process. Raises RuntimeError with its last words where it fails."""
    command = [sys.executable, "-m", "benchmarks.fast_path.machines", spec, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{spec}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def train_within(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    """Train in this process, held to the card's memory; running out of it is a result."""
    device, keys = torch.device(scale.device), recommended(row)
    limit = hold_to(row.gigabytes * 10**9 - hardware.DRIVER_BYTES, device)
    case, run = make_case(row, scale, folder, steps=STEPS), folder / "run"
    before, message = held_bytes(device), ""
    config = osler_side.config_of(case, mask_placeholders=True, keys=keys)
    try:
        train(case, keys, run)
    except RuntimeError as error:
        message = out_of_memory(error)
        if not message:
            raise
    gc.collect()  # the device's ceilings are measured in what is free again
    steps = list(JsonLines(run / "metrics.jsonl"))
    shutil.rmtree(run, ignore_errors=True)
    peaks = [int(s["memory/peak_bytes"]) for s in steps] + [peak_bytes(device)] * bool(message)
    cuda = device.type == "cuda"
    return {
        "out_of_memory": message,
        "limit_bytes": limit,
        "peak_bytes": max(peaks) - before,
        "reserved_bytes": torch.cuda.max_memory_reserved() if cuda else max(peaks) - before,
        "seconds": statistics.median([s["time/step"] for s in steps[SETTLED:]] or [0.0]),
        **predicted(config, case, device),
    }


def out_of_memory(error: BaseException) -> str:
    """First line of the allocator's complaint, also where a capture failed for it; else empty."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, torch.OutOfMemoryError):
            return str(at).splitlines()[0]
        at = at.__context__
    return ""


def hold_to(limit: int, device: torch.device) -> int:
    """Bytes that this process may now take on the device: `limit`, or all that a smaller one has."""
    if device.type == "cpu":
        return limit
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    return min(limit, total)


def train(case: Case, keys: Sequence[str], run: Path) -> None:
    """STEPS steps and their checkpoint, as `osler grpo` takes them."""
    side = osler_side.build(case, mask_placeholders=True, keys=keys)
    method = side.method
    TrainingLoop(method.config, run, method.world, side.learner, method, ASK).train()


def predicted(config: TrainConfig, case: Case, device: torch.device) -> dict[str, Any]:
    """Peak, and seconds from the ceilings that this device has now."""
    shape, pixels = shape_of(case), case.row.image_tokens * TOKEN_PIXELS**2
    load = workload(config, shape.tower, image_pixels=pixels, text_tokens=case.scale.text_tokens)
    machine = doctor.ceilings_of(config, doctor.measure(device))
    return {
        "peak_bytes_predicted": predict_memory(config, shape, load).peak,
        "seconds_predicted": predict_seconds(config, shape, load, machine)["time/step"],
        "ceilings": asdict(machine),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line per card and way."""
    return "\n".join([HEAD, "|---" * (HEAD.count("|") - 1) + "|", *(_line(r) for r in results)])


def _line(result: dict[str, Any]) -> str:
    peaks = (
        f"{result[f'{name}'] / 1e9:.1f} GB"
        for name in ("peak_bytes", "peak_bytes_predicted", "reserved_bytes")
    )
    cells = (
        f"{result['row']['gigabytes']} GB", result["row"]["way"], result["out_of_memory"] or "yes", *peaks,
        f"{result['seconds']:.2f}", f"{result['seconds_predicted']:.2f}",
        " ".join(f"`{key}`" for key in result["keys"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    given, at = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1 if given["scale"]["device"] == "cpu" else torch.get_num_threads())
    print(json.dumps(train_within(Row(**given["row"]), Scale(**given["scale"]), at)))
