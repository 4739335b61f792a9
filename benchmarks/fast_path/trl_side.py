"""TRL's side: a real GRPOTrainer on a case; every number comes out of TRL's own functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from benchmarks.fast_path.case import Case, nudge
from benchmarks.fast_path.models import ASK
from benchmarks.fast_path.rows import KL_COEF, Scale
from osler.records import Question

# What `_generate_and_score_completions` returns and `_get_per_token_logps_and_entropies` takes.
FORWARD_KEYS = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")


@dataclass(frozen=True)
class Variant:
    """How TRL is set up. What is not named here is equal on both sides, or TRL's default."""

    name: str
    rows_per_microbatch: int
    gradient_checkpointing: bool
    weights: torch.dtype = torch.float32
    cache: str | None = None  # of `generate`: None (grows) or "static"
    compile_decode: bool = False  # TRL switches it off
    opponent: str = "trl"  # whose bar it counts for


def equal_weights(scale: Scale) -> torch.dtype:
    """The type in which Osler holds its weights there."""
    return torch.float32 if scale.master_weights else torch.bfloat16


def variants(case: Case) -> list[tuple[Variant, ...]]:
    """TRL at its defaults (8 rows per device, checkpointing), and tuned: of each tuple the fastest counts."""
    rows, cuda = case.rows_per_step, case.scale.device == "cuda"
    weights = equal_weights(case.scale)
    defaults = Variant("TRL defaults", min(8, rows), True)
    tuned = Variant("TRL tuned", min(8, rows), False, weights)
    if case.row.work == "rollout" and cuda:
        compiled = replace(tuned, name="static cache, compiled", cache="static", compile_decode=True)
        return [(defaults,), (tuned,), (replace(compiled, opponent="static"),)]
    if case.row.work == "rollout":
        return [(defaults,), (replace(tuned, name="TRL, static cache", cache="static"),)]
    sizes = sorted({min(n, rows) for n in ((8,) if cuda else (4, 8, 16))})
    sized = (replace(tuned, name=f"TRL tuned, {n} rows", rows_per_microbatch=n) for n in sizes)
    return [(defaults,), tuple(v for v in sized if rows % v.rows_per_microbatch == 0)]


def even_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward of `benchmarks.full_size:even_tokens`, in TRL's form."""
    return [sum(t % 2 == 0 for t in ids) / len(ids) for ids in completion_ids]


def load_processor(folder: Path, same_pixels: bool = True) -> Any:
    """The processor of a checkpoint as TRL loads it, by default with the image backend that Osler uses."""
    processor = AutoProcessor.from_pretrained(folder, padding_side="left", local_files_only=True)
    if not same_pixels:
        return processor
    # The backend is not passed above: video processors have no "pil".
    processor.image_processor = AutoImageProcessor.from_pretrained(
        folder, backend="pil", local_files_only=True
    )
    return processor


def build_trainer(
    case: Case,
    variant: Variant,
    reward: Callable[..., list[float]],
    *,
    mask_placeholders: bool = False,
    same_pixels: bool = True,
    beta: float = KL_COEF,
) -> GRPOTrainer:
    """TRL's trainer with every completion forced to its full length, ready as inside `train()`.

    Images go through the backend that Osler uses, or without `same_pixels` through TRL's own choice.
    """
    row, cuda = case.row, case.scale.device == "cuda"
    generation: dict[str, Any] = {"min_new_tokens": row.completion_tokens}
    if not mask_placeholders:
        generation["suppress_tokens"] = None
    config = GRPOConfig(
        output_dir=str(case.folder / "trl"),
        use_cpu=not cuda,
        bf16=case.scale.precision == "bf16",
        per_device_train_batch_size=variant.rows_per_microbatch,
        gradient_accumulation_steps=case.rows_per_step // variant.rows_per_microbatch,
        num_generations=row.group_size,
        max_completion_length=row.completion_tokens,
        generation_kwargs=generation,
        cache_implementation=variant.cache,
        gradient_checkpointing=variant.gradient_checkpointing,
        beta=beta,
        loss_type="grpo",
        use_bias_correction_kl=False,  # the papers' k3, as Osler's recipe has it
        shuffle_dataset=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForImageTextToText.from_pretrained(
        case.checkpoint, dtype=variant.weights, local_files_only=True
    )
    rows = dataset_rows(case, case.first_questions)
    trainer = GRPOTrainer(
        model=model,
        processing_class=load_processor(case.checkpoint, same_pixels),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows[:: row.group_size]),
    )
    # What `train()` does before its first step.
    if variant.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable(config.gradient_checkpointing_kwargs)
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    trainer.model.train()
    if variant.compile_decode:
        trainer.generation_config.disable_compile = False
    return trainer


def dataset_rows(case: Case, questions: tuple[Question, ...]) -> list[dict[str, Any]]:
    """Each question `group_size` times in a row, as TRL's sampler repeats them, images decoded."""
    rows = []
    for question in questions:
        turn = {"role": "user", "content": ASK.user_text(question)}
        image = Image.open(question.images[0]).convert("RGB")
        rows += [{"prompt": [turn], "image": image}] * case.row.group_size
    return rows


class TrlUpdate:
    """Reference, loss and backward with the case's completions.

    The policy is nudged off its reference, unless `at_start`.
    """

    def __init__(self, case: Case, variant: Variant, at_start: bool = False) -> None:
        rewards = [reward for group in case.rewards for reward in group]
        self.trainer = build_trainer(case, variant, lambda **_: list(rewards))
        self.variant = variant
        if not at_start:
            nudge(self.trainer.model)
        self.inputs = forced_inputs(self.trainer, case, [list(c) for g in case.completions for c in g])

    @property
    def model(self) -> Any:
        return self.trainer.model

    def run(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.update_in_place()

    def update_in_place(self) -> None:
        """The same on top of the gradients that are there."""
        trainer = self.trainer
        with torch.no_grad(), disable_gradient_checkpointing(self.model):
            reference = per_token_logps(trainer, trainer.ref_model, self.inputs)
        inputs = {**self.inputs, "ref_per_token_logps": reference}
        parts = split_tensor_dict(split_pixel_values_by_grid(inputs), trainer.args.steps_per_generation)
        for part in parts:
            loss = trainer.compute_loss(trainer.model_wrapped, unsplit_pixel_values_by_grid(part))
            trainer.accelerator.backward(loss)

    @torch.no_grad()
    def logprobs(self) -> Tensor:
        """Log-probabilities of the case's completions under the policy, [questions * G, T]."""
        return per_token_logps(self.trainer, self.model, self.inputs)

    def prompt_ids(self) -> list[list[int]]:
        """Token ids of the prompt of every row, padding cut off."""
        ids, mask = self.inputs["prompt_ids"], self.inputs["prompt_mask"].bool()
        return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def per_token_logps(trainer: GRPOTrainer, model: Any, inputs: dict[str, Any]) -> Tensor:
    """TRL's own log-probabilities, called as its trainer calls it."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    return trainer._get_per_token_logps_and_entropies(
        model,
        ids,
        mask,
        inputs["completion_ids"].size(1),
        batch_size=trainer.args.per_device_train_batch_size,
        **{key: inputs[key] for key in FORWARD_KEYS},
    )[0]


def forced_inputs(trainer: GRPOTrainer, case: Case, completions: list[list[int]]) -> dict[str, Any]:
    """What TRL's trainer makes of these completions, one list of token ids per row."""

    def given(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}

    trainer.rollout_func = given
    inputs = trainer._generate_and_score_completions(dataset_rows(case, case.first_questions))
    trainer.rollout_func = None
    return inputs


class TrlRollout:
    """TRL's `generate` on prompts that are already tokenized and preprocessed."""

    def __init__(self, case: Case, variant: Variant) -> None:
        self.trainer = build_trainer(case, variant, even_tokens, beta=0.0)  # nobody asks its reference
        prompts = [r["prompt"] for r in dataset_rows(case, case.first_questions)]
        images = [r["image"] for r in dataset_rows(case, case.first_questions)]
        content = [
            [{"role": "user", "content": [{"type": "image", "image": i}, {"type": "text", "text": t}]}]
            for i, t in zip(images, (p[0]["content"] for p in prompts), strict=True)
        ]
        self.prompts = self.trainer._tokenize_prompts(content)
        self.group_size = case.row.group_size

    def run(self) -> list[list[int]]:
        ids, images, fields = self.prompts
        return self.trainer._generate_single_turn(ids, images, fields, self.group_size)[0]


class TrlSteps:
    """Whole steps: TRL's `training_step` as often as it accumulates, clipping, optimizer."""

    def __init__(self, case: Case, variant: Variant) -> None:
        self.case = case
        self.trainer = build_trainer(case, variant, even_tokens, mask_placeholders=True, same_pixels=False)
        self.trainer.create_optimizer()
        count = case.scale.questions
        parts = [case.questions[i : i + count] for i in range(0, len(case.questions), count)]
        self.batches = iter([dataset_rows(case, part) for part in parts])

    def run(self) -> None:
        trainer, batch = self.trainer, next(self.batches)
        for _ in range(trainer.args.gradient_accumulation_steps):
            trainer.training_step(trainer.model_wrapped, batch, None)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
