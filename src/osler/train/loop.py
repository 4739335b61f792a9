"""The loop that GRPO and SFT share: steps, validation, checkpoints, logs, signals.

A method fills the gradients of one step; everything else happens here. A run can be stopped at any step
and goes on as if it had never been: question order and samples are functions of (seed, step), and the
checkpoint holds weights, optimizer moments and whatever rollouts are still to be used.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from osler import checkpoint as checkpoints
from osler.ceilings import matmul_ceiling
from osler.config import TrainConfig, to_json
from osler.errors import BadInput
from osler.optim import build_optimizer, clip_gradients, learning_rate
from osler.peak_memory import peak_bytes, reset_peak
from osler.policy.load import Policy, load_policy
from osler.prompts import Template
from osler.runtime import World
from osler.signals import SignalWatch, Stop
from osler.tracking import JsonLines, check_metric_names, write_json
from osler.train.clock import Clock, timeline_of
from osler.train.validation import ValidationSet, validate

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class StepReport:
    """What one step did, before the optimizer: metrics of the whole step, and log records."""

    metrics: dict[str, float]
    question_visits: int
    tokens: int
    useful_flops: int  # of all processes
    rollouts: list[dict[str, Any]] = field(default_factory=list)


class Method(Protocol):
    """GRPO or SFT: fills gradients, and can hand over what is pending between two steps."""

    num_steps: int

    def fill_gradients(self, step: int, clock: Clock) -> StepReport:
        """Add this process's share of the step's gradient to `.grad`."""
        ...

    def pending(self) -> dict[str, Any]:
        """JSON of what later steps still need from earlier ones."""
        ...

    def restore(self, pending: Mapping[str, Any]) -> None: ...

    def close(self) -> None:
        """End what runs beside the steps."""
        ...


@dataclass
class Learner:
    """A policy being trained: what trains, its adapter if any, its optimizer."""

    policy: Policy
    adapter: Any  # PeftModel or None
    named_parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.named_parameters.values())


def build_learner(
    config: TrainConfig, run: Path, world: World, resumed: checkpoints.Restored | None
) -> Learner:
    """Load the policy (from the checkpoint where resuming), choose what trains, build the optimizer."""
    model = config.model
    from_checkpoint = resumed is not None and not model.lora_rank
    policy = load_policy(
        str(resumed.folder) if from_checkpoint and resumed else model.path,
        revision="" if from_checkpoint else model.revision,
        precision=model.precision,
        min_pixels=model.min_pixels,
        max_pixels=model.max_pixels,
        mask_placeholders=model.mask_placeholders,
        master_weights=model.master_weights,
        device=world.device,
    )
    adapter = None
    if model.lora_rank:
        adapter = _add_lora(policy, config, run, world)
        if resumed is not None:
            checkpoints.restore_adapter(resumed.folder, adapter)
    if model.lora_rank or model.freeze_vision_tower:
        policy.keep_features()
    named = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(named.values(), config.optim, config.seed)
    if resumed is not None:
        checkpoints.restore_optimizer(resumed.folder, optimizer, named)
    return Learner(policy, adapter, named, optimizer)


def _add_lora(policy: Policy, config: TrainConfig, run: Path, world: World) -> Any:
    """Wrap the model; the adapter will say what it sits on, so that it can be loaded again.

    Where training starts from another adapter, the base with that one merged in exists nowhere yet and is
    written to `start/` of the run folder.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)  # the adapter's random half is part of the run
    lora = LoraConfig(
        r=config.model.lora_rank,
        lora_alpha=config.model.lora_alpha,  # type: ignore[arg-type]  # any number works
        target_modules=LORA_TARGETS,
        lora_dropout=0.0,
        revision=config.model.revision or None,
    )
    base = config.model.path
    if policy.is_merged:
        base = checkpoints.MERGED_START
        start = run / "start"
        if world.is_main and not (start / "config.json").is_file():
            checkpoints.save_policy(policy, start)
    elif policy.folder is not None and base != "phantom-base":
        base = str(policy.folder.resolve())
    adapted = get_peft_model(policy.model, lora)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def frozen_copy(policy: Policy) -> Any:
    """The model as it is now, without gradients: the reference of full fine-tuning.

    Where products are taken in bf16, matrices that nothing but products read are kept in bf16. That is half
    the memory and, bit for bit, the same log-probabilities: autocast would round the same weights each time.
    A frozen tower is left out: the reference reads the features that the policy keeps.
    """
    left_out = {} if policy.features is None else {id(policy.model.model.visual): None}
    model = copy.deepcopy(policy.model, left_out).requires_grad_(False).eval()
    if policy.precision == "bf16":
        looked_up = model.get_input_embeddings().weight  # the head too, where they are tied
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)) and module.weight is not looked_up:
                module.weight.data = module.weight.data.to(torch.bfloat16)
    return model


class TrainingLoop:
    """Runs a method to its last step in a run folder."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        world: World,
        learner: Learner,
        method: Method,
        template: Template,
        validation: Sequence[ValidationSet] = (),
        resumed: checkpoints.Restored | None = None,
    ) -> None:
        self.config, self.run, self.world = config, run, world
        self.learner, self.method, self.template = learner, method, template
        self.validation = validation
        self.console = Console(stderr=True, quiet=not world.is_main)
        self.flops_ceiling = sum(world.gather(product_ceiling(config, world.device)))
        self.metrics_log = JsonLines(run / "metrics.jsonl")
        self.rollouts_log = JsonLines(run / "rollouts.jsonl")
        state = resumed.trainer if resumed is not None else {}
        self.step: int = state.get("step", 0)
        self.visits: int = state.get("question_visits", 0)
        self.best: dict[str, Any] | None = state.get("best")
        self.validated_at: int = state.get("validated_at", 0)  # question visits
        if resumed is not None:
            method.restore(state["pending"])
        if world.is_main:
            self._forget_the_future()

    def _forget_the_future(self) -> None:
        for log in (self.metrics_log, self.rollouts_log):
            dropped = log.truncate(lambda record: 0 < self.step >= record["step"])
            if dropped:
                self.console.print(f"{log.path.name}: {dropped} records after step {self.step} dropped")

    def train(self) -> dict[str, Any]:
        """Run to the end; returns the summary. Raises Stop after saving where a signal asked for it."""
        with closing(self.method):
            return self._train()

    def _train(self) -> dict[str, Any]:
        total = self.method.num_steps
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        with SignalWatch() as signals, Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(self.config.method, total=total, completed=self.step, shown="")
            if self.step == 0:
                self._validate(force=True)
            while self.step < total:
                metrics = self._one_step()
                progress.update(bar, completed=self.step, shown=_shown(metrics))
                validated = self._validate(force=self.step == total)
                asked = [s for s in self.world.gather(signals.received) if s is not None]
                due = self.step % self.config.checkpoint_every_steps == 0 or self.step == total
                if due or asked or validated:
                    self._save()
                if asked and self.step < total:
                    raise Stop(asked[0])
        return self._summary()

    def _one_step(self) -> dict[str, float]:
        reset_peak(self.world.device)
        clock = Clock(timeline_of(self.world.device))
        optimizer, parameters = self.learner.optimizer, self.learner.parameters
        optimizer.zero_grad(set_to_none=True)
        report = self.method.fill_gradients(self.step, clock)
        with clock.part("optimizer"):
            self.world.sum_gradients(parameters)
            norm = float(clip_gradients(parameters, self.config.optim.max_grad_norm))
            if not torch.isfinite(torch.tensor(norm)):
                raise RuntimeError(
                    f"step {self.step + 1}: gradient norm is {norm}; nothing of this step was applied. "
                    "Lower optim.lr or look at rollouts.jsonl of the steps before"
                )
            lr = learning_rate(self.step, self.method.num_steps, self.config.optim)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        self.step += 1
        self.visits += report.question_visits
        parts = clock.stop()
        seconds = parts["time/step"]
        metrics = {
            **report.metrics,
            **parts,
            "optim/lr": lr,
            "optim/grad_norm": norm,
            "progress/questions": float(self.visits),
            "throughput/tokens_per_second": report.tokens / seconds,
            "throughput/mfu": report.useful_flops / (seconds * self.flops_ceiling),
            "memory/peak_bytes": float(peak_bytes(self.world.device)),
        }
        self._log(metrics)
        if self.world.is_main and self.config.log_rollouts:
            for record in report.rollouts:
                self.rollouts_log.append({"step": self.step, **record})
        return metrics

    def _log(self, metrics: Mapping[str, float]) -> None:
        check_metric_names(metrics)
        if self.world.is_main:
            self.metrics_log.append({"step": self.step, **metrics})

    def _validate(self, force: bool) -> bool:
        """Validate where due by question count; the first set's accuracy decides the best checkpoint.

        A later checkpoint replaces the best only where it is strictly better.
        """
        every = self.config.validation.every_questions
        if not self.validation or not every:
            return False
        if not force and self.visits // every == self.validated_at // every:
            return False
        limit = self.config.grpo.max_completion_tokens
        policy = self.learner.policy
        found = list(validate(policy, self.template, limit, self.world, self.validation, self.run))
        self._log(
            {
                "progress/questions": float(self.visits),
                **{name: value for one in found for name, value in one.metrics().items()},
            }
        )
        for one in found:
            self.console.print(f"step {self.step}, {one}", highlight=False)
        self.validated_at = self.visits
        if self.step > 0 and (self.best is None or found[0].accuracy > self.best["accuracy"]):
            self.best = {"step": self.step, **found[0].to_json()}
        return self.step > 0

    def _save(self) -> None:
        pending = self.method.pending()  # collective: every process takes part
        if self.world.is_main:
            trainer = {
                "step": self.step,
                "question_visits": self.visits,
                "best": self.best,
                "validated_at": self.validated_at,
                "pending": pending,
                "config": to_json(self.config),
            }
            checkpoints.save_checkpoint(
                self.run,
                self.step,
                self.learner.policy,
                self.learner.optimizer,
                self.learner.named_parameters,
                trainer,
                self.learner.adapter,
            )
            protected = None if self.best is None else int(self.best["step"])
            checkpoints.remove_old(self.run, self.config.keep_checkpoints, protected)
        self.world.barrier()

    def _summary(self) -> dict[str, Any]:
        summary = {
            "method": self.config.method,
            "template": self.config.template,
            "steps": self.step,
            "question_visits": self.visits,
            "final_checkpoint": f"checkpoints/step_{self.step:06d}",
            "best": self.best,
            "best_rule": "highest accuracy on the first validation set; the earlier step where equal",
        }
        if self.world.is_main:
            path = self.run / "summary.json"
            stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            write_json(path, {**stored, "training": summary})
        return summary


def _shown(metrics: Mapping[str, float]) -> str:
    names = ("reward/total", "reward/accuracy", "loss/total", "completion/length_mean")
    return "  ".join(f"{n} {metrics[n]:.3f}" for n in names if n in metrics)


def product_ceiling(config: TrainConfig, device: torch.device) -> float:
    """Operations per second of this device's matrix products in the precision of the run, measured."""
    return matmul_ceiling(device.type, torch.bfloat16 if config.model.precision == "bf16" else torch.float32)


def check_resumable(run: Path, config: TrainConfig) -> None:
    """A run goes on only under the configuration it was started with. Raises BadInput naming the key."""
    stored = json.loads((run / "config.json").read_text(encoding="utf-8"))
    differing = _first_difference(stored, to_json(config), "")
    if differing:
        raise BadInput(f"run {run}: --resume with another configuration: {differing}; start a new run")


def _first_difference(stored: Any, now: Any, prefix: str) -> str:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in sorted(stored.keys() | now.keys()):
            found = _first_difference(stored.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
            if found:
                return found
        return ""
    return "" if stored == now else f"{prefix} was {stored!r}, is {now!r}"
