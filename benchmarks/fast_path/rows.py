"""The rows of the fast path's table: what is timed, at which sizes, and the bar it has to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KL_COEF = 0.04


@dataclass(frozen=True)
class Row:
    """One comparison. `bars`: by device, then by opponent: its cost over Osler's has to be at least this."""

    name: str
    rows: str  # the group that one command runs
    work: str  # update, rollout, step, memory, equality (no timing), or machine (no opponent)
    group_size: int
    image_tokens: int
    completion_tokens: int
    bars: Mapping[str, Mapping[str, float]]
    gigabytes: int = 0  # of a machine: the card's size, and the way of training (benchmarks/hardware.py)
    way: str = ""


def _trl(cpu: float, cuda: float) -> dict[str, dict[str, float]]:
    return {"cpu": {"trl": cpu}, "cuda": {"trl": cuda}}


def _machine(gigabytes: int, way: str) -> Row:
    name = f"machine-{gigabytes}"
    return Row(name, "machines", "machine", 8, 512, 150, {"cuda": {"card": 1.0}}, gigabytes, way)


ROLLOUT_CUDA = {"trl": 6.0, "static": 1.5}
ROWS = (
    Row("equality-g8-512", "equality", "equality", 8, 512, 150, {"cuda": {}}),
    Row("update-g8-196", "update-g8", "update", 8, 196, 150, _trl(4.5, 2.5)),
    Row("update-g8-512", "update-g8", "update", 8, 512, 150, _trl(7.0, 4.0)),
    Row("update-g4-196", "update-g4", "update", 4, 196, 150, _trl(3.0, 2.0)),
    Row("update-g4-512", "update-g4", "update", 4, 512, 150, _trl(4.0, 2.6)),
    Row("update-g8-512-nothink", "update-nothink", "update", 8, 512, 10, _trl(8.0, 6.0)),
    Row("rollout-g8-196", "rollout", "rollout", 8, 196, 150, {"cpu": {"trl": 2.0}, "cuda": ROLLOUT_CUDA}),
    Row("rollout-g8-512", "rollout", "rollout", 8, 512, 150, {"cpu": {"trl": 3.2}, "cuda": ROLLOUT_CUDA}),
    Row("step-g8-512-think", "step-think", "step", 8, 512, 150, _trl(4.5, 4.5)),
    Row("step-g8-512-nothink", "step-nothink", "step", 8, 512, 10, _trl(6.0, 5.5)),
    Row("memory-g8-512", "memory", "memory", 8, 512, 150, _trl(3.0, 3.0)),
    _machine(12, "LoRA, KL on"),
    _machine(24, "full, KL off"),
    _machine(32, "full, KL on"),
)
GROUPS = tuple(dict.fromkeys(row.rows for row in ROWS))


@dataclass(frozen=True)
class Scale:
    """The machine's side of a row: which model, how many questions per step, which precision."""

    device: str  # cpu or cuda
    questions: int  # per step
    precision: str  # fp32, or bf16 (products in bf16)
    master_weights: bool = True  # of Osler, in fp32; otherwise in bf16 as TRL tuned has them
    hidden: int = 0  # of the tiny model; 0 means random weights in Qwen2-VL-2B's shape
    layers: int = 0
    text_tokens: int = 100  # of the prompt, next to the image's
    repeats: int = 5


SCALES = {
    "cpu": Scale("cpu", questions=2, precision="fp32", hidden=256, layers=4),
    "cuda": Scale("cuda", questions=8, precision="bf16", master_weights=False),
}


def rows_of(names: list[str]) -> tuple[Row, ...]:
    """Rows by group or by own name, in the table's order; no names means all of them.

    Raises ValueError for a name that is neither.
    """
    known = {*GROUPS, *(row.name for row in ROWS)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown rows {', '.join(unknown)}; groups: {', '.join(GROUPS)}")
    return tuple(row for row in ROWS if not names or row.name in names or row.rows in names)
