"""Results as JSON with the command and versions beside them, and as tables and plots.

python -m benchmarks.fast_path.results DIR [DIR ...]    # each run's table, one plot into the first
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.fast_path import machines
from benchmarks.fast_path.rows import ROWS

PACKAGES = ("osler", "torch", "transformers", "trl", "accelerate", "datasets", "torchvision", "numpy")
RUN_COLOURS = ("#8fb3d3", "#c3d6e8", "#e3b48f", "#f3dcc8", "#b5c99a")
HEAD = "| row | TRL, default / tuned | Osler | ratio | bar | floor | its share | max Δlogp | rel. Δgradient |"


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def verdicts(ratios: dict[str, float], bars: dict[str, float]) -> dict[str, bool]:
    """Per opponent that has a bar: whether it is reached."""
    return {name: ratios[name] >= bar for name, bar in bars.items() if name in ratios}


def write(out: Path, name: str, result: dict[str, Any]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    os.replace(partial, path)
    return path


def read_all(out: Path) -> list[dict[str, Any]]:
    """Results of a folder in the order of the table."""
    paths = (out / f"{row.name}.json" for row in ROWS)
    return [json.loads(p.read_text(encoding="utf-8")) for p in paths if p.is_file()]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a line per row; machines, which have no opponent, in a table of their own."""
    alone = [r for r in results if r["row"].get("work") == "machine"]
    duels = [r for r in results if r not in alone]
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|", *map(_line, duels)] if duels else []
    return "\n".join(lines + ([""] if duels and alone else []) + ([machines.table(alone)] if alone else []))


def _line(result: dict[str, Any]) -> str:
    duels = result.get("duels", [])
    theirs = " / ".join(f"{d['median_theirs']:.2f} s" for d in duels)
    ours = f"{result['median_ours']:.2f} s" if duels else ""
    if "bytes" in result:
        theirs, ours = (f"{median(result['bytes'][side]) / 2**20:.0f} MiB" for side in ("trl", "osler"))
    floor = result.get("floor")
    seconds, share = (
        (f"{floor['seconds']:.2f} s", f"{100 * floor['share_reached']:.0f} %") if floor else ("", "")
    )
    equal = list(result.get("equality", {}).values())
    logprob = max((e["logprob"] for e in equal if "logprob" in e), default=None)
    gradient = max((e["gradient"] for e in equal if "gradient" in e), default=None)
    ratios = ", ".join(_named(name, value) for name, value in result.get("ratios", {}).items())
    bars = ", ".join(_named(name, value) for name, value in result["bars"].items())
    cells = (
        result["row"]["name"], theirs, ours, ratios, bars, seconds, share,
        "" if logprob is None else f"{logprob:.1e}", "" if gradient is None else f"{gradient:.1e}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _named(name: str, value: float) -> str:
    return f"{value:.2f}x" if name == "trl" else f"{name} {value:.2f}x"


def plot(runs: Sequence[list[dict[str, Any]]], path: Path) -> None:
    """A bar per row and run: what TRL's fastest variant costs over Osler. Black: what it has to reach."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    measured = [{r["row"]["name"]: r for r in run if "trl" in r.get("ratios", {})} for run in runs]
    names = [row.name for row in ROWS if any(row.name in run for run in measured)]
    thickness = 0.8 / len(runs)
    figure, axes = pyplot.subplots(figsize=(7, max(0.5, 0.2 * len(runs)) * len(names) + 1))
    for i, run in enumerate(measured):
        places = []
        for name in run:
            among = [j for j, other in enumerate(measured) if name in other]
            places.append(names.index(name) + (among.index(i) + 0.5 - len(among) / 2) * thickness)
        bars = axes.barh(
            places,
            [r["ratios"]["trl"] for r in run.values()],
            height=thickness,
            color=RUN_COLOURS[i % len(RUN_COLOURS)],
            label=f"run {i + 1}",
        )
        axes.bar_label(bars, fmt="%.2f", label_type="center", fontsize=8)
    for place, name in enumerate(names):
        bar = next(run[name]["bars"].get("trl") for run in measured if name in run)
        if bar is not None:
            axes.plot([bar] * 2, [place - 0.45, place + 0.45], color="black", linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.margins(x=0.08)
    axes.invert_yaxis()
    axes.set_xlabel("cost of TRL 1.16.0 over Osler's (black: the bar to reach)")
    if len(runs) > 1:
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main(folders: list[Path]) -> None:
    runs = [read_all(folder) for folder in folders]
    print(*(f"{folder}\n\n{table(run)}" for folder, run in zip(folders, runs, strict=True)), sep="\n\n")
    plot(runs, folders[0] / "ratios.svg")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
