"""Training curves of a study: one panel per metric and kind of model, one line per training set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from osler.report.curves import SERIES, Level, Panel, draw_panel, validation_panel
from osler.report.runs import read_run
from osler.study.effects import lines_of, pooled
from osler.study.results import Line, StudyResults

# What a reader of a GRPO run wants to see first, in this order.
_WANTED: Mapping[str, tuple[str, str, bool]] = {
    "reward/accuracy": ("Accuracy reward", "training accuracy of sampled completions", True),
    "reward/format": ("Format reward", "", True),
    "completion/length_mean": ("Completion length", "tokens", False),
    "completion/unparsed_frac": ("Unparsed completions", "the parse rate is 1 minus this", True),
    "group/zero_variance_frac": ("Zero-variance groups", "share of groups that teach nothing", True),
    "loss/kl": ("KL to the start of training", "nats per token", False),
    "entropy/mean": ("Entropy", "nats per completion token", False),
    "ratio/clipped_frac": ("Clipped ratios", "0 while on-policy", True),
    "loss/total": ("Loss", "", False),
}
_SFT_ONLY = ("loss/total",)


def study_curves(results: StudyResults) -> list[tuple[str, list[Panel]]]:
    """(label of the row, its panels) of every row that was trained; the first seed of each training set."""
    found = []
    for row, spec in results.study.chosen_rows.items():
        lines = [line for line in lines_of(results, row) if line.training is not None]
        first = {line.on: line for line in reversed(lines)}
        chosen = [first[on] for on in results.study.train_on if on in first]
        panels = list(_panels(results, row, chosen))
        if panels:
            found.append((spec.label, panels))
    return found


def _panels(results: StudyResults, row: str, lines: Sequence[Line]) -> Iterator[Panel]:
    runs = {
        line.on.replace("_", " "): read_run(line.name, line.training.folder)
        for line in lines
        if line.training is not None
    }
    is_grpo = any("reward/accuracy" in run.metrics for run in runs.values())
    for number, part in enumerate(_parts(list(runs), len(SERIES))):
        key = f"{row}-{number}"
        if len(runs) == 1:
            (run,) = runs.values()
            panel = validation_panel(run.metrics, _levels(run.validation), key)
            yield from [panel] if panel is not None else []
        for name, (title, note, fraction) in _WANTED.items():
            shown = {on: runs[on].metrics[name] for on in part if name in runs[on].metrics}
            if not shown or (is_grpo and name in _SFT_ONLY):
                continue
            levels = _in_domain_levels(results, lines) if name == "reward/accuracy" else []
            yield draw_panel(title, "step", shown, key, note=note, fraction=fraction, levels=levels)


def _parts(names: Sequence[str], most: int) -> Iterator[list[str]]:
    """Equal parts of at most `most`."""
    number = -(-len(names) // most)
    size = -(-len(names) // max(1, number))
    rest = iter(names)
    while part := list(islice(rest, size)):
        yield part


def _levels(validation: Mapping[str, Mapping]) -> dict[str, list[Level]]:
    marks = {"chance": "chance", "blind_accuracy": "blind baseline"}
    return {
        name: [
            Level(f"{name}: {word}", facts[key]) for key, word in marks.items() if facts.get(key) is not None
        ]
        for name, facts in validation.items()
    }


def _in_domain_levels(results: StudyResults, lines: Sequence[Line]) -> list[Level]:
    one = pooled(results, lines, "in")
    if one is None:
        return []
    blind = [Level("blind baseline, in-domain test", one.blind)] if one.blind is not None else []
    return [Level("chance", one.chance), *blind]
