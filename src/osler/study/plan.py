"""From a study recipe to the graph of its jobs: a pure function of the recipe and what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from osler.config import TrainConfig, load_config, to_json
from osler.costs.flops import GroupWork, Scheme, rollout_flops
from osler.costs.workload import TEXT_TOKENS, image_patches, workload
from osler.data.views import NOISE_LEVELS
from osler.evaluate.server import SCHEME, EndpointOptions
from osler.evaluate.variants import ABLATIONS, NOISE, QUESTION_ONLY
from osler.prompts import get_template
from osler.study.graph import Job, in_order, job_to_json, key_of
from osler.study.inputs import Inputs, phantom_identity
from osler.study.predict import SERVED
from osler.study.recipe import ENDPOINT_WORDS, RowSpec, StudyRecipe
from osler.train.schedule import num_slots

DATA = "data"  # the placeholder of the data job's folder
PHANTOM, CONVERTED = "phantom", "questions"  # names of data jobs: the test set is called after them


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All jobs, parents first, and the cells that stay empty."""

    study: StudyRecipe
    jobs: tuple[Job, ...]
    untrained: tuple[str, ...]  # values of `train_on` without a training question
    untested: tuple[str, ...]  # values of `test_on` without a test question
    left_out: str = ""  # training questions that the test shows, in words; "" where nobody asked
    digests: Mapping[str, str] = field(default_factory=dict)  # of question files and weights, as named

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.study),
            "jobs": [job_to_json(job) for job in self.jobs],
            "untrained": list(self.untrained),
            "untested": list(self.untested),
            "left_out": self.left_out,
            "digests": dict(self.digests),
        }


@dataclass(frozen=True)
class _Places:
    """Where a job finds its questions; placeholders, or paths of files that are there."""

    job: Job | None
    train: tuple[str, str]  # path, split
    validation: tuple[str, str]
    test: str
    images: str


def models_of(study: StudyRecipe) -> Iterator[str]:
    """Every model that the study starts from or tests as it is, as NAME or NAME@REVISION."""
    for row in study.chosen_rows.values():
        if not row.recipe:
            yield study.model_of(row)
            continue
        for on in study.train_on:
            config = load_config(study.recipe_of(row, on), _overrides(study, row))
            yield _start(config)


def plan(study: StudyRecipe, inputs: Inputs) -> Plan:
    """Every job of the study, content-addressed."""
    places = _places(study, inputs)
    jobs = [] if places.job is None else [places.job]
    untrained = tuple(v for v in study.train_on if not inputs.train_counts.get(v))
    for name, row in study.chosen_rows.items():
        if not row.recipe:
            jobs.append(_test(study, inputs, places, name, row, None))
            continue
        for on in study.train_on:
            for seed in study.seeds_of(row) if on not in untrained else ():
                trained = _train(study, inputs, places, name, row, on, seed)
                jobs += [trained, _test(study, inputs, places, name, row, trained)]
    return Plan(
        study=study,
        jobs=in_order(jobs),
        untrained=untrained,
        untested=tuple(v for v in study.test_on if not inputs.test_counts.get(v)),
        left_out="" if inputs.left_out is None else f"{inputs.left_out.total:,}: {inputs.left_out}",
        digests={**inputs.digests, **inputs.models},
    )


def _places(study: StudyRecipe, inputs: Inputs) -> _Places:
    data = study.data
    if study.is_phantom:
        job = _phantom(study)
        out = f"{{{job.name}}}"
        return _Places(job, (f"{out}/train", ""), (f"{out}/validation", ""), f"{out}/test", "")
    if data.splits == "given":
        return _Places(None, (data.train, ""), ("", ""), data.test, data.images)
    job = _convert(study, inputs)
    out = f"{{{job.name}}}"
    return _Places(job, (out, "train"), (out, "validation"), f"{out}#test", "")


def _phantom(study: StudyRecipe) -> Job:
    made = phantom_identity(study)
    command = ["phantom", "{out}", "--images", str(made["images"]), "--seed", str(made["seed"])]
    command += ["--modalities", ",".join(made["modalities"])]
    work = float(made["images"] * len(made["modalities"]))
    return Job(
        name=PHANTOM,
        kind="data",
        command=tuple(command),
        key=key_of("data", made, ()),
        work=work,
        like="phantom",
    )


def _convert(study: StudyRecipe, inputs: Inputs) -> Job:
    data = study.data
    command = ["data", "convert", data.source, "{out}", "--split", "image", "--seed", str(data.seed)]
    if data.splits == "rebuilt":
        command += ["--rebuild-choices", "--one-stem"]
    if data.skip_bad:
        command.append("--skip-bad")
    depends_on = {"source": inputs.digests[data.source], "options": command[4:]}
    if data.images:
        command += ["--images", data.images]
    return Job(
        name=CONVERTED,
        kind="data",
        command=tuple(command),
        key=key_of("data", depends_on, ()),
        work=float(sum(inputs.test_counts.values())),
        like=f"convert {data.splits}",
    )


def _overrides(study: StudyRecipe, row: RowSpec) -> list[str]:
    chosen = [f"model.path={study.model}"] if study.model else []
    chosen += [f"template={row.template}"] if row.template else []
    return [*chosen, *study.overrides, *row.overrides]


def _train(
    study: StudyRecipe, inputs: Inputs, places: _Places, name: str, row: RowSpec, on: str, seed: int
) -> Job:
    path, split = places.train
    count = study.num_train_questions(row)
    overrides = [f"data.train={path}"]
    overrides += [f"data.train_split={split}"] if split else []
    overrides += [f"data.images={places.images}"] if places.images else []
    overrides += [f"data.without={study.data.test}"] if study.data.without_test else []
    overrides += ["data.skip_bad=true"] if study.data.skip_bad else []
    overrides += [f'data.{study.axis}=["{on}"]', f"data.num_questions={count}", "data.fewer_ok=true"]
    overrides += [f"seed={seed}", *_validation(study, inputs, places, on), *_overrides(study, row)]
    recipe = study.recipe_of(row, on)
    config = load_config(recipe, overrides)
    num_questions = min(count or inputs.train_counts[on], inputs.train_counts[on])
    parents = () if places.job is None else (places.job,)
    depends_on = {
        "config": _portable(to_json(config), inputs),
        "model": inputs.models[_start(config)],
        "processes": study.processes,
    }
    return Job(
        name=f"{name}-{on}-{seed}",
        kind="train",
        command=(config.method, recipe, "--out", "{out}", "--resume", *overrides),
        key=key_of("train", depends_on, parents),
        parents=tuple(parent.name for parent in parents),
        processes=study.processes,
        work=_training_work(config, inputs, num_questions),
        like=f"{config.method} {config.template} {_start(config)}",
        facts={"row": name, "on": on, "seed": seed, "model": _start(config)},
    )


def _validation(study: StudyRecipe, inputs: Inputs, places: _Places, on: str) -> Iterator[str]:
    """The value trained on first: it decides the best checkpoint."""
    path, split = places.validation
    if not study.validate_every_questions or not path:
        return
    for value in dict.fromkeys([on, *study.test_on]):
        if inputs.test_counts.get(value):
            where = f"validation.sets.{value}"
            yield f"{where}.data={path}"
            yield f'{where}.{study.axis}=["{value}"]'
            if split:
                yield f"{where}.split={split}"
    yield f"validation.every_questions={study.validate_every_questions}"
    yield f"validation.limit={study.validate_questions}"


def _test(
    study: StudyRecipe, inputs: Inputs, places: _Places, name: str, row: RowSpec, trained: Job | None
) -> Job:
    asked = row.template or (_template(study, row) if row.recipe else "")
    model = f"{{{trained.name}}}" if trained is not None else study.model_of(row)
    start = str(trained.facts["model"]) if trained is not None else model
    options = ["--template", asked, "--only", ",".join(study.test_on)]
    if study.test_questions:
        options += ["--limit", str(study.test_questions), "--limit-per", study.axis]
    options += ["--max-completion-tokens", str(study.max_completion_tokens)]
    options += ["--batch-size", str(study.batch_size)]
    options += ["--scorer", row.scorer] if row.scorer != "osler" else []
    options += ["--skip-bad"] if study.data.skip_bad else []
    if trained is None:
        options += _as_the_others(study, row)
    further = _passes(study, row, asked, model)
    options += [*further, *row.arguments]
    parents = [job for job in (places.job, trained) if job is not None]
    asking = row.endpoint or EndpointOptions()
    depends_on = {
        "model": "" if trained is not None else inputs.models[model],
        "data": inputs.digests.get(places.test, ""),
        # How a server is asked may change from one start to the next; what it is asked is the same.
        "options": [*options, *_differs(asking, "limit_parameter")],
    }
    images = ["--images", places.images] if places.images else []
    base = name if trained is None else trained.name
    return Job(
        name=f"{base}-test",
        kind="evaluate",
        command=(
            *("evaluate", "--model", model, "--data", places.test),
            *("--out", "{out}", *options, *_differs(asking, *ENDPOINT_WORDS), *images),
        ),
        key=key_of("evaluate", depends_on, parents),
        parents=tuple(job.name for job in parents),
        work=_testing_work(study, inputs, start) * _times_asked(study, row, further),
        like=f"{SERVED if model.startswith(SCHEME) else 'evaluate'} {asked} {start}",
        facts={
            "row": name,
            "on": "" if trained is None else trained.facts["on"],
            "seed": None if trained is None else trained.facts["seed"],
            "train": "" if trained is None else trained.name,
            "model": start,
            "template": asked,
        },
    )


def _differs(asking: EndpointOptions, *names: str) -> Iterator[str]:
    """Those options of an endpoint that are not as they are anyway, as on the command line."""
    usual = EndpointOptions()
    for name in names:
        value = getattr(asking, name)
        if value != getattr(usual, name):
            yield ENDPOINT_WORDS[name]
            yield from map(str, value if isinstance(value, tuple) else [value])


def _passes(study: StudyRecipe, row: RowSpec, asked: str, model: str) -> list[str]:
    """The further passes that this row can be asked, as on the command line."""
    wanted = study.evaluate if row.evaluate is None else row.evaluate
    served = model.startswith(SCHEME)
    ablate = [n for n in ABLATIONS if n in wanted.ablate and not (served and n == QUESTION_ONLY)]
    words = ["--ablate", ",".join(ablate)] if ablate else []
    words += ["--rotate"] if wanted.rotate else []
    words += ["--thinking"] if wanted.thinking and not served and get_template(asked).form == "think" else []
    words += ["--confidence"] if wanted.confidence and not served else []
    words += ["--samples", str(wanted.samples)] if wanted.samples and not served else []
    return words


def _times_asked(study: StudyRecipe, row: RowSpec, further: Sequence[str]) -> float:
    """How much more is asked than the questions as they are, roughly: for predicted times."""
    wanted = study.evaluate if row.evaluate is None else row.evaluate
    levels = len(NOISE_LEVELS) - 1 if NOISE in wanted.ablate else 0
    times = 1.0 + (len(wanted.ablate) + levels if "--ablate" in further else 0)
    times += 3.0 if "--rotate" in further else 0.0  # four choices
    times += 2.0 if "--thinking" in further else 0.0
    return times + (wanted.samples if "--samples" in further else 0)


def _template(study: StudyRecipe, row: RowSpec) -> str:
    return load_config(study.recipe_of(row, study.train_on[0]), _overrides(study, row)).template


def _as_the_others(study: StudyRecipe, row: RowSpec) -> list[str]:
    """A model that is not trained is shown images of the size, and in the precision, of those that are."""
    trained = next((other for other in study.rows.values() if other.recipe), None)
    if trained is None:
        return []
    config = load_config(study.recipe_of(trained, study.train_on[0]), _overrides(study, trained)).model
    bounds = ["--min-pixels", str(config.min_pixels), "--max-pixels", str(config.max_pixels)]
    return bounds if study.model_of(row).startswith(SCHEME) else [*bounds, "--precision", config.precision]


def _start(config: TrainConfig) -> str:
    revision = config.model.revision
    return f"{config.model.path}@{revision}" if revision else config.model.path


def _portable(values: Any, inputs: Inputs) -> Any:
    """The configuration with digests in place of paths: the same questions elsewhere are the same job."""
    if isinstance(values, Mapping):
        return {key: _portable(value, inputs) for key, value in values.items() if key != "images"}
    if isinstance(values, str):
        return inputs.digests.get(values, values)
    return values


def _training_work(config: TrainConfig, inputs: Inputs, num_questions: int) -> float:
    shape = inputs.shapes.get(_start(config))
    if shape is None:
        return 0.0
    grpo, sft = config.grpo, config.sft
    if config.method == "grpo":
        per_step = min(grpo.questions_per_step, num_questions)
        steps = num_slots(num_questions, per_step, grpo.epochs) * grpo.updates_per_rollout
        steps = min(steps, grpo.max_steps) if grpo.max_steps else steps
        config = replace(config, grpo=replace(grpo, questions_per_step=per_step))
    else:
        steps = sft.max_steps or num_slots(num_questions, sft.batch_size, sft.epochs)
    return float(steps * workload(config, shape.tower).flops(shape, Scheme.of(config)).useful)


def _testing_work(study: StudyRecipe, inputs: Inputs, model: str) -> float:
    most = study.test_questions
    counts: Sequence[int] = [inputs.test_counts.get(value, 0) for value in study.test_on]
    asked = sum(min(count, most) if most else count for count in counts)
    if model.startswith(SCHEME):
        return float(asked)
    shape = inputs.shapes.get(model)
    if shape is None:
        return 0.0
    patches = image_patches(shape.tower, _max_pixels(study))
    work = GroupWork(TEXT_TOKENS + patches // shape.tower.merge, (patches,), (study.max_completion_tokens,))
    return float(asked * rollout_flops(shape, work, Scheme(reference=False)).useful)


def _max_pixels(study: StudyRecipe) -> int:
    trained = next((row for row in study.rows.values() if row.recipe), None)
    if trained is None:
        return TrainConfig().model.max_pixels
    return load_config(study.recipe_of(trained, study.train_on[0])).model.max_pixels
