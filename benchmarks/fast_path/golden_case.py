"""The model, images and completions behind the golden tensors: formulas, so that nothing has to be kept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from benchmarks.fast_path.models import write_tiny
from osler.records import Question

GROUP_SIZE = 3
TEMPERATURE = 0.7
# By question, then by rollout: token ids of different lengths.
COMPLETIONS = (
    ((301, 777, 1500, 42, 900), (1999, 64), (333, 333, 333, 1024)),
    ((700, 801, 902), (1111, 1212, 1313, 1414, 1515, 1616), (404,)),
)
IMAGE_SIZES = ((56, 84), (112, 56))  # width, height: 6 and 8 image tokens


def write_formula_model(folder: Path) -> None:
    """A Qwen2-VL checkpoint, 64 wide and two layers deep, whose weights are sines."""
    write_tiny(folder, hidden=64, layers=2)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    fill_by_formula(model)
    model.save_pretrained(folder)


@torch.no_grad()
def fill_by_formula(model: nn.Module) -> None:
    """Weights between -sqrt(3 / inputs) and +sqrt(3 / inputs), norms around 1, biases up to 0.1."""
    for number, (name, weight) in enumerate(sorted(model.named_parameters())):
        waves = sines(weight.numel(), phase=number).view(weight.shape)
        if weight.ndim > 1:
            weight.copy_(waves * math.sqrt(3 / weight[0].numel()))
        elif name.endswith("weight"):
            weight.copy_(1 + 0.1 * waves)
        else:
            weight.copy_(0.1 * waves)


def sines(count: int, phase: float) -> Tensor:
    """sin((1 + phase / 10) i^1.5) for i = 1 ... count: no period, the same on every machine."""
    i = np.arange(1, count + 1, dtype=np.float64)
    return torch.from_numpy(np.sin((1 + phase / 10) * i**1.5)).float()


def formula_questions(folder: Path) -> tuple[Question, Question]:
    """Two questions with images of different size, written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i, (width, height) in enumerate(IMAGE_SIZES):
        waves = sines(width * height * 3, phase=100 + i).numpy()
        pixels = np.round((waves + 1) * 127.5).astype(np.uint8).reshape(height, width, 3)
        path = folder / f"{i}.png"
        Image.fromarray(pixels).save(path)
        found.append(
            Question(
                id=f"q{i}",
                text="Which organ is shown?" + " Look again." * i,
                choices=("Liver", "Spleen", "Kidney"),
                answer_index=0,
                images=(str(path),),
            )
        )
    return found[0], found[1]
