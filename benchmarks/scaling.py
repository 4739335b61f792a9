"""Time and memory of Osler's rollout and update against group size, image, completion length and prompts.

    python -m benchmarks.scaling [--out DIR] [--repeats N] [SWEEP ...]

SWEEP: group_size, image_tokens, completion_tokens, questions; none means all. The tiny model, one thread,
from the repository's root in the ordinary environment. A point whose result lies in DIR (runs/scaling) is not
measured again; the middle of all sweeps is measured once. About 16 minutes of one core in all. Each sweep
gives a plot (seconds with their floor, useful operations by part, memory), a table that says at every point
how steeply seconds, floor and memory grow since the point before (1: in proportion), and a line on where the
cost grows and why.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.fast_path import osler_side
from benchmarks.fast_path.case import Case, make_case
from benchmarks.fast_path.floor import shape_of, useful_flops
from benchmarks.fast_path.memory import bytes_in_own_process
from benchmarks.fast_path.results import environment, write
from benchmarks.fast_path.rows import SCALES, Row, Scale
from benchmarks.fast_path.timing import clock_of, median, take_turns
from osler.ceilings import matmul_ceiling
from osler.costs.flops import causal_pairs, decoder_flops, head_flops, tower_flops

MIDDLE = {"group_size": 8, "image_tokens": 196, "completion_tokens": 150, "questions": 2}
SWEEPS = {
    "group_size": (2, 4, 8, 16, 32),
    "image_tokens": (64, 128, 256, 512, 1024),
    "completion_tokens": (10, 40, 150, 300, 600),
    "questions": (1, 2, 4, 8),
}
WHY = {
    "group_size": "Image and prompt are computed once per question, so only completions and their head grow "
    "with the group; decoding takes its rows in the same steps.",
    "image_tokens": "An image token is four patches of the tower, each of which attends to the whole image, "
    "and one token of the prompt; completions only read more keys.",
    "completion_tokens": "A token is one more decoding step, whose many small operations take longer to "
    "start than to compute and which reads all tokens before it, and in the update one more position of "
    "every completion.",
    "questions": "Every part is paid per question, but decoding takes all rows in the same steps.",
}
OF_MEMORY = (
    "Memory is that of one micro-batch (model.microbatch_tokens): "
    "it grows until a step no longer fits into one."
)

PART_COLOURS = ("#7a9cc0", "#b8cbe0", "#d99a6c", "#f0d0b0")


def measure_point(sizes: dict[str, int], scale: Scale, folder: Path) -> dict[str, Any]:
    """Seconds of rollout and update, peak bytes of the update, useful operations by part."""
    group_size, image_tokens, tokens = (sizes[k] for k in ("group_size", "image_tokens", "completion_tokens"))
    row = Row("point", "scaling", "update", group_size, image_tokens, tokens, bars={})
    scale = replace(scale, questions=sizes["questions"])
    case = make_case(row, scale, folder)
    rollout, update = osler_side.build(case), osler_side.build_update(case)
    rollout.rollout()
    update.update()
    works = {"rollout": rollout.rollout, "update": update.update}
    seconds = {
        name: median(runs, scale.device)
        for name, runs in take_turns(works, scale.repeats, scale.device).items()
    }
    flops = useful_flops(case)
    ceiling = matmul_ceiling(scale.device, torch.float32, clock=clock_of(scale.device))
    return {
        "sizes": sizes,
        "seconds": seconds,
        "floor_seconds": {
            "rollout": flops.rollout / ceiling,
            "update": (flops.useful - flops.rollout) / ceiling,
        },
        "bytes": bytes_in_own_process("osler", row, scale, folder),
        "operations": operations(case),
        "environment": environment(),
    }


def operations(case: Case) -> dict[str, int]:
    """Useful operations of one forward over all questions, by part."""
    shape, row = shape_of(case), case.row
    prompt, inputs = row.image_tokens + case.scale.text_tokens, row.completion_tokens - 1
    one = sum(decoder_flops(shape, inputs, causal_pairs(inputs, before=prompt)))
    parts = {
        "tower": sum(tower_flops(shape.tower, row.image_tokens * shape.tower.merge)),
        "prompt": sum(decoder_flops(shape, prompt, causal_pairs(prompt))),
        "completions": row.group_size * one,
        "head": head_flops(shape, row.group_size * row.completion_tokens),
    }
    return {name: case.scale.questions * flops for name, flops in parts.items()}


def steepness(before: float, after: float, growth: float) -> float:
    """Exponent p where the value grew as growth^p."""
    return math.log(after / before) / math.log(growth)


def table(name: str, points: list[dict[str, Any]]) -> str:
    """Markdown, a line per point."""
    lines = [
        f"| {name} | rollout s (floor) | update s (floor) | update MiB | tower / prompt / completions / head "
        "| growth: rollout, update, their floors, memory |",
        "|---|---|---|---|---|---|",
    ]
    for i, p in enumerate(points):
        cells = [f"{p['seconds'][w]:.2f} ({p['floor_seconds'][w]:.2f})" for w in ("rollout", "update")]
        parts = _percentages(p["operations"].values())
        grown = growth(points[i - 1], p, name) if i else ""
        lines.append(
            f"| {p['sizes'][name]} | {cells[0]} | {cells[1]} | {p['bytes'] / 2**20:.0f} | {parts} | {grown} |"
        )
    return "\n".join(lines)


def _percentages(values: Iterable[float]) -> str:
    parts = list(values)
    return " / ".join(f"{100 * part / sum(parts):.0f} %" for part in parts)


def where(name: str, points: list[dict[str, Any]]) -> str:
    """From the first point to the last: how much everything grew, and which operations were added."""
    first, last = points[0], points[-1]
    grown = {
        f"{work}{of}": last[kind][work] / first[kind][work]
        for work in ("rollout", "update")
        for kind, of in (("seconds", ""), ("floor_seconds", "'s floor"))
    }
    grown["memory of the update"] = last["bytes"] / first["bytes"]
    factors = ", ".join(f"{what} x{factor:.1f}" for what, factor in grown.items())
    added = {part: last["operations"][part] - first["operations"][part] for part in first["operations"]}
    return (
        f"{name} x{last['sizes'][name] / first['sizes'][name]:g}: {factors}. Operations added: "
        f"{' / '.join(added)} {_percentages(added.values())}. {WHY[name]} {OF_MEMORY}"
    )


def growth(before: dict[str, Any], after: dict[str, Any], name: str) -> str:
    factor = after["sizes"][name] / before["sizes"][name]
    pairs = [(before[k][w], after[k][w]) for k in ("seconds", "floor_seconds") for w in ("rollout", "update")]
    pairs.append((before["bytes"], after["bytes"]))
    return ", ".join(f"{steepness(a, b, factor):.2f}" for a, b in pairs)


def plot(name: str, points: list[dict[str, Any]], path: Path) -> None:
    """Seconds with their floors on logarithmic axes; operations by part, and memory, on plain ones."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    x = [p["sizes"][name] for p in points]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.8))
    for work, colour in (("rollout", "#c06030"), ("update", "#4878a8")):
        left.plot(x, [p["seconds"][work] for p in points], "o-", color=colour, label=work)
        left.plot(x, [p["floor_seconds"][work] for p in points], ":", color=colour, label=f"{work}, floor")
    parts = {part: [p["operations"][part] / 1e9 for p in points] for part in points[0]["operations"]}
    middle.stackplot(x, list(parts.values()), labels=list(parts), colors=PART_COLOURS)
    right.plot(x, [p["bytes"] / 2**20 for p in points], "o-", color="#4878a8", label="update")
    label = name.replace("_", " ")
    left.set(xlabel=label, ylabel="seconds per step", xscale="log", yscale="log", xticks=x)
    left.set_xticklabels([str(v) for v in x])
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    left.minorticks_off()
    middle.set(xlabel=label, ylabel="GFLOP of one forward", xlim=(0, x[-1]), ylim=(0, None))
    right.set(xlabel=label, ylabel="peak MiB beyond weights\nand gradients", xlim=(0, None), ylim=(0, None))
    for axes in (left, middle, right):
        axes.legend(fontsize=8, loc="upper left")
    figure.suptitle(f"{WHY[name]}\n{OF_MEMORY}", fontsize=8, wrap=True)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    unknown = set(arguments.sweeps) - set(SWEEPS)
    if unknown:
        parser.error(f"unknown sweeps {', '.join(sorted(unknown))}; there are {', '.join(SWEEPS)}")
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    scale = replace(SCALES["cpu"], repeats=arguments.repeats)
    for name in arguments.sweeps or SWEEPS:
        points = []
        for value in SWEEPS[name]:
            sizes = {**MIDDLE, name: value}
            path = arguments.out / f"{'_'.join(f'{what[0]}{size}' for what, size in sizes.items())}.json"
            if not path.is_file():
                found = measure_point(sizes, scale, arguments.out / "work")
                write(arguments.out, path.stem, {"scale": asdict(scale), **found})
            points.append(json.loads(path.read_text(encoding="utf-8")))
        print(table(name, points), where(name, points), sep="\n\n", end="\n\n", flush=True)
        plot(name, points, arguments.out / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
