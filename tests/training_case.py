"""One small training run that several tests share; also run as a worker of two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from osler.config import TrainConfig, from_json
from osler.prompts import get_template
from osler.records import Question
from osler.train.run import train_on
from osler.train.sft import answer_examples, baseline_steps


def questions(image_folder: Path) -> list[Question]:
    return [
        Question(
            id=f"q{i}",
            text=f"Which side is it in case {i}?" + " Look again." * (i % 3),
            choices=("left", "right", "neither"),
            answer_index=i % 3,
            images=(str(image_folder / f"{i % 4}.png"),),
        )
        for i in range(6)
    ]


def config(folder: str, **sections: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "method": "grpo",
        "rewards": {"plugin_rewards:even_tokens": 1.0},
        "checkpoint_every_steps": 1,
        "keep_checkpoints": 100,
        "model": {"path": folder},
        "optim": {"lr": 1e-3, "schedule": "linear"},
        "grpo": {
            "group_size": 4,
            "questions_per_step": 2,
            "epochs": 2.0,
            "max_completion_tokens": 6,
            "kl_coef": 0.04,
        },
    }
    for key, value in sections.items():
        merge = isinstance(values.get(key), dict) and key != "rewards"
        values[key] = {**values[key], **value} if merge else value
    return from_json(values)


def run(cfg: TrainConfig, out: Path, images: Path, resume: bool = False) -> dict[str, Any]:
    asked = questions(images)
    permute = cfg.data.permute_choices
    examples = answer_examples(asked, get_template("nothink"), cfg.sft.batch_size, cfg.seed, permute)
    return train_on(cfg, out, asked, examples, baseline_steps(cfg, len(asked)), resume)


if __name__ == "__main__":
    torch.set_num_threads(1)
    config_path, out, images = sys.argv[1:]
    run(from_json(json.loads(Path(config_path).read_text())), Path(out), Path(images))
