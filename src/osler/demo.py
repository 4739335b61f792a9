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

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from osler.config import TrainConfig, load_config
from osler.evaluate.predictions import read_predictions
from osler.evaluate.run import BlindFit, Request, run_evaluation
from osler.evaluate.stats import mcnemar, paired_cluster_bootstrap
from osler.evaluate.summary import Row, Summary, cluster_of
from osler.phantom.benchmark import write_benchmark
from osler.records import Modality, Prediction
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
    comparison = compare(out, "zero_shot_think", "grpo_think")
    page = write_report([out / m.folder for m in MODELS], out / "report.html", TITLE)
    numbers = {
        "seed": seed,
        "seconds": time.monotonic() - started,
        "accuracy": {m.folder: _by_modality(summaries[m.folder]) for m in MODELS},
        "grpo_against_zero_shot": comparison,
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
        return run_evaluation(request, blind, progress=advance, note=console.print)


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


def compare(out: Path, before: str, after: str) -> dict[str, dict[str, float]]:
    """Per modality: accuracy difference with its paired interval, and McNemar's exact p."""
    first, second = (_predictions(out / folder) for folder in (before, after))
    found: dict[str, dict[str, float]] = {}
    for modality in TESTED:
        pairs = [(p, second[i]) for i, p in first.items() if p.modality is modality]
        a, b = (np.array([pair[k].correct for pair in pairs]) for k in (0, 1))
        clusters = [cluster_of(p) for p, _ in pairs]
        interval = paired_cluster_bootstrap(a, b, clusters)
        found[modality.value] = {
            "n": len(pairs),
            "difference": float(b.mean() - a.mean()),
            "low": interval.low,
            "high": interval.high,
            "mcnemar_exact_p": mcnemar(a, b).exact_p,
        }
    return found


def _predictions(run_folder: Path) -> dict[str, Prediction]:
    (path,) = (run_folder / "predictions").glob("*.jsonl")
    return {p.question_id: p for p in read_predictions(path).predictions}


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
            "chance": row.chance,
            "blind": row.blind_accuracy,
        }
        for row in _rows(summary)
    }


def result_table(summaries: dict[str, Summary]) -> Table:
    """Accuracy in % with 95 % interval for every model and modality, chance and blind baseline below."""
    any_rows = _rows(next(iter(summaries.values())))
    table = Table(title="Accuracy in % (95 % interval by image), unparsed counts as wrong")
    table.add_column("trained on 600 phantom MRI questions")
    for row in any_rows:
        table.add_column(f"{row.value} (n = {row.n})", justify="right")
    for model in MODELS:
        cells = [_cell(r) for r in _rows(summaries[model.folder])]
        table.add_row(model.label, *cells)
    table.add_section()
    table.add_row("chance", *[f"{100 * r.chance:.1f}" for r in any_rows])
    table.add_row("blind baseline (text only)", *[_blind_cell(r) for r in any_rows])
    return table


def _cell(row: Row) -> str:
    return f"{100 * row.accuracy:.1f} ({100 * row.interval.low:.1f}-{100 * row.interval.high:.1f})"


def _blind_cell(row: Row) -> str:
    return "not available" if row.blind_accuracy is None else f"{100 * row.blind_accuracy:.1f}"


def comparison_table(comparison: dict[str, dict[str, float]]) -> Table:
    table = Table(title="GRPO (think) minus zero-shot (think), the same questions")
    for name in ("tested on", "difference in points (95 % paired interval)", "McNemar exact p"):
        table.add_column(name, justify="right")
    for modality, c in comparison.items():
        low, high = 100 * c["low"], 100 * c["high"]
        p = c["mcnemar_exact_p"]
        table.add_row(
            modality,
            f"{100 * c['difference']:+.1f} ({low:+.1f} to {high:+.1f})",
            f"{p:.3f}" if p >= 0.001 else "< 0.001",
        )
    return table
