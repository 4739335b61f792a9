"""Does a policy trained beside a text shortcut still look at the image, and does one trained without it?

    python benchmarks/shortcut_policy.py OUT [SEED ...]

Two phantom MRI benchmarks of the same images and questions: clean, and with a text shortcut planted in every
question. The audit reads both. phantom-base is trained by GRPO on each (phantom_medvlm_r1_mri, 600 questions;
SEED is the seed of training, default 0 to 4, the data stay the same), and every model answers the test
questions greedily with the image and with a blank one (mid-grey, same size). Printed are accuracies with 95 %
interval by image, chance and blind baseline (fitted on the training questions of the model, for phantom-base
on those of the test's own benchmark), paired differences, and how far the difference between image and blank
lies above phantom-base's own. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osler.audit.findings import Level
from osler.audit.run import audit
from osler.config import load_config
from osler.data.folder import write_folder
from osler.data.images import open_image
from osler.data.load import load_questions
from osler.demo import DATA_SEED, MAX_COMPLETION_TOKENS, Size
from osler.evaluate.predictions import read_predictions
from osler.evaluate.run import BlindFit, Request, name_of, run_evaluation
from osler.evaluate.stats import Interval, paired_cluster_bootstrap
from osler.evaluate.summary import Row, cluster_of
from osler.phantom.benchmark import write_benchmark
from osler.records import Modality
from osler.report.audit_page import write_audit_page
from osler.train.run import train, training_questions

RECIPE = "phantom_medvlm_r1_mri"
DATA = {"clean": None, "shortcut": "shortcut"}  # name -> what is planted
BASE = "phantom-base"


@dataclass(frozen=True)
class Asked:
    """One model's answers to one test set; position k of every array is the same question."""

    row: Row
    correct: NDArray[np.int64]
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """In fractions of 1."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        bounds = self.interval
        return f"{100 * self.value:+.1f} ({100 * bounds.low:+.1f} to {100 * bounds.high:+.1f})"


def draw(out: Path, plant: str | None) -> None:
    """The benchmark of the demo, MRI alone, and beside it the test questions about blank images."""
    if not out.exists():
        write_benchmark(out, Size().images, DATA_SEED, plant, modalities=(Modality.MRI,))
    blank = out.with_name(f"{out.name}_blank")
    if blank.exists():
        return
    files: dict[tuple[int, int], str] = {}
    questions = []
    for question in load_questions(out / "test").questions:
        (path,) = question.images
        size = open_image(path).size
        if size not in files:
            files[size] = str(out / f"blank_{size[0]}x{size[1]}.png")
            Image.new("RGB", size, (128, 128, 128)).save(files[size])
        # One blank image serves all: what counts as one cluster stays the image that was taken away.
        questions.append(replace(question, images=(files[size],), subject_id=Path(path).stem))
    write_folder(questions, blank)


def named_by_audit(data: Path, out: Path) -> str:
    """What the audit of the benchmark raises, in one line; its page goes to `out`."""
    report = audit(str(data / "train"), str(data / "test"), workers=1)
    write_audit_page(report, out)
    raised = [f for f in report.findings if f.level in (Level.FAULT, Level.WARNING)]
    shown = [f"{f.check} {f.level} ({100 * f.share:.1f} %, n {f.n})" for f in raised]
    return f"{len(report.findings)} checks; " + (", ".join(shown) or "nothing")


def trained(out: Path, data: Path, seed: int) -> Path:
    """The run folder of phantom-base after GRPO on these data."""
    run = out / f"seed_{seed}" / data.name
    config = load_config(RECIPE, [f'data.train="{data / "train"}"', f"seed={seed}"])
    summary = run / "summary.json"
    if not (summary.is_file() and "training" in json.loads(summary.read_text(encoding="utf-8"))):
        train(config, run, resume=(run / "config.json").is_file())
    return run


def ask(model: str, run: Path, trained_on: Path, test: Path) -> Asked:
    config = load_config(RECIPE, [f'data.train="{trained_on / "train"}"'])
    request = Request(
        model=model,
        data=str(test),
        out=run,
        template=config.template,
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        max_pixels=config.model.max_pixels,
        batch_size=128,
    )
    blind = BlindFit(
        name=f"the {trained_on.name} training questions", questions=training_questions(config.data)
    )
    row = run_evaluation(request, blind).summary.overall
    stored = read_predictions(run / "predictions" / f"{name_of(str(test))}.jsonl")
    answers = sorted(stored.predictions, key=lambda p: p.question_id)
    correct = np.array([p.correct for p in answers], dtype=np.int64)
    return Asked(row, correct, tuple(map(cluster_of, answers)))


def difference(a: Asked, b: Asked) -> Difference:
    """Accuracy of b minus that of a on the same questions; the interval resamples the images of a."""
    interval = paired_cluster_bootstrap(a.correct, b.correct, a.clusters)
    return Difference(float(np.mean(b.correct - a.correct)), interval)


def difference_of_differences(a: tuple[Asked, Asked], b: tuple[Asked, Asked]) -> Difference:
    """(b[0] - b[1]) - (a[0] - a[1]), all on the same questions.

    Put end to end, (b[0], a[1]) against (b[1], a[0]) differ by half of that on average, and an image's
    questions stay one cluster.
    """
    more = np.concatenate([b[0].correct, a[1].correct])
    less = np.concatenate([b[1].correct, a[0].correct])
    half = paired_cluster_bootstrap(less, more, [*a[0].clusters, *a[0].clusters])
    doubled = Interval(2 * half.low, 2 * half.high, half.method)
    return Difference(float(2 * np.mean(more - less)), doubled)


def shown(asked: Asked) -> str:
    row = asked.row
    return f"{100 * row.accuracy:.1f} ({100 * row.interval.low:.1f}-{100 * row.interval.high:.1f})"


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def head_of(*heads: str) -> str:
    return "\n" + line(heads) + "\n|" + "---|" * len(heads)


def table_of(name: str, answers: dict[str, Asked]) -> Iterator[str]:
    """Rows of the accuracy table: one per test set, with the image and with a blank one."""
    for test in DATA:
        if test not in answers:
            continue
        image, blank = answers[test], answers[f"{test}_blank"]
        assert image.row.blind_accuracy is not None
        yield line(
            [
                name,
                test,
                f"{image.row.n}",
                shown(image),
                shown(blank),
                str(difference(blank, image)),
                f"{100 * image.row.parse_rate:.1f} / {100 * blank.row.parse_rate:.1f}",
                f"{100 * image.row.chance:.1f}",
                f"{100 * image.row.blind_accuracy:.1f}",
            ]
        )


def main(out: Path, seeds: Sequence[int]) -> None:
    data = {name: out / "data" / name for name in DATA}
    for name, folder in data.items():
        draw(folder, DATA[name])
        print(f"audit of {name}: {named_by_audit(folder, out / f'audit_{name}.html')}", flush=True)
    tests = {name: folder / "test" for name, folder in data.items()}
    tests |= {f"{name}_blank": folder.with_name(f"{name}_blank") for name, folder in data.items()}
    base = {
        key: ask(BASE, out / "base", data[key.removesuffix("_blank")], test) for key, test in tests.items()
    }
    print(head_of("model", "test", "n", "image", "blank", "image - blank", "parsed, %", "chance", "blind"))
    print("\n".join(table_of("phantom-base", base)), flush=True)
    against: list[str] = []
    for seed in seeds:
        found = {}
        for name, folder in data.items():
            run = trained(out, folder, seed)
            found[name] = {key: ask(str(run), run, folder, test) for key, test in tests.items()}
            print("\n".join(table_of(f"GRPO on {name}, seed {seed}", found[name])), flush=True)
        clean, short = found["clean"], found["shortcut"]
        own = (base["clean"], base["clean_blank"])
        against.append(
            line(
                [
                    f"seed {seed}",
                    str(difference(clean["clean_blank"], clean["clean"])),
                    str(difference_of_differences(own, (clean["clean"], clean["clean_blank"]))),
                    str(difference(short["shortcut"], short["clean"])),
                    str(difference(clean["clean"], short["clean"])),
                ]
            )
        )
    against_heads = (
        "trained on clean: image - blank",
        "the same above phantom-base's own",
        "trained on shortcut: clean test - shortcut test",
        "clean test: trained on shortcut - trained on clean",
    )
    print(head_of("", *against_heads))
    print("\n".join(against))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(s) for s in sys.argv[2:]] or list(range(5)))
