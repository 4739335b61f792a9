"""`osler phantom-base OUT`: the SFT recipe of the tiny base model, and its check against the bars."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from osler.config import ModelConfig, OptimConfig, SftConfig, TrainConfig
from osler.errors import BadInput
from osler.phantom.benchmark import IMAGE_SIZE
from osler.phantom.questions import IMAGINGS, QUESTIONS_PER_IMAGE, Domain, draw_questions
from osler.phantom_base.bars import measure, table, to_json
from osler.phantom_base.configuration import MAX_PIXELS, MIN_PIXELS, build_image_processor, build_model
from osler.phantom_base.corpus import corpus
from osler.phantom_base.curriculum import Picture, Shares, Stage, examples_at
from osler.phantom_base.tokenizer import train_tokenizer
from osler.phantom_base.tower import teach_tower
from osler.policy.load import load_policy
from osler.records import Modality, Question
from osler.train.run import train_on

SEED = 0
TAUGHT_PICTURES = dict.fromkeys(IMAGINGS, 2400) | {Modality.MRI: 4800}  # lobe, kind and size are hard to see
CHECKED_PICTURES = dict.fromkeys(IMAGINGS, 250)  # two questions about each
STAGES = (
    Stage(80, Shares(recite=0.35, report=0.35, read=0.3, look=0.0)),
    Stage(700, Shares(recite=0.03, report=0.3, read=0.07, look=0.6)),
)
NUM_STEPS = STAGES[-1].until
BATCH_SIZE = 64
OPTIM = OptimConfig(lr=1.5e-3, schedule="cosine", warmup_steps=20, weight_decay=0.01, beta2=0.98)


def build(out: str | Path) -> dict[str, Any]:
    """Draw, teach, check and write the base model as a Hugging Face checkpoint folder, bf16.

    Returns what was measured. Raises BadInput where `out` holds something already, and RuntimeError where a
    bar is missed; the folder is written all the same, to be looked at.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} already exists and is not empty: choose another folder or remove it first")
    console = Console(stderr=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="osler-phantom-base-") as scratch:
        work = Path(scratch)
        with console.status("drawing the pictures"):
            pictures, _ = write_pictures(work / "taught", "train", TAUGHT_PICTURES)
            _, questions = write_pictures(work / "checked", "test", CHECKED_PICTURES)
        write_start(work / "start", pictures)
        train_on(
            training_config(work / "start"),
            work / "run",
            [],
            examples_at(pictures, STAGES, BATCH_SIZE, SEED),
            NUM_STEPS,
        )
        write_release(work / "run", out)
        with console.status("checking the bars"):
            weights = (out / "model.safetensors").stat().st_size
            policy = load_policy(str(out), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
            found = measure(policy, questions, work, weights)
    console.print(table(found))
    missed = [one.name for one in found if not one.holds]
    if missed:
        raise RuntimeError(f"{out}: written, but it misses the bars of {', '.join(missed)}")
    return {"out": str(out), "seconds": time.monotonic() - started, "measured": to_json(found)}


def training_config(start: Path) -> TrainConfig:
    return TrainConfig(
        method="sft",
        seed=SEED,
        checkpoint_every_steps=200,
        keep_checkpoints=1,
        # The language model learns to read features that stand still; what the tower learnt stays.
        model=ModelConfig(
            path=str(start), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, freeze_vision_tower=True
        ),
        optim=OPTIM,
        sft=SftConfig(batch_size=BATCH_SIZE, max_steps=NUM_STEPS),
    )


def write_start(folder: Path, pictures: Sequence[Picture]) -> None:
    """What the recipe starts from: tokenizer from our corpus, first weights, a tower that has seen images."""
    tokenizer = train_tokenizer(corpus())
    build_model(tokenizer, SEED).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    policy = load_policy(str(folder), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    teach_tower(policy, pictures, SEED)
    policy.model.save_pretrained(folder)


def write_release(run: Path, out: Path) -> None:
    """The run's last weights in bf16, with everything that loads beside them and a card."""
    policy = load_policy(str(run), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    policy.model.to(torch.bfloat16).save_pretrained(out)
    policy.tokenizer.save_pretrained(out)
    build_image_processor().save_pretrained(out)
    card = files("osler.phantom_base").joinpath("card.md").read_text(encoding="utf-8")
    (out / "README.md").write_text(card, encoding="utf-8")


def write_pictures(
    folder: Path, part: str, counts: Mapping[Modality, int]
) -> tuple[list[Picture], list[Question]]:
    """Render scenes of the base model's own seed domain as PNG files, with two questions about each."""
    pictures: list[Picture] = []
    questions: list[Question] = []
    for modality, count in counts.items():
        scenes, drawn = draw_questions(modality, count, SEED, part, Domain.BASE)
        asked = [replace(q, images=(str(folder / q.images[0]),)) for q in drawn]
        paths = [q.images[0] for q in asked[::QUESTIONS_PER_IMAGE]]
        Path(paths[0]).parent.mkdir(parents=True, exist_ok=True)
        pictures += [Picture(scene, path) for scene, path in zip(scenes, paths, strict=True)]
        questions += asked
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context) as pool:
        for _ in pool.map(_render, pictures, chunksize=50):
            pass
    return pictures, questions


def _render(picture: Picture) -> None:
    pixels = IMAGINGS[picture.scene.modality].render(picture.scene, IMAGE_SIZE)
    Image.fromarray(pixels).save(picture.path, format="PNG")
