"""Every knob as frozen dataclasses; TOML in, resolved configuration out.

A recipe is a sparse TOML file: `[data]`, `[model]`, ... tables whose keys are the fields below, with
everything left out at its default. `extends = "other"` starts from another recipe. The command line
overrides single keys: `grpo.group_size=8 optim.lr=1e-5`. An unknown key is an error that names the
nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from osler.errors import BadInput

RECIPE_DIR = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which questions to train on."""

    train: str = ""  # path, recognised by what it holds
    train_split: str = ""  # keep questions of this split; "" keeps all
    images: str = ""  # where relative image paths start; "" = beside the questions
    modality: tuple[str, ...] = ()  # keep these modalities; empty keeps all
    question_type: tuple[str, ...] = ()  # keep these question types; empty keeps all
    without: str = ""  # leave out what this data set (a test set) shows: its images, its questions
    num_questions: int = 0  # draw this many; 0 keeps all
    fewer_ok: bool = False  # where there are fewer than `num_questions`, take them all
    selection: Literal["random", "first"] = "random"  # how `num_questions` are drawn
    selection_seed: int = 0  # of the draw; apart from `seed`, so that seeds share their questions
    skip_bad: bool = False
    permute_choices: bool = False  # a new order of the choices in every pass, keyed by (seed, pass, question)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which policy to start from, and how it is held."""

    path: str = "phantom-base"  # checkpoint folder, hub id, or "phantom-base" (ships with the package)
    revision: str = ""  # hub revision
    precision: Literal["fp32", "bf16"] = "fp32"  # of the matrix products
    master_weights: bool = True  # in fp32; False keeps weights and optimizer state in bf16 (decision 11)
    min_pixels: int = 3136  # MedVLM-R1 @2eee421 grpo.py:54-57
    max_pixels: int = 401408  # both papers' scripts: 512 image tokens
    freeze_vision_tower: bool = False
    gradient_checkpointing: bool = False
    microbatch_tokens: int = 8192  # in one forward of the loss; never changes the result (decision 15)
    lora_rank: int = 0  # 0 = full fine-tuning
    lora_alpha: float = 32.0
    mask_placeholders: bool = True  # vision placeholder tokens can never be sampled; off for parity runs


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "linear"  # after the warm-up, down to 0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0  # 0 switches clipping off


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300, section 4)."""

    group_size: int = 4
    questions_per_step: int = 8
    epochs: float = 1.0  # passes over the questions
    max_steps: int = 0  # stops earlier than `epochs` where > 0
    steps_per_rollout: int = 1  # optimizer steps fed by one rollout batch, over disjoint parts of it
    updates_per_rollout: int = 1  # how often each part is used (mu in the paper)
    max_completion_tokens: int = 256
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.04  # beta in the papers; 0 switches reference and KL off
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    offload_reference: bool = False  # keep the reference in CPU memory while it is not asked
    loss_aggregation: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
    normalize_std: bool = True
    mask_truncated: bool = False  # truncated completions earn rewards but are not trained on


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning on the template's own answer."""

    batch_size: int = 32  # questions per optimizer step
    epochs: float = 1.0
    max_steps: int = 0  # where > 0, this many optimizer steps, however many epochs that takes


@dataclass(frozen=True, kw_only=True)
class ValidationSetConfig:
    """One set of held-out questions."""

    data: str  # path, recognised by what it holds
    split: str = ""
    modality: tuple[str, ...] = ()  # keep these; empty keeps all
    question_type: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Accuracy on held-out questions while training; the first set decides the best checkpoint.

    Further sets (other modalities, say) show the out-of-domain curve and decide nothing.
    """

    sets: Mapping[str, ValidationSetConfig] = field(default_factory=dict)
    every_questions: int = 0  # question visits between validations; 0 = never
    limit: int = 0  # questions per set; 0 = all


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run, resolved. Written to `config.json` of the run folder."""

    method: Literal["grpo", "sft"] = "grpo"
    seed: int = 0
    template: str = "think"
    rewards: Mapping[str, float] = field(default_factory=lambda: {"format": 1.0, "accuracy": 1.0})
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2  # besides the best
    log_rollouts: bool = True
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


def recipe_names(folder: Path = RECIPE_DIR) -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(p.stem for p in folder.glob("*.toml"))


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe (a shipped name or a TOML path) and apply `key=value` overrides.

    Raises BadInput naming file and key for anything unknown, of the wrong type or out of range.
    """
    values = read_recipe(str(recipe), RECIPE_DIR)
    config: TrainConfig = build(TrainConfig, with_overrides(values, overrides), where=str(recipe))
    validate(config)
    return config


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The resolved configuration as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(values: Mapping[str, Any], where: str = "config.json") -> TrainConfig:
    """Inverse of `to_json`."""
    config: TrainConfig = build(TrainConfig, values, where=where)
    validate(config)
    return config


def validate(config: TrainConfig) -> None:
    """Refuse what cannot train, before anything is loaded."""
    g, s, o = config.grpo, config.sft, config.optim
    checks = [
        (g.group_size >= 2 or config.method != "grpo", "grpo.group_size must be at least 2"),
        (g.questions_per_step >= 1, "grpo.questions_per_step must be at least 1"),
        (g.steps_per_rollout >= 1 and g.updates_per_rollout >= 1, "grpo.*_per_rollout must be at least 1"),
        (g.max_completion_tokens >= 1, "grpo.max_completion_tokens must be at least 1"),
        (g.temperature > 0, "grpo.temperature must be above 0: a greedy group has no variance"),
        (g.clip_low >= 0 and g.clip_high >= 0, "grpo.clip_low and clip_high must not be negative"),
        (g.kl_coef >= 0, "grpo.kl_coef must not be negative"),
        (config.model.microbatch_tokens >= 1, "model.microbatch_tokens must be at least 1"),
        (s.batch_size >= 1, "sft.batch_size must be at least 1"),
        (o.lr > 0, "optim.lr must be above 0"),
        (config.model.min_pixels <= config.model.max_pixels, "model.min_pixels must be <= model.max_pixels"),
        (
            not (g.offload_reference and (config.model.lora_rank or g.kl_coef == 0)),
            "grpo.offload_reference has nothing to offload: with LoRA the reference is the adapter switched "
            "off, and without grpo.kl_coef there is none",
        ),
        (
            config.model.master_weights or config.model.precision == "bf16",
            "model.master_weights=false keeps weights in bf16 and needs model.precision=bf16",
        ),
        (config.checkpoint_every_steps >= 1, "checkpoint_every_steps must be at least 1"),
        (config.keep_checkpoints >= 1, "keep_checkpoints must be at least 1"),
        (bool(config.rewards) or config.method != "grpo", "rewards must name at least one reward"),
    ]
    for holds, message in checks:
        if not holds:
            raise BadInput(f"configuration: {message}")


def read_recipe(name: str, folder: Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a recipe of `folder`, or of a TOML file, with those of what it extends below them."""
    path = Path(name)
    if path.suffix != ".toml":
        path = folder / f"{name}.toml"
    if not path.is_file():
        names = recipe_names(folder)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(names)}"
        raise BadInput(f"recipe {name}: no such recipe or file; {hint}")
    if name in seen:
        raise BadInput(f"recipe {name}: extends itself ({' -> '.join((*seen, name))})")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"recipe {path.name}: not valid TOML: {error}") from error
    parent = values.pop("extends", None)
    return values if parent is None else _merge(read_recipe(parent, folder, (*seen, name)), values)


def with_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values with `key=value` texts applied, in place. Raises BadInput for one that is none."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise BadInput(f"override {override!r}: expected key=value, e.g. optim.lr=1e-5")
        _set_dotted(values, key.strip(), _parse_value(text))
    return values


def _merge(low: dict[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    # `rewards` and `validation.sets` are values as a whole: merging their keys would keep parts of the
    # parent's rubric that the child meant to replace.
    merged = dict(low)
    for key, value in high.items():
        whole = key in ("rewards", "sets")
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict) and not whole
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise BadInput(f"override {key}: {parent} is not a table")
    values[last] = value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: template=think


def build(cls: type, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    """A configuration dataclass from plain values. Raises BadInput naming what is unknown or missing."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise BadInput(f"{where}: unknown key {prefix}{key}{hint}")
        built[key] = _coerce(hints[key], value, where, prefix + key)
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in built
    ]
    if missing:
        raise BadInput(f"{where}: {prefix}{missing[0]} is missing")
    return cls(**built)


def _coerce(hint: Any, value: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise BadInput(f"{where}: {key} must be a table")
        return build(hint, value, where, key + ".")
    origin = typing.get_origin(hint)
    if origin is types.UnionType:  # of one type and None
        inner = next(one for one in typing.get_args(hint) if one is not types.NoneType)
        return None if value is None else _coerce(inner, value, where, key)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise BadInput(f"{where}: {key} = {value!r} must be one of {', '.join(map(repr, allowed))}")
        return value
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        items = [value] if isinstance(value, str) else value
        if inner is float and isinstance(items, (list, tuple)):
            items = [float(i) if type(i) is int else i for i in items]
        if not isinstance(items, (list, tuple)) or not all(type(i) is inner for i in items):
            words = {str: "strings", int: "whole numbers", float: "numbers"}
            raise BadInput(f"{where}: {key} must be a list of {words[inner]}")
        return tuple(items)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise BadInput(f"{where}: {key} must be a table")
        inner = typing.get_args(hint)[1]
        return {str(k): _coerce(inner, v, where, f"{key}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (hint is not bool and isinstance(value, bool)) or not isinstance(value, hint):
        raise BadInput(f"{where}: {key} = {value!r} must be of type {hint.__name__}")
    return value
