"""Processor seconds of prefilling the rotations of questions, their common beginnings computed once or not.

    python benchmarks/prefixes.py MODEL [IMAGE_TOKENS]

MODEL is a checkpoint or "tiny", the fast path's random model (256 wide, 4 layers). 2 questions, each with
an image of its own; image tokens are kept beforehand, as in `osler evaluate`. Shared and apart by turns,
in this process; median, fastest and slowest of 5 runs each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.fast_path.models import write_checkpoint, write_image
from osler.evaluate.variants import rotate_choices
from osler.policy.forward import prefill
from osler.policy.inputs import PromptInputs
from osler.policy.load import Policy, load_policy
from osler.policy.trunks import split
from osler.prompts import TEMPLATES
from osler.records import Question

RUNS, QUESTIONS, ROTATIONS = 5, 2, (3, 4)  # `--rotate` asks three beside the question as it is
STEM = "Which of these does the picture show?"
CHOICES = ("a ring", "a filled disc", "two crossing lines", "nothing of the kind")


def main(model: str, image_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = load_policy(str(write_checkpoint(folder, 256, 4)) if model == "tiny" else model)
        policy.keep_features()
        questions = []
        for i in range(QUESTIONS):
            write_image(folder / f"{i}.png", image_tokens, seed=i)
            shown = (str(folder / f"{i}.png"),)
            questions.append(Question(id=str(i), text=STEM, choices=CHOICES, answer_index=0, images=shown))
        for count in ROTATIONS:
            turned = [rotate_choices(q, by) for q in questions for by in range(count)]
            prompts = [policy.prompt_inputs(q, TEMPLATES["nothink"]) for q in turned]
            seconds: dict[str, list[float]] = {"apart": [], "shared": []}
            tokens = {how: timed(policy, prompts, how) for how in seconds}  # the first of each is not counted
            for _ in range(RUNS):
                for how, times in seconds.items():
                    times.append(timed(policy, prompts, how)[1])
            for how, times in seconds.items():
                print(
                    f"{QUESTIONS} questions, {count} rotations, {how:>6}: {tokens[how][0]:>6,} tokens, "
                    f"{median(times):.3f} s ({min(times):.3f} to {max(times):.3f})"
                )


@torch.no_grad()
def timed(policy: Policy, prompts: list[PromptInputs], how: str) -> tuple[int, float]:
    """Packed tokens, and processor seconds from prompts to keys and values."""
    start = time.process_time()
    trunks, tails = list(prompts), []
    if how == "shared":
        trunks, tails = split(prompts, policy.model.config.image_token_id)
    prefill(policy.model, policy.batch(trunks), tails, policy.features)
    seconds = time.process_time() - start
    return sum(len(p.input_ids) for p in (*trunks, *(t for row in tails for t in row))), seconds


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 512)
