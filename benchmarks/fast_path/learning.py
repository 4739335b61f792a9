"""Learning on phantom beside TRL: the same questions in the same order, seed by seed.

    python -m benchmarks.fast_path.learning [--templates think nothink] [--seeds 5] [--out DIR]

Both train phantom-base on 600 phantom MRI questions as the recipe `phantom_medvlm_r1_mri` says, with images
of 140 px and at most 40 tokens per completion; only the random numbers of sampling differ. The area under the
accuracy-reward curve is its mean over the steps, so it counts questions, not seconds. Seconds are those of
the whole training call, logs and Osler's loading and checkpoint included, on one thread. A run whose result
lies in DIR (runs/fast_path_learning) is not repeated; TRL's micro-batch is the fastest of four, tried first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy import stats

from benchmarks.fast_path.results import environment, write
from osler.answers import extract_answer
from osler.config import TrainConfig, load_config
from osler.phantom.benchmark import write_benchmark
from osler.prompts import get_template
from osler.records import Completion, Modality, Question, Reward
from osler.rewards import build_rubric
from osler.tracking import JsonLines
from osler.train.run import train, training_questions
from osler.train.schedule import num_slots, slot_questions

IMAGES, DATA_SEED = 900, 2025
IMAGE_PIXELS, MAX_TOKENS = 140, 40
MARGIN = 0.03  # of the area, for the 90 % interval of the difference
SECONDS_BARS = {"think": 2.5, "nothink": 3.5}
TRIAL_ROWS = (8, 16, 32, 64)
TRIAL_STEPS = 2
SIDES = ("osler", "trl")


@dataclass(frozen=True)
class Learnt:
    """One finished run."""

    accuracy: list[float]  # mean accuracy reward of each step
    process_seconds: float
    wall_seconds: float

    @property
    def area(self) -> float:
        return statistics.mean(self.accuracy)


def config_of(data: Path, template: str, seed: int, max_steps: int) -> TrainConfig:
    overrides = [
        f'data.train="{data / "train"}"',
        f"template={template}",
        f"seed={seed}",
        f"model.max_pixels={IMAGE_PIXELS**2}",
        "model.mask_placeholders=false",
        f"grpo.max_completion_tokens={MAX_TOKENS}",
        f"grpo.max_steps={max_steps}",
        "checkpoint_every_steps=1000000",
        "log_rollouts=false",
    ]
    return load_config("phantom_medvlm_r1_mri", overrides)


def question_order(config: TrainConfig, questions: list[Question]) -> list[Question]:
    """Questions in the order in which Osler's steps see them."""
    size = config.grpo.questions_per_step
    slots = num_slots(len(questions), size, config.grpo.epochs)
    slots = min(slots, config.grpo.max_steps) if config.grpo.max_steps else slots
    permute = config.data.permute_choices
    return [q for s in range(slots) for q in slot_questions(questions, s, size, config.seed, permute)]


def timed_training(work: Callable[[], list[float]]) -> Learnt:
    """Run `work`, which gives the accuracy of each step, and time it."""
    wall, process = time.perf_counter(), time.process_time()
    accuracy = work()
    return Learnt(accuracy, time.process_time() - process, time.perf_counter() - wall)


def learn_with_osler(config: TrainConfig, out: Path) -> Learnt:
    """`osler grpo` into `out`, afresh: a run that was interrupted has no time of its own."""
    metrics = JsonLines(out / "metrics.jsonl")

    def work() -> list[float]:
        train(config, out)
        return [record["reward/accuracy"] for record in metrics]

    return timed_training(work)


def learn_with_trl(config: TrainConfig, out: Path, rows_per_microbatch: int) -> Learnt:
    """TRL's `train()` on the same questions in the same order, rewards read by Osler's rubric."""
    trainer, accuracy = trl_trainer(config, out, rows_per_microbatch)

    def work() -> list[float]:
        trainer.train()
        return accuracy

    return timed_training(work)


def trl_trainer(config: TrainConfig, out: Path, rows_per_microbatch: int) -> tuple[Any, list[float]]:
    """TRL's trainer under the recipe's settings, and the list that gets each step's mean accuracy."""
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText
    from trl import GRPOConfig, GRPOTrainer

    from benchmarks.fast_path.trl_side import load_processor
    from osler.policy.load import PHANTOM_BASE

    grpo, optim = config.grpo, config.optim
    template = get_template(config.template)
    asked = question_order(config, training_questions(config.data))
    processor = load_processor(PHANTOM_BASE)
    processor.image_processor.size = {
        "shortest_edge": config.model.min_pixels,
        "longest_edge": config.model.max_pixels,
    }
    accuracy: list[float] = []
    score = scorer(config, processor.tokenizer)

    def reward(completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        rewards = [score(asked[i], ids) for i, ids in zip(index, completion_ids, strict=True)]
        accuracy.append(statistics.mean(r.breakdown["accuracy"] for r in rewards))
        return [r.total for r in rewards]

    rows = [
        {
            "prompt": [{"role": "user", "content": template.user_text(q)}],
            "image": Image.open(q.images[0]).convert("RGB"),
            "index": i,
        }
        for i, q in enumerate(asked)
    ]
    settings = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        seed=config.seed,
        gradient_checkpointing=False,
        per_device_train_batch_size=rows_per_microbatch,
        gradient_accumulation_steps=grpo.questions_per_step * grpo.group_size // rows_per_microbatch,
        num_generations=grpo.group_size,
        max_completion_length=grpo.max_completion_tokens,
        num_train_epochs=1,  # `asked` repeats the questions for every epoch
        shuffle_dataset=False,
        learning_rate=optim.lr,
        lr_scheduler_type=optim.schedule,
        max_grad_norm=optim.max_grad_norm,
        beta=grpo.kl_coef,
        loss_type="grpo",
        use_bias_correction_kl=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(PHANTOM_BASE, dtype=torch.float32),
        processing_class=processor,
        reward_funcs=reward,
        args=settings,
        train_dataset=Dataset.from_list(rows),
    )
    return trainer, accuracy


def scorer(config: TrainConfig, tokenizer: Any) -> Callable[[Question, list[int]], Reward]:
    """Osler's reading and rubric on token ids."""
    rubric, template = build_rubric(config.rewards), get_template(config.template)
    stop = tokenizer.eos_token_id

    def score(question: Question, ids: list[int]) -> Reward:
        stopped = ids[-1] == stop
        completion = Completion(
            text=tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=False),
            token_ids=tuple(ids),
            sampled_logprobs=(0.0,) * len(ids),
            finish_reason="stop" if stopped else "length",
        )
        read = extract_answer(completion.text, question.choices)
        return rubric.score(completion, read, question, template)

    return score


def fastest_rows(config: TrainConfig, out: Path) -> int:
    """Rows per micro-batch at which TRL is fastest on a few steps; tried once per folder."""
    path = out / f"trial_{config.template}.json"
    if not path.is_file():
        short = replace(config, grpo=replace(config.grpo, max_steps=TRIAL_STEPS))
        rows = config.grpo.questions_per_step * config.grpo.group_size
        tried = {
            n: learn_with_trl(short, out / "trial", n).process_seconds for n in TRIAL_ROWS if rows % n == 0
        }
        write(out, path.stem, {"process_seconds": tried, "environment": environment()})
    seconds = json.loads(path.read_text(encoding="utf-8"))["process_seconds"]
    return int(min(seconds, key=lambda n: seconds[n]))


def learn(out: Path, data: Path, template: str, seed: int, side: str, max_steps: int) -> None:
    """One run into `out`, unless its result is there."""
    name = f"{template}_{seed}_{side}"
    if (out / f"{name}.json").is_file():
        return
    print(name, file=sys.stderr, flush=True)
    config = config_of(data, template, seed, max_steps)
    around, attempt = environment(), out / "work" / f"{name}_{time.time_ns()}"
    if side == "osler":
        learnt = learn_with_osler(config, attempt)
    else:
        learnt = learn_with_trl(config, attempt, fastest_rows(config, out))
    write(out, name, {**learnt.__dict__, "environment": around})


def read(out: Path, template: str, side: str) -> dict[int, Learnt]:
    """Finished runs by seed."""
    found = {}
    for path in sorted(out.glob(f"{template}_*_{side}.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("environment")
        found[int(path.stem.split("_")[1])] = Learnt(**values)
    return found


def interval(differences: list[float], level: float = 0.9) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences."""
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    quantile = float(stats.t.ppf((1 + level) / 2, len(differences) - 1))
    half = quantile * spread / len(differences) ** 0.5
    return mean - half, mean + half


def compare(ours: dict[int, Learnt], theirs: dict[int, Learnt], template: str) -> dict[str, Any]:
    """Areas per question and per second, over the seeds that both have. Needs at least two."""
    seeds = sorted(ours.keys() & theirs.keys())
    low, high = interval([ours[s].area - theirs[s].area for s in seeds])
    per_second = [
        (ours[s].area / ours[s].process_seconds) / (theirs[s].area / theirs[s].process_seconds) for s in seeds
    ]
    return {
        "template": template,
        "seeds": len(seeds),
        "area_osler": statistics.mean(ours[s].area for s in seeds),
        "area_trl": statistics.mean(theirs[s].area for s in seeds),
        "difference_low": low,
        "difference_high": high,
        "equal": low >= -MARGIN and high <= MARGIN,
        "per_second": statistics.median(per_second),
        "per_second_bar": SECONDS_BARS[template],
        "seconds_osler": statistics.median(ours[s].process_seconds for s in seeds),
        "seconds_trl": statistics.median(theirs[s].process_seconds for s in seeds),
    }


def plot(out: Path, template: str) -> None:
    """Accuracy reward against questions, seeds thin and their mean thick."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for side, colour in (("osler", "#4878a8"), ("trl", "#c06030")):
        curves = [learnt.accuracy for learnt in read(out, template, side).values()]
        for curve in curves:
            axes.plot(curve, color=colour, linewidth=0.4, alpha=0.5)
        axes.plot([statistics.mean(step) for step in zip(*curves, strict=True)], color=colour, label=side)
    axes.set_xlabel("optimizer step (8 questions)")
    axes.set_ylabel("accuracy reward")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / f"{template}.svg")
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--templates", nargs="+", choices=sorted(SECONDS_BARS), default=["think", "nothink"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many; 0: the recipe's 150")
    parser.add_argument("--out", type=Path, default=Path("runs/fast_path_learning"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = arguments.out / "data"
    if not data.exists():
        write_benchmark(data, IMAGES, DATA_SEED, modalities=(Modality.MRI,))
    for template in arguments.templates:
        for seed in range(arguments.seeds):
            for side in SIDES:
                learn(arguments.out, data, template, seed, side, arguments.steps)
        ours, theirs = (read(arguments.out, template, side) for side in SIDES)
        found = compare(ours, theirs, template)
        write(arguments.out, f"compared_{template}", found)
        plot(arguments.out, template)
        print(json.dumps(found, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
