"""Figures that the papers published, as data with source and mark; never mixed with measured ones."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("published.toml")
PERCENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published row. Fractions of 1, as every number here; the file has the papers' percentages."""

    paper: str  # "medvlm_r1" or "med_r1"
    label: str
    axis: str  # "modality" or "question_type"
    kind: str  # "accuracy" or "difference"
    source: str
    row: str = ""  # the row of our study that it belongs beside; "" where ours has none
    against: str = ""  # of a difference: the row that it is taken against
    on: str = ""  # what it was trained on; "" where that is one thing or an average
    values: Mapping[str, float] = field(default_factory=dict)  # by column
    mean: float | None = None
    n: int | None = None  # questions per column
    recalled: bool = False  # from memory, not confirmed in any source at hand

    @property
    def mark(self) -> str:
        return "[RECALLED]" if self.recalled else ""


@cache
def published_figures() -> tuple[Published, ...]:
    """All of them, in the file's order."""
    rows = tomllib.loads(_FILE.read_text(encoding="utf-8"))["figures"]
    return tuple(
        Published(
            **{
                **row,
                "values": {key: value / PERCENT for key, value in row.get("values", {}).items()},
                "mean": row["mean"] / PERCENT if "mean" in row else None,
            }
        )
        for row in rows
    )


def published_for(paper: str, axis: str) -> tuple[Published, ...]:
    """What one paper published about one axis."""
    return tuple(one for one in published_figures() if one.paper == paper and one.axis == axis)
