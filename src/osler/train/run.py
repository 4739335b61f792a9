"""`osler grpo` and `osler sft`: from a recipe to a finished run folder."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from osler import checkpoint as checkpoints
from osler.config import DataConfig, ModelConfig, TrainConfig, load_config, to_json
from osler.data.digest import questions_digest
from osler.data.load import load_questions
from osler.data.without import leave_out
from osler.errors import BadInput
from osler.policy.load import checkpoint_folder, model_digest
from osler.prompts import get_template
from osler.records import Question
from osler.rewards import build_rubric
from osler.runtime import World, process_world
from osler.tracking import write_json
from osler.train.grpo.trainer import GrpoMethod
from osler.train.loop import (
    Learner,
    TrainingLoop,
    build_learner,
    check_resumable,
    frozen_copy,
    product_ceiling,
)
from osler.train.sft import ExamplesAt, SftMethod, answer_examples, baseline_steps
from osler.train.validation import ValidationSet, validated_from_json, write_facts

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "pillow", "scikit-learn")


def run_recipe(
    method: str, recipe: str | Path, out: Path, overrides: Sequence[str] = (), resume: bool = False
) -> dict[str, Any]:
    """Train a recipe with `method` ("grpo" or "sft") into the run folder `out`; returns its summary.

    Raises BadInput for a recipe of the other method, bad data, or a folder already in use.
    """
    config = load_config(recipe, overrides)
    if config.method != method:
        raise BadInput(f"recipe {recipe} is for osler {config.method}, not osler {method}")
    return train(config, out, resume=resume)


def describe(summary: Mapping[str, Any]) -> str:
    """What a finished training says for itself."""
    best = summary["best"]
    lines = [
        f"{summary['method']}, template {summary['template']}: {summary['steps']} steps, "
        f"{summary['question_visits']} question visits, {summary['final_checkpoint']}"
    ]
    if best is not None:
        validated = validated_from_json({key: value for key, value in best.items() if key != "step"})
        lines.append(f"best: step {best['step']}, {validated}")
    return "\n".join(lines)


def train(config: TrainConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train the questions of `config.data` into `out`."""
    questions = training_questions(config.data, note=lambda text: print(text, file=sys.stderr))
    if config.method == "grpo" and config.grpo.questions_per_step > len(questions):
        raise BadInput(
            f"grpo.questions_per_step is {config.grpo.questions_per_step}, but only "
            f"{len(questions)} questions were found; lower it"
        )
    template = get_template(config.template)
    if config.method == "sft" and template.thinks:
        raise BadInput(
            f"template {template.name} needs reasoning to learn from; osler sft takes template=nothink"
        )
    examples_at = answer_examples(
        questions, template, config.sft.batch_size, config.seed, config.data.permute_choices
    )
    return train_on(config, out, questions, examples_at, baseline_steps(config, len(questions)), resume)


def train_on(
    config: TrainConfig,
    out: Path,
    questions: Sequence[Question],
    examples_at: ExamplesAt,
    num_sft_steps: int,
    resume: bool = False,
) -> dict[str, Any]:
    """Train on questions already at hand; SFT takes its examples from `examples_at`."""
    validation = validation_sets(config)
    template = get_template(config.template)
    with process_world() as world, _RunLock(out, world):
        resumed = _open_run(config, out, resume, world)
        learner = build_learner(config, out, world, resumed)
        if resumed is not None:
            _refuse_changed_inputs(config, out, questions)
        elif world.is_main:
            _write_environment(config, out, questions, learner, world)
            write_facts(out, questions, validation)
        method: GrpoMethod | SftMethod
        if config.method == "grpo":
            rubric = build_rubric(config.rewards)
            reference = reference_model(config, out, learner, world, resumed)
            method = GrpoMethod(config, world, learner, questions, template, rubric, reference)
        else:
            method = SftMethod(config, world, learner, examples_at, num_sft_steps)
        return TrainingLoop(config, out, world, learner, method, template, validation, resumed).train()


def reference_model(
    config: TrainConfig, out: Path, learner: Learner, world: World, resumed: checkpoints.Restored | None
) -> Any:
    """The frozen start of training: a copy of it, loaded afresh where the run goes on from later weights."""
    if config.grpo.kl_coef == 0 or learner.adapter is not None:
        return None
    if resumed is None:
        return frozen_copy(learner.policy)
    return frozen_copy(build_learner(config, out, world, None).policy)


def training_questions(data: DataConfig, note: Callable[[str], None] = lambda text: None) -> list[Question]:
    """Load, filter and draw the training questions. Raises BadInput where nothing is left."""
    if not data.train:
        raise BadInput("recipe: data.train is not set; pass data.train=PATH")
    found: Sequence[Question] = _load(data.train, data.train_split, data, data.modality, data.question_type)
    if data.without:
        held_back = load_questions(
            data.without, images_root=data.images or None, skip_bad=data.skip_bad
        ).questions
        found, left_out = leave_out(found, held_back)
        note(f"data.without={data.without}: {left_out.total:,} training questions left out: {left_out}")
        if not found:
            raise BadInput(f"{data.train}: every question shares an image or a question with {data.without}")
    return draw_questions(found, data)


def _load(
    path: str, split: str, data: DataConfig, modality: Sequence[str], question_type: Sequence[str]
) -> list[Question]:
    loaded = load_questions(
        path, images_root=data.images or None, skip_bad=data.skip_bad, split=split or None
    ).questions
    kept = [
        q
        for q in loaded
        if (not modality or q.modality in modality)
        and (not question_type or q.question_type in question_type)
    ]
    if not kept:
        raise BadInput(f"{path}: none of {len(loaded)} questions is left after modality and question_type")
    return kept


def draw_questions(questions: Sequence[Question], data: DataConfig) -> list[Question]:
    """`num_questions` of them: the first, or a draw without replacement keyed by `selection_seed`."""
    count = data.num_questions
    if count == 0 or count == len(questions) or (data.fewer_ok and count > len(questions)):
        return list(questions)
    if count > len(questions):
        raise BadInput(f"data.num_questions is {count}, but only {len(questions)} questions were found")
    if data.selection == "first":
        return list(questions[:count])
    rng = np.random.default_rng(data.selection_seed)
    chosen = np.sort(rng.choice(len(questions), size=count, replace=False))
    return [questions[i] for i in chosen]


def validation_sets(config: TrainConfig) -> list[ValidationSet]:
    """Load the validation sets, cut to `validation.limit` questions each."""
    sets: list[ValidationSet] = []
    for name, wanted in config.validation.sets.items():
        found = _load(wanted.data, wanted.split, config.data, wanted.modality, wanted.question_type)
        count = min(config.validation.limit or len(found), len(found))
        draw = replace(config.data, num_questions=count, selection="random")
        sets.append(ValidationSet(name, tuple(draw_questions(found, draw))))
    return sets


def _open_run(config: TrainConfig, out: Path, resume: bool, world: World) -> checkpoints.Restored | None:
    # Rank 0 decides before it writes: another rank could see a folder that was empty a moment ago.
    existing = world.gather((out / "config.json").is_file())[0]
    if existing and not resume:
        raise BadInput(f"run {out}: already holds a run; add --resume to go on, or choose another --out")
    console = Console(stderr=True, quiet=not world.is_main)
    resumed = None
    if existing:
        check_resumable(out, config)
        resumed = checkpoints.newest_intact(out, warn=console.print)
        at = f"step {resumed.trainer['step']}" if resumed else "the start: no complete checkpoint yet"
        console.print(f"resuming from {at}")
    elif world.is_main:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", to_json(config))
    world.barrier()
    return resumed


def _write_environment(
    config: TrainConfig, out: Path, questions: Sequence[Question], learner: Learner, world: World
) -> None:
    environment = {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "osler": version("osler"),
        "device": str(world.device),
        "device_name": torch.cuda.get_device_name() if world.device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "flops_ceiling": product_ceiling(config, world.device),
        "num_processes": world.size,
        "seed": config.seed,
        "model_digest": start_digest(config.model),
        "data_digest": questions_digest(questions),
        "num_questions": len(questions),
        "trained_parameters": sum(p.numel() for p in learner.parameters),
    }
    write_json(out / "environment.json", environment)


def start_digest(model: ModelConfig) -> str:
    """SHA-256 of the weights that training starts from."""
    return model_digest(checkpoint_folder(model.path, model.revision))


def _refuse_changed_inputs(config: TrainConfig, out: Path, questions: Sequence[Question]) -> None:
    """Data and starting weights must be what the run began with: the paths alone do not say so."""
    stored = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    now = {"data_digest": questions_digest(questions), "model_digest": start_digest(config.model)}
    for name, value in now.items():
        if stored.get(name) != value:
            what = "training data have" if name == "data_digest" else f"model {config.model.path} has"
            raise BadInput(f"run {out}: the {what} changed since it began; start a new run")


class _RunLock:
    """One process group per run folder; a lock left by a dead process of this machine is taken over."""

    def __init__(self, out: Path, world: World) -> None:
        self.path, self.world = out / "run.lock", world

    def __enter__(self) -> None:
        if not self.world.is_main:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        owner = {"pid": os.getpid(), "host": platform.node()}
        try:
            with self.path.open("x", encoding="utf-8") as stream:
                json.dump(owner, stream)
        except FileExistsError:
            held = _read_lock(self.path)
            if held.get("host") != platform.node() or _is_alive(int(held.get("pid", 0))):
                raise BadInput(
                    f"run {self.path.parent}: in use by process {held.get('pid')} on {held.get('host')}; "
                    f"if that is over, remove {self.path}"
                ) from None
            self.path.write_text(json.dumps(owner), encoding="utf-8")

    def __exit__(self, *exception: object) -> None:
        if self.world.is_main:
            self.path.unlink(missing_ok=True)


def _read_lock(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, OSError):
        return {"host": platform.node(), "pid": 0}  # torn while being written by a process now dead


def _is_alive(pid: int) -> bool:
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
