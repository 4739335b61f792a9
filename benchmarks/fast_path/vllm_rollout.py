"""Rollout of groups beside vLLM's CPU build, in one process, in turns.

    make bench-vllm          # builds .venv-vllm, then runs this

Questions to text and tokens: images decoded and preprocessed on both sides, fresh ones in every round, so
that vLLM's prefix and image caches serve a group and nothing more. 64 tokens per completion, none ends
early. vLLM's engine runs inside this process (VLLM_ENABLE_V1_MULTIPROCESSING=0); eager, and compiled.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer

from benchmarks.fast_path.case import Case, make_case
from benchmarks.fast_path.models import ASK, TOKEN_PIXELS, write_questions
from benchmarks.fast_path.osler_side import build
from benchmarks.fast_path.results import environment, write
from benchmarks.fast_path.rows import SCALES, Row
from benchmarks.fast_path.timing import median, take_turns
from osler.prompts import messages
from osler.records import Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling

GROUP_SIZE, TOKENS = 8, 64
PROMPTS = (2, 8)
SIDES_PIXELS = (280, 560)
BAR = {"vllm": 1.3}
MAX_LENGTH = 1024  # tokens of prompt and completion together


def rounds_of(case: Case, rounds: int) -> list[tuple[Question, ...]]:
    """The case's number of questions for every round; no image of any row comes twice."""
    tokenizer = AutoTokenizer.from_pretrained(case.checkpoint, local_files_only=True)
    size = case.scale.questions
    asked = write_questions(
        case.folder / "images",
        tokenizer,
        size * rounds,
        case.row.image_tokens,
        case.scale.text_tokens,
        first=1000 * size,
    )
    return [asked[i : i + size] for i in range(0, len(asked), size)]


def osler_rollout(case: Case, rounds: list[tuple[Question, ...]]) -> Callable[[], object]:
    """A function that takes the next round each time it is called."""
    policy = build(case).learner.policy
    sampling = Sampling(TOKENS, temperature=1.0)
    steps = iter(enumerate(rounds))

    def run() -> object:
        step, questions = next(steps)
        return complete(policy, questions, ASK, sampling, group_size=GROUP_SIZE, step=step)

    return run


def vllm_rollout(engine: Any, case: Case, rounds: list[tuple[Question, ...]]) -> Callable[[], object]:
    """The same with vLLM: n completions per prompt, no end token."""
    from vllm import SamplingParams

    tokenizer = AutoTokenizer.from_pretrained(case.checkpoint, local_files_only=True)
    sampling = SamplingParams(n=GROUP_SIZE, temperature=1.0, max_tokens=TOKENS, ignore_eos=True, logprobs=0)
    steps = iter(rounds)

    def prompt(question: Question) -> dict[str, Any]:
        chat: Any = messages(question, ASK)
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        image = Image.open(question.images[0]).convert("RGB")
        return {"prompt": text, "multi_modal_data": {"image": image}}

    def run() -> object:
        return engine.generate([prompt(q) for q in next(steps)], sampling, use_tqdm=False)

    return run


def start_engine(case: Case, eager: bool) -> Any:
    """vLLM on the case's checkpoint, fp32, one thread, inside this process."""
    from vllm import LLM

    return LLM(
        str(case.checkpoint),
        dtype="float32",
        max_model_len=MAX_LENGTH,
        enforce_eager=eager,
        limit_mm_per_prompt={"image": 1},
        gpu_memory_utilization=0.3,
    )


def measure(engine: Any, case: Case, name: str) -> dict[str, Any]:
    """One row: both sides warm, then in turns."""
    rounds = rounds_of(case, 1 + case.scale.repeats)
    ours, theirs = osler_rollout(case, rounds), vllm_rollout(engine, case, rounds)
    theirs()
    ours()
    seconds = take_turns({name: theirs, "osler": ours}, case.scale.repeats, "cpu")
    medians = {side: median(runs, "cpu") for side, runs in seconds.items()}
    return {
        "ratio": medians[name] / medians["osler"],
        "medians": medians,
        "seconds": {side: [asdict(s) for s in runs] for side, runs in seconds.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/fast_path_vllm"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="vLLM compiles its model first")
    arguments = parser.parse_args()
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }.items():
        os.environ.setdefault(name, value)
    torch.set_num_threads(1)
    side = "vllm compiled" if arguments.compiled else "vllm eager"
    engine = None
    for pixels in SIDES_PIXELS:
        tokens = (pixels // TOKEN_PIXELS) ** 2
        for prompts in PROMPTS:
            name = f"{side.replace(' ', '-')}-{pixels}-{prompts}"
            if (arguments.out / f"{name}.json").is_file():
                continue
            row = Row(name, "vllm", "rollout", GROUP_SIZE, tokens, TOKENS, {"cpu": BAR})
            scale = replace(SCALES["cpu"], questions=prompts, repeats=arguments.repeats)
            case = make_case(row, scale, arguments.out / "work")
            engine = engine or start_engine(case, eager=not arguments.compiled)
            found = {"row": asdict(row), "environment": environment(), **measure(engine, case, side)}
            write(arguments.out, name, found)
            print(f"{name}: {found['medians']}, ratio {found['ratio']:.2f}, bar {BAR['vllm']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
