"""Memory and seconds of Qwen2-VL-2B by GPU size, predicted: the table of docs/hardware.md.

    python benchmarks/hardware.py [--json]

G = 8, images of 512 tokens, 100 text tokens, completions of 150 tokens, 8 questions per step. For every card
and way of training it takes the first of STEPS, the fastest first, whose predicted peak fits with one GiB
left for driver and gaps. Cards are counted with 10^9 bytes to the GB, which is a little less than they have.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

from osler.config import TrainConfig, load_config
from osler.costs.memory import predict_memory
from osler.costs.seconds import Ceilings, predict_seconds
from osler.costs.shape import QWEN2_VL_2B
from osler.costs.workload import workload

DRIVER_BYTES = 2**30
CALL_SECONDS = 3e-6  # [RECALLED] of one kernel in a captured graph


@dataclass(frozen=True)
class Card:
    """A card of a size; operations per second in bf16 without sparsity, from data sheets [RECALLED]."""

    gigabytes: int
    name: str
    flops_per_second: float
    bytes_per_second: float


CARDS = (
    Card(12, "RTX 3060", 51e12, 360e9),
    Card(16, "RTX 4060 Ti", 88e12, 288e9),
    Card(24, "RTX 4090", 165e12, 1008e9),
    Card(32, "RTX 5090", 209e12, 1792e9),
    Card(48, "L40S", 362e12, 864e9),
    Card(80, "H100 SXM", 989e12, 3350e9),
    Card(141, "H200", 989e12, 4800e9),
)
BF16_WEIGHTS = ("model.precision=bf16", "model.master_weights=false")
WAYS = {
    "LoRA, KL on": (*BF16_WEIGHTS, "model.lora_rank=16"),
    "full, KL off": (*BF16_WEIGHTS, "grpo.kl_coef=0"),
    "full, KL on": BF16_WEIGHTS,
}
STEPS: tuple[tuple[str, ...], ...] = (
    ("model.microbatch_tokens=8192",),
    ("model.microbatch_tokens=4096",),
    ("model.microbatch_tokens=8192", "model.gradient_checkpointing=true"),
    ("model.microbatch_tokens=2048", "model.gradient_checkpointing=true"),
    ("model.microbatch_tokens=2048", "model.gradient_checkpointing=true", "grpo.offload_reference=true"),
)


@dataclass(frozen=True)
class Row:
    """One cell of the table: `peak_bytes` is 0 and `keys` empty where nothing fits."""

    way: str
    card: str
    gigabytes: int
    keys: tuple[str, ...] = ()
    peak_bytes: int = 0
    seconds: float = 0.0


def configured(keys: tuple[str, ...]) -> TrainConfig:
    sizes = ("grpo.group_size=8", "grpo.max_completion_tokens=150", "grpo.questions_per_step=8")
    return load_config("medvlm_r1_mri", [*sizes, *keys])


def predicted_row(way: str, card: Card) -> Row:
    for step in STEPS:
        if "grpo.offload_reference=true" in step and way != "full, KL on":
            continue
        keys = (*WAYS[way], *step)
        config = configured(keys)
        load = workload(config, QWEN2_VL_2B.tower)
        peak = predict_memory(config, QWEN2_VL_2B, load).peak
        if peak + DRIVER_BYTES <= card.gigabytes * 10**9:
            machine = Ceilings(card.flops_per_second, card.bytes_per_second, CALL_SECONDS)
            seconds = predict_seconds(config, QWEN2_VL_2B, load, machine)["time/step"]
            return Row(way, card.name, card.gigabytes, keys, peak, seconds)
    return Row(way, card.name, card.gigabytes)


def rows() -> list[Row]:
    return [predicted_row(way, card) for way in WAYS for card in CARDS]


def table(found: list[Row]) -> str:
    lines = [
        "| GPU | way | peak of tensors, predicted | seconds per step, predicted | keys besides |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        name = f"{row.gigabytes} GB ({row.card})"
        if not row.keys:
            lines.append(f"| {name} | {row.way} | does not fit | | |")
            continue
        own = " ".join(f"`{key}`" for key in row.keys if key not in WAYS[row.way])
        lines.append(f"| {name} | {row.way} | {row.peak_bytes / 1e9:.1f} GB | {row.seconds:.1f} | {own} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    found = rows()
    print(json.dumps([asdict(r) for r in found]) if parser.parse_args().json else table(found))


if __name__ == "__main__":
    main()
