"""`osler evaluate`: from a model and a data set to a run folder with predictions and numbers.

The run folder belongs to one model, template and sampling; it may hold several test sets. It may also be
the training run that the model comes from, whose own config.json and environment.json then stay.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from osler.data.load import load_questions
from osler.errors import BadInput
from osler.evaluate.answering import Opened, open_model
from osler.evaluate.calibrated import read_calibration
from osler.evaluate.confidence_pass import confidence_pass
from osler.evaluate.looking_pass import looking_pass
from osler.evaluate.passes import Finding, MainPass, Pass
from osler.evaluate.predictions import read_predictions
from osler.evaluate.runner import choose_questions, evaluate, only_these
from osler.evaluate.scoring import DEFAULT_SCORER, READERS, check_scorer, scored_name
from osler.evaluate.server import SCHEME, EndpointOptions
from osler.evaluate.summary import (
    BlindBaseline,
    Summary,
    blind_baseline,
    cluster_of,
    summarize,
    write_finding,
    write_summary,
)
from osler.evaluate.thinking.examine import check_thinks_first, examine
from osler.evaluate.thinking.table import print_thinking
from osler.evaluate.trained import HowTrained, how_trained
from osler.prompts import Template, get_template
from osler.records import Prediction, Question
from osler.rollout.sampling import Sampling
from osler.tracking import write_json

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "pillow", "scikit-learn")
_PART_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for on the command line. None means: as the model was trained, else the default."""

    model: str  # checkpoint folder, run folder, hub id, "phantom-base", or "openai:URL#name"
    data: str  # "PATH" or "PATH#split"
    out: Path
    template: str | None = None
    limit: int | None = None
    limit_per: str | None = None  # the limit counts per "modality" or "question_type"
    only: tuple[str, ...] = ()  # keep these modalities or question types; empty keeps all
    images: str | None = None
    modality: str | None = None
    skip_bad: bool = False
    scorer: str = DEFAULT_SCORER
    temperature: float = 0.0
    max_completion_tokens: int | None = None
    seed: int = 0
    min_pixels: int | None = None
    max_pixels: int | None = None
    precision: str | None = None
    batch_size: int = 32
    ablate: tuple[str, ...] = ()  # of osler.evaluate.variants.ABLATIONS
    rotate: bool = False  # ask every rotation of the choices
    thinking: bool = False  # whether the reasoning is examined
    confidence: bool = False  # read the probabilities of the choices behind every completion
    samples: int = 0  # completions per question for self-consistency
    sample_temperature: float = 1.0
    calibration: Path | None = None  # a calibration.json, or a folder with one; None: the model's own
    endpoint: EndpointOptions | None = None

    def __post_init__(self) -> None:
        check_scorer(self.scorer)
        if self.precision is not None and self.model.startswith(SCHEME):
            raise BadInput("--precision: how a server computes cannot be chosen from here; leave it out")
        if self.samples < 0 or self.samples == 1:
            raise BadInput(f"--samples {self.samples}: agreement needs at least 2 samples per question")
        if self.samples and self.sample_temperature <= 0:
            raise BadInput(f"--sample-temperature {self.sample_temperature:g}: more than 0 is needed")
        if self.calibration is not None and not self.confidence:
            raise BadInput("--calibration: says something about --confidence only; give that too")


@dataclass(frozen=True, kw_only=True)
class BlindFit:
    """Questions that the blind baseline is fitted on, and what they are called."""

    name: str
    questions: Sequence[Question]


def name_of(data: str) -> str:
    """What a test set is called in file names and tables.

    >>> name_of("phantom/test"), name_of("files/CT_test.json"), name_of("mine#test")
    ('phantom-test', 'CT_test', 'mine-test')
    """
    path, _, split = data.partition("#") if not Path(data).exists() else (data, "", "")
    parts = Path(path).resolve().with_suffix("").parts[-2:]
    words = parts if parts[-1] in _PART_NAMES else parts[-1:]
    name = re.sub(r"[^\w.-]+_?", "_", "-".join([*words, *([split] if split else [])]))
    return name.lstrip(".") or "test"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of a request: the numbers of the test set, and of every further pass."""

    summary: Summary
    findings: tuple[Finding, ...] = ()


def passes_of(request: Request) -> list[Pass]:
    """The further passes that were asked for, in the order in which they run."""
    passes = []
    if request.ablate or request.rotate:
        passes.append(looking_pass(request.ablate, request.rotate, request.seed))
    if request.thinking:
        passes.append(
            Pass(
                kind="thinking", ask=examine, show=print_thinking, check=check_thinks_first, looks_inside=True
            )
        )
    if request.confidence or request.samples:
        given = None if request.calibration is None else read_calibration(request.calibration)
        how = (request.confidence, request.samples, request.sample_temperature, given)
        passes.append(confidence_pass(*how))
    return passes


def run_evaluation(
    request: Request,
    blind: BlindFit | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Evaluate and write `config.json`, `environment.json`, `predictions/`, `questions/`, `summary.json`.

    The further passes follow over the same policy; each one's finding is on disk before the next begins.
    Raises BadInput for anything wrong with model, data or an `out` that belongs to another run.
    """
    how = how_trained(request.model)
    template = _template(request, how, note)
    passes = passes_of(request)
    for one in passes:
        one.check(template)
    in_training_run = _holds_training(request.out, how)
    questions = _questions(request)
    blind = None if blind is None else without_test_questions(blind, questions, note)
    opened = _open(request, how, passes, note)
    sampling = _sampling(request, how)
    test_set = name_of(request.data)
    name = scored_name(test_set, request.scorer)
    if not in_training_run:
        _write_config(request, opened, template, sampling, name, len(questions))
        _write_environment(request.out, opened)
    with _served_facts(opened, request.out, name):
        predictions = evaluate(
            opened.answering,
            questions,
            template,
            request.out,
            test_set,
            sampling,
            model=request.model,
            model_digest=opened.digest,
            data=request.data,
            settings=opened.settings,
            scorer=request.scorer,
            batch_size=request.batch_size,
            progress=progress,
            note=note,
        )
    summary, baseline = finish(request.out, name, questions, predictions, blind)
    main = MainPass(
        opened=opened,
        questions=questions,
        predictions=predictions,
        test_set=test_set,
        template=template,
        sampling=sampling,
        header=summary.header,
        blind=baseline,
        out=request.out,
        batch_size=request.batch_size,
        progress=progress,
        note=note,
    )
    return Evaluation(summary=summary, findings=tuple(run_passes(main, passes)))


def _template(request: Request, how: HowTrained, note: Callable[[str], None]) -> Template:
    template = get_template(request.template or how.template)
    if request.template is None:
        note(f"--template not given: {template.name}, {how.says}")
    return template


def _sampling(request: Request, how: HowTrained) -> Sampling:
    return Sampling(
        max_completion_tokens=request.max_completion_tokens or how.max_completion_tokens,
        temperature=request.temperature,
        seed=request.seed,
    )


def _questions(request: Request) -> tuple[Question, ...]:
    """Those of the data that are asked for."""
    loaded = load_questions(
        request.data, images_root=request.images, modality=request.modality, skip_bad=request.skip_bad
    ).questions
    return choose_questions(only_these(loaded, request.only), request.limit, per=request.limit_per)


def _open(request: Request, how: HowTrained, passes: Sequence[Pass], note: Callable[[str], None]) -> Opened:
    """The model. Raises BadInput where scorer or passes need a policy of ours and it is none."""
    opened = open_model(request.model, **_settings(request, how), endpoint=request.endpoint, note=note)
    if request.scorer not in READERS:
        opened.needs_policy(f"--scorer {request.scorer}")
    for one in passes:
        if one.looks_inside:
            opened.needs_policy(one.kind)
    return opened


def _facts(request: Request, num_questions: int) -> dict[str, Any]:
    """What config.json says of one test set."""
    facts: dict[str, Any] = {"data": request.data, "limit": request.limit, "scorer": request.scorer}
    facts |= {"limit_per": request.limit_per} if request.limit_per is not None else {}
    facts |= {"only": list(request.only)} if request.only else {}
    return facts | {"num_questions": num_questions}


@contextmanager
def _served_facts(opened: Opened, out: Path, name: str) -> Iterator[None]:
    """Keep what a server said and took, on top of what earlier calls wrote, also where it gave up."""
    try:
        yield
    finally:
        stored = out / "predictions" / f"{name}.jsonl"
        if opened.facts is not None and stored.is_file():
            path = out / "endpoint" / f"{name}.json"
            earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            write_json(path, opened.facts(read_predictions(stored).predictions, earlier))


def run_passes(main: MainPass, passes: Sequence[Pass]) -> Iterator[Finding]:
    """One finding per pass, each in `summary.json` before the next begins."""
    for one in passes:
        finding = Finding(kind=one.kind, values=one.ask(main), show=one.show)
        write_finding(main.out, finding.kind, main.header.name, finding.to_json())
        yield finding


def _settings(request: Request, how: HowTrained) -> dict[str, Any]:
    """Image bounds and precision: as asked for, else as trained."""
    return {
        "min_pixels": how.min_pixels if request.min_pixels is None else request.min_pixels,
        "max_pixels": how.max_pixels if request.max_pixels is None else request.max_pixels,
        "precision": request.precision or how.precision,
    }


def finish(
    out: Path,
    name: str,
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    blind: BlindFit | None,
) -> tuple[Summary, BlindBaseline]:
    """Fit the blind baseline, compute every number, write `blind/<name>.json` and `summary.json`."""
    header = read_predictions(out / "predictions" / f"{name}.jsonl").header
    clusters = {p.question_id: cluster_of(p) for p in predictions}
    fit_on, fit_name = (None, "") if blind is None else (blind.questions, blind.name)
    baseline = blind_baseline(questions, clusters, fit_on, fit_name)
    summary = summarize(predictions, header, baseline)
    write_json(out / "blind" / f"{name}.json", asdict(baseline))
    write_summary(out, summary)
    return summary, baseline


def without_test_questions(
    blind: BlindFit, questions: Sequence[Question], note: Callable[[str], None]
) -> BlindFit:
    """The blind baseline's questions that are not asked here. Raises BadInput where none is left."""
    asked = {(q.id, q.text, q.choices) for q in questions}
    kept = [q for q in blind.questions if (q.id, q.text, q.choices) not in asked]
    dropped = len(blind.questions) - len(kept)
    if not kept:
        raise BadInput(f"blind baseline: every question of {blind.name} is a test question; name other data")
    if not dropped:
        return blind
    note(f"blind baseline: {dropped} questions of {blind.name} are test questions; left out")
    return BlindFit(name=f"{blind.name}, without its {dropped} test questions", questions=kept)


def _holds_training(out: Path, how: HowTrained) -> bool:
    """Whether `out` is the training run that the model comes from: its own config.json stays.

    Raises BadInput where `out` holds any other run that is no evaluation.
    """
    path = out / "config.json"
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")).get("kind") == "evaluate":
        return False
    if how.run is not None and how.run.resolve() == out.resolve():
        return True
    raise BadInput(f"{out}: holds the training run of another model; choose another --out")


def _write_config(
    request: Request,
    opened: Opened,
    template: Template,
    sampling: Sampling,
    name: str,
    num_questions: int,
) -> None:
    path = request.out / "config.json"
    shared = {"model_digest": opened.digest, "template": template.name, **asdict(sampling)}
    shared |= opened.settings
    values: dict[str, Any] = {
        "kind": "evaluate",
        "model": request.model,
        "checkpoint": opened.checkpoint,
        **shared,
        "test_sets": {},
    }
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        for key, value in shared.items():
            if stored.get(key) != value:
                raise BadInput(
                    f"{request.out}: holds an evaluation with {key} = {stored.get(key)!r}, now asked with "
                    f"{value!r}; choose another --out"
                )
        values["test_sets"] = stored["test_sets"]
    values["test_sets"][name] = _facts(request, num_questions)
    write_json(path, values)


def _write_environment(out: Path, opened: Opened) -> None:
    write_json(
        out / "environment.json",
        {
            "osler": version("osler"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {package: version(package) for package in PACKAGES},
            "device": opened.device,
            "device_name": opened.device_name,
            "threads": torch.get_num_threads(),
            "model_digest": opened.digest,
        },
    )
