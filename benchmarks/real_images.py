"""GRPO with phantom-base on real medical images: does the reward rise, and does the image matter?

python benchmarks/real_images.py DATA OUT [STEPS [TEMPLATE ...]]

DATA holds med_r1_train.json and med_r1_test.json (Med-R1's format, split by patient or source) and the
images they name. Trains think and nothink for STEPS steps (default 240: one pass over 1,923 questions,
fixed beforehand), prints accuracy among parsed completions by quarter of the training, and evaluates the
test file beside the blind baseline and on blank (mid-grey, same size) images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osler.config import load_config
from osler.data.folder import write_folder
from osler.data.images import open_image
from osler.data.load import load_questions
from osler.evaluate.run import BlindFit, Request, run_evaluation
from osler.evaluate.summary import Summary
from osler.records import Question
from osler.tracking import JsonLines
from osler.train.run import train

TEMPLATES = ("think", "nothink")
LEARNING_RATE = 2e-4
EPOCHS = 4.0


def quarters(run: Path, steps: int) -> dict[str, Any]:
    """Accuracy among parsed completions and parse rate, first against last quarter of the steps.

    The interval of the difference resamples groups: completions of one question are not independent.
    """
    counts: list[list[tuple[int, int, int]]] = [[], [], [], []]  # per group: correct, parsed, all
    for record in JsonLines(run / "rollouts.jsonl"):
        read = [r["extraction"]["index"] for r in record["rollouts"]]
        parsed = [i for i in read if i is not None]
        quarter = min(3, 4 * (record["step"] - 1) // steps)
        counts[quarter].append((sum(i == record["answer_index"] for i in parsed), len(parsed), len(read)))
    rng = np.random.default_rng(0)
    arrays = [np.array(c) for c in counts]

    def resampled(groups: np.ndarray) -> np.ndarray:
        drawn = groups[rng.integers(len(groups), size=(2000, len(groups)))].sum(axis=1)
        return drawn[:, 0] / drawn[:, 1]

    gain = resampled(arrays[3]) - resampled(arrays[0])
    totals = [a.sum(axis=0) for a in arrays]
    return {
        "accuracy_parsed": [float(t[0] / t[1]) for t in totals],
        "parse_rate": [float(t[1] / t[2]) for t in totals],
        "gain": float(totals[3][0] / totals[3][1] - totals[0][0] / totals[0][1]),
        "gain_interval": [float(b) for b in np.quantile(gain, [0.025, 0.975])],
    }


def write_blank(questions: tuple[Question, ...], out: Path) -> Path:
    """The same questions about mid-grey images of the same sizes."""
    if not (out / "questions.jsonl").is_file():
        folder = out.with_name(out.name + "_images")
        folder.mkdir(parents=True, exist_ok=True)
        blank = []
        for question in questions:
            sizes = [open_image(path).size for path in question.images]
            files = [folder / f"{w}x{h}.png" for w, h in sizes]
            for size, file in zip(sizes, files, strict=True):
                if not file.is_file():
                    Image.new("RGB", size, (128, 128, 128)).save(file)
            blank.append(replace(question, images=tuple(str(f) for f in files)))
        write_folder(blank, out)
    return out


def percent(summary: Summary) -> str:
    row = summary.overall
    blind = "not available" if row.blind_accuracy is None else f"{100 * row.blind_accuracy:.1f}"
    return (
        f"{100 * row.accuracy:.1f} ({100 * row.interval.low:.1f}-{100 * row.interval.high:.1f}), n {row.n}, "
        f"parsed {100 * row.parse_rate:.1f}, chance {100 * row.chance:.1f}, blind {blind}"
    )


def main(data: Path, out: Path, steps: int, templates: Sequence[str]) -> None:
    train_file, test_file = data / "med_r1_train.json", data / "med_r1_test.json"
    blind = BlindFit(name="the training file", questions=load_questions(train_file).questions)
    blank = write_blank(load_questions(test_file).questions, out / "blank")
    found: dict[str, Any] = {}
    for template in templates:
        run = out / template
        overrides = [
            f'data.train="{train_file}"',
            "data.num_questions=0",
            f"template={template}",
            f"grpo.max_steps={steps}",
            f"grpo.epochs={EPOCHS}",
            f"optim.lr={LEARNING_RATE}",
        ]
        config = load_config("phantom", overrides)
        if not (run / "summary.json").is_file():
            train(config, run, resume=(run / "config.json").is_file())
        found[template] = quarters(run, steps)
        print(template, json.dumps(found[template]), flush=True)
        for model, folder in (("phantom-base", out / f"base_{template}"), (str(run), run)):
            for test in (str(test_file), str(blank)):
                request = Request(
                    model=model,
                    data=test,
                    out=folder,
                    template=template,
                    max_completion_tokens=config.grpo.max_completion_tokens,
                    max_pixels=config.model.max_pixels,
                    batch_size=128,
                )
                summary = run_evaluation(request, blind).summary
                found[f"{template} {Path(model).name} on {Path(test).stem}"] = percent(summary)
                print(
                    f"{template:8} {Path(model).name:14} {Path(test).stem:14} {percent(summary)}", flush=True
                )
    (out / "real_images.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    given = sys.argv[3:]
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(given[0]) if given else 960, given[1:] or TEMPLATES)
