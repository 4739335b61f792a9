"""Osler's fast path beside TRL, row by row of the table in `rows.py`.

    python -m benchmarks.fast_path [ROWS ...] [--out DIR] [--device cpu|cuda] [--repeats N]

ROWS are groups (update-g8, update-g4, update-nothink, rollout, step-think, step-nothink, memory, and on CUDA
equality and machines) or single rows; none means all. A row whose result lies in DIR already is not measured
again. Run from the repository's root, in the environment that `make bench` builds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.fast_path.measure import measure
from benchmarks.fast_path.results import environment, plot, read_all, table, verdicts, write
from benchmarks.fast_path.rows import SCALES, Row, Scale, rows_of
from benchmarks.fast_path.timing import free

NEEDED_BY_TRL = (
    "trl", "accelerate", "datasets", "dill", "multiprocess", "pyarrow", "pandas", "xxhash", "fsspec",
    "torchvision", "matplotlib",
)  # fmt: skip
NEEDED = {"machine": ("peft", "rich", "matplotlib")}


def run(row: Row, scale: Scale, out: Path) -> None:
    """Measure one row into `out`, unless it is there."""
    if (out / f"{row.name}.json").is_file():
        print(f"{row.name}: there already", file=sys.stderr, flush=True)
        return
    around = environment()
    print(f"{row.name}: measuring", file=sys.stderr, flush=True)
    found = measure(row, scale, out / "work")
    bars = dict(row.bars.get(scale.device, {}))
    reached = verdicts(found.get("ratios", {}), bars)
    head = {"row": asdict(row), "scale": asdict(scale), "bars": bars, "reached": reached}
    write(out, row.name, {**head, **found, "environment": around})


def missing(rows: Sequence[Row], device: str) -> list[str]:
    """What these rows need and this machine lacks."""
    needed = dict.fromkeys(name for row in rows for name in NEEDED.get(row.work, NEEDED_BY_TRL))
    lacking = [name for name in needed if find_spec(name) is None]
    compiles = device == "cuda" and "trl" in needed  # its kernels, and those of compiled decoding
    if compiles and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        lacking.append("a C compiler")
    return lacking


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("runs/fast_path"))
    parser.add_argument("--device", choices=sorted(SCALES), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    try:
        rows = [r for r in rows_of(arguments.rows) if arguments.device in r.bars]
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1 if arguments.device == "cpu" else torch.get_num_threads())
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    scale = replace(SCALES[arguments.device], repeats=arguments.repeats)
    pending = [row for row in rows if not (arguments.out / f"{row.name}.json").is_file()]
    if lacking := missing(pending, arguments.device):
        parser.error(f"these rows need what is not installed here: {', '.join(lacking)}")
    failed = []
    for row in rows:
        try:
            run(row, scale, arguments.out)
        except Exception:  # the other rows are worth their while; this one is given again
            traceback.print_exc()
            failed.append(row.name)
        free(arguments.device)
    results = read_all(arguments.out)
    print(table(results))
    plot([results], arguments.out / "ratios.svg")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
