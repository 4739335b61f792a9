"""The main job in miniature: MedVLM-R1's experiment on phantom data, from drawing to report.

Zero-shot, SFT and GRPO on 600 phantom MRI questions, tested on MRI (in-domain), CT and X-ray (out of
domain), as in arXiv 2502.19634. The training seed varies; data and test set stay the same, so runs of
several seeds can be put side by side. What a model of two million parameters learns from drawings says
nothing about medicine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from osler.config import TrainConfig, load_config
from osler.evaluate.compare import Comparison, Contrast, compare_runs
from osler.evaluate.printed import p_value, percent, percent_range, points, points_range
from osler.evaluate.run import BlindFit, Request, run_evaluation
from osler.evaluate.summary import Row, Summary
from osler.phantom.benchmark import write_benchmark
from osler.records import Modality
from osler.report.page import write_report
from osler.train.run import train, training_questions
from osler.train.schedule import num_slots

DATA_SEED = 2025
TESTED = (Modality.MRI, Modality.CT, Modality.XRAY)
MAX_COMPLETION_TOKENS = 48
TITLE = "MedVLM-R1 in miniature, on phantom data"


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    images: int = 900  # per modality: 540 to train from, 90 for validation, 270 (540 questions) to test on
    num_questions: int = 600  # to train on, as in the paper
    epochs: float = 2.0


@dataclass(frozen=True)
class Model:
    """One row of the table."""

    folder: str
    label: str
    template: str
    recipe: str = ""  # "" for zero-shot
    same_steps: bool = False  # as many optimizer steps as GRPO, not as many question visits


MODELS = (
    Model("zero_shot_think", "zero-shot, think", "think"),
    Model("zero_shot_nothink", "zero-shot, nothink", "nothink"),
    Model("sft_visits", "SFT, as many question visits", "nothink", "sft_phantom_medvlm_r1_mri"),
    Model("sft_steps", "SFT, as many optimizer steps", "nothink", "sft_phantom_medvlm_r1_mri", True),
    Model("grpo_think", "GRPO, think", "think", "phantom_medvlm_r1_mri"),
)


def run(out: Path, seed: int = 0, size: Size | None = None) -> dict[str, Any]:
    """Draw, train, test, compare and report into `out`; prints the table to stderr as it is found.

    Interrupted, the same call goes on where it stopped. Returns the numbers.
    """
    size = size or Size()
    console = Console(stderr=True)
    started = time.monotonic()
    data = out / "data"
    if not data.exists():
        with _bar(console, "drawing phantom MRI, CT and X-ray") as advance:
            write_benchmark(data, size.images, DATA_SEED, modalities=TESTED, progress=advance)
    summaries: dict[str, Summary] = {}
    for model in MODELS:
        console.rule(model.label)
        summaries[model.folder] = _train_and_test(model, out, config_of(model, data, seed, size), console)
    (comparison,) = compare_runs(out / "zero_shot_think", out / "grpo_think")
    folders = [out / m.folder for m in MODELS]
    page = write_report(folders, out / "report.html", TITLE, comparisons=[comparison])
    numbers = {
        "seed": seed,
        "seconds": time.monotonic() - started,
        "accuracy": {m.folder: _by_modality(summaries[m.folder]) for m in MODELS},
        "grpo_against_zero_shot": comparison_to_json(comparison),
        "report": str(page.path),
    }
    console.print(result_table(summaries))
    console.print(comparison_table(comparison))
    console.print(
        "Phantom images drawn by this program and a model of two million parameters: no medical performance. "
        "Research use only, not a medical device."
    )
    console.print(f"Report with curves, images and reasoning: {page.path}", soft_wrap=True)
    return numbers


def _train_and_test(model: Model, out: Path, config: TrainConfig, console: Console) -> Summary:
    run_folder = out / model.folder
    if model.recipe and not _is_trained(run_folder):
        train(config, run_folder, resume=(run_folder / "config.json").is_file())
    request = Request(
        model=str(run_folder) if model.recipe else config.model.path,
        data=str(out / "data" / "test"),
        out=run_folder,
        template=model.template,
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        max_pixels=config.model.max_pixels,
        batch_size=128,
    )
    blind = BlindFit(name="the MRI training questions", questions=training_questions(config.data))
    with _bar(console, "testing") as advance:
        return run_evaluation(request, blind, progress=advance, note=console.print).summary


@contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(*Progress.get_default_columns(), console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def config_of(model: Model, data: Path, seed: int, size: Size) -> TrainConfig:
    """The recipe of one row on these data; a zero-shot row has GRPO's, for its pixel bounds and questions."""
    overrides = [
        f'data.train="{data / "train"}"',
        f"data.num_questions={size.num_questions}",
        f"template={model.template}",
        f"seed={seed}",
        f"grpo.epochs={size.epochs}",
        f"sft.epochs={size.epochs}",
    ]
    if model.recipe.startswith("phantom"):
        for modality in TESTED:
            where = f"validation.sets.{modality.value}"
            overrides += [f'{where}.data="{data / "validation"}"', f'{where}.modality=["{modality.value}"]']
        overrides.append(f"validation.every_questions={size.num_questions * 2 // 3}")
    config = load_config(model.recipe or "phantom_medvlm_r1_mri", overrides)
    if not model.same_steps:
        return config
    steps = num_slots(size.num_questions, config.grpo.questions_per_step, size.epochs)
    return replace(config, sft=replace(config.sft, max_steps=steps))


def _is_trained(run_folder: Path) -> bool:
    path = run_folder / "summary.json"
    return path.is_file() and "training" in json.loads(path.read_text(encoding="utf-8"))


def comparison_to_json(comparison: Comparison) -> dict[str, dict[str, float | None]]:
    """Per modality: accuracy difference with its paired interval, p values, what could have been found."""
    return {
        c.value: {
            "n": c.a.n,
            "difference": c.difference,
            "low": c.interval.low,
            "high": c.interval.high,
            "mcnemar_exact_p": c.table.exact_p,
            "p_by_image": c.cluster_p,
            "minimal_detectable_difference": c.detectable,
        }
        for c in _contrasts(comparison)
    }


def _contrasts(comparison: Comparison) -> list[Contrast]:
    by_modality = {c.value: c for c in comparison.groups if c.scope == "modality"}
    return [by_modality[m.value] for m in TESTED]


def _rows(summary: Summary) -> list[Row]:
    by_value = {r.value: r for r in summary.groups if r.scope == "modality"}
    return [by_value[m.value] for m in TESTED]


def _by_modality(summary: Summary) -> dict[str, dict[str, float | None]]:
    return {
        row.value: {
            "n": row.n,
            "accuracy": row.accuracy,
            "low": row.interval.low,
            "high": row.interval.high,
            "parse_rate": row.parse_rate,
            "parsed_accuracy": row.parsed_accuracy,
            "chance": row.chance,
            "blind": row.blind_accuracy,
        }
        for row in _rows(summary)
    }


def result_table(summaries: dict[str, Summary]) -> Table:
    """Accuracy in % with 95 % interval for every model and modality, chance and blind baseline below.

    The second line of a cell: the share of answers that could be read, and the accuracy among them.
    """
    first = next(iter(summaries.values()))
    any_rows = _rows(first)
    table = Table(title="Accuracy in % (95 % interval by image)", box=SIMPLE_HEAD, pad_edge=False)
    table.caption = "unparsed counts as wrong; second line: parsed %, accuracy among the parsed %"
    table.add_column("trained on 600 phantom\nMRI questions", overflow="fold")
    for row in any_rows:
        table.add_column(f"{row.value}\n(n = {row.n})", justify="right", no_wrap=True)
    for model in MODELS:
        table.add_row(model.label, *[_cell(r) for r in _rows(summaries[model.folder])])
    table.add_section()
    table.add_row("chance", *[percent(r.chance) for r in any_rows])
    table.add_row("blind baseline (text only)", *[_blind_cell(r) for r in any_rows])
    return table


def _cell(row: Row) -> str:
    return (
        f"{percent(row.accuracy)} ({percent_range(row.interval)})\n"
        f"[dim]{percent(row.parse_rate)}, {percent(row.parsed_accuracy)}[/dim]"
    )


def _blind_cell(row: Row) -> str:
    if row.blind_interval is None:
        return "not fitted"
    return f"{percent(row.blind_accuracy)} ({percent_range(row.blind_interval)})"


def comparison_table(comparison: Comparison) -> Table:
    """GRPO against zero-shot, question by question, per modality."""
    table = Table(title="GRPO (think) minus zero-shot (think), in points", box=SIMPLE_HEAD, pad_edge=False)
    table.caption = "the same questions; MDD: the true difference so many questions find with 80 % power"
    for name in ("tested on", "difference (95 % interval)", "McNemar p", "by image, Holm", "MDD"):
        table.add_column(name, justify="right")
    for c in _contrasts(comparison):
        table.add_row(
            c.value,
            f"{points(c.difference)} ({points_range(c.interval)})",
            p_value(c.table.exact_p),
            p_value(c.holm_p),
            "none" if c.detectable is None else f"{100 * c.detectable:.1f}",
        )
    return table
