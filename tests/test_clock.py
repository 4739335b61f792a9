"""Where a step's seconds go, on a clock that stands still except where a test lets it run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme, StepFlops, rollout_flops, tower_flops, update_flops
from osler.costs.shape import model_shape
from osler.optim import RoundingAdamW
from osler.peak_memory import held_bytes, peak_bytes, reset_peak
from osler.policy import features
from osler.policy.forward import PolicyForward
from osler.policy.inputs import ImageInputs
from osler.policy.load import Policy, load_policy
from osler.rewards import Rubric
from osler.tracking import JsonLines
from osler.train import loop as loops
from osler.train.clock import Clock, HostTimeline
from osler.train.grpo.trainer import GrpoMethod
from osler.train.sft import SftMethod
from osler.train.useful import UsefulFlops
from training_case import config, run


class Hand:
    """A timeline that only `pass_` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def seconds(self, marks: list[float]) -> list[float]:
        return HostTimeline().seconds(marks)

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def test_a_moment_belongs_to_the_innermost_part() -> None:
    hand = Hand()
    clock = Clock(hand)
    hand.pass_(1)
    with clock.part("rollout"):
        hand.pass_(10)
        with clock.part("data"):
            hand.pass_(100)
        hand.pass_(1000)
    with pytest.raises(KeyError), clock.part("data"):
        hand.pass_(10_000)
        raise KeyError
    hand.pass_(100_000)
    parts = {"time/other": 100_001.0, "time/rollout": 1010.0, "time/data": 10_100.0}
    assert clock.stop() == {**parts, "time/step": sum(parts.values())}


def test_events_of_a_device_are_read_once_and_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundaries are recorded without waiting; only `stop` waits, for the last of them."""
    log: list[str] = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.name, Event.made = Event.made, Event.made + 1

        def record(self) -> None:
            log.append(f"record {self.name}")

        def synchronize(self) -> None:
            log.append(f"wait for {self.name}")

        def elapsed_time(self, later: Event) -> float:
            return 1e3 * (later.name - self.name)

    from osler.train import clock as clocks

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(clocks.timeline_of(torch.device("cuda")))
    with clock.part("loss"):
        pass
    assert clock.stop() == {"time/other": 2.0, "time/loss": 1.0, "time/step": 3.0}
    assert log == [*(f"record {n}" for n in range(4)), "wait for 3"]


ONE_GROUP = {"microbatch_tokens": 1}  # in a forward
# Seconds that each piece of a step takes on the stopped clock; powers of two, so that a sum names its terms.

PROMPT, ROLLOUT, SCORE, REFERENCE, FORWARD, STEP = (2.0**n for n in range(0, 24, 4))


def slowed(
    hand: Hand, seconds: float | Callable[..., float], original: Callable[..., Any]
) -> Callable[..., Any]:
    def slow(*arguments: Any, **named: Any) -> Any:
        hand.pass_(seconds(*arguments) if callable(seconds) else seconds)
        return original(*arguments, **named)

    return slow


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    from osler.train.grpo import trainer

    moved = Hand()

    def of_forward(forward: PolicyForward, *_: Any) -> float:
        """Scoring without gradient by the policy itself is the pass for old log-probabilities."""
        return REFERENCE if not next(forward.model.parameters()).requires_grad else FORWARD

    for owner, name, seconds in (
        (Policy, "prompt_inputs", PROMPT),
        (trainer, "complete", ROLLOUT),
        (Rubric, "score", SCORE),
        (PolicyForward, "forward", of_forward),
        (torch.optim.AdamW, "step", STEP),
        (RoundingAdamW, "step", STEP),
    ):
        monkeypatch.setattr(owner, name, slowed(moved, seconds, getattr(owner, name)))
    monkeypatch.setattr(loops, "timeline_of", lambda device: moved)
    return moved


def steps_of(cfg: TrainConfig, out: Path, images: Path) -> list[dict[str, float]]:
    run(cfg, out, images)
    return list(JsonLines(out / "metrics.jsonl"))


def test_every_piece_of_a_grpo_step_is_in_its_part(
    hand: Hand, tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    grpo = {"max_steps": 2}
    for step in steps_of(
        config(str(tiny_folder), grpo=grpo, model=ONE_GROUP), tmp_path / "run", image_folder
    ):
        assert {k: v for k, v in step.items() if k.startswith("time/")} == {
            "time/data": 2 * 2 * PROMPT,  # two questions, for rollout and for loss
            "time/rollout": ROLLOUT,
            "time/reward": 2 * 4 * SCORE,
            "time/reference": 2 * REFERENCE,
            "time/loss": 2 * FORWARD,
            "time/optimizer": STEP,
            "time/other": 0.0,
            "time/step": 4 * PROMPT + ROLLOUT + 8 * SCORE + 2 * REFERENCE + 2 * FORWARD + STEP,
        }


def test_old_logprobs_are_part_of_the_loss(
    hand: Hand, tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    grpo = {"max_steps": 2, "updates_per_rollout": 2, "kl_coef": 0.0}
    model = {"precision": "bf16", "master_weights": False}
    first, second = steps_of(config(str(tiny_folder), grpo=grpo, model=model), tmp_path / "run", image_folder)
    assert first["time/loss"] == 2 * FORWARD and "time/reference" not in first
    assert first["time/data"] == 3 * 2 * PROMPT
    assert second["time/loss"] == FORWARD and "time/rollout" not in second
    assert first["time/other"] == second["time/other"] == 0.0


def test_every_piece_of_an_sft_step_is_in_its_part(
    hand: Hand, tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    sft = {"batch_size": 3, "max_steps": 2}
    for step in steps_of(
        config(str(tiny_folder), method="sft", template="nothink", sft=sft, model=ONE_GROUP),
        tmp_path / "run",
        image_folder,
    ):
        assert step["time/data"] == 3 * PROMPT and step["time/loss"] == 3 * FORWARD
        assert step["time/optimizer"] == STEP and step["time/other"] == 0.0
        assert step["time/step"] == 3 * PROMPT + 3 * FORWARD + STEP
        assert step["throughput/tokens_per_second"] == pytest.approx(
            3 * step["completion/length_mean"] / step["time/step"]
        )


@pytest.mark.parametrize(("kl_coef", "updates"), [(0.04, 1), (0.04, 2)])
def test_utilisation_is_that_of_what_really_ran(
    hand: Hand,
    kl_coef: float,
    updates: int,
    tiny_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted again from the prompts and completions of each step."""
    monkeypatch.setattr(loops, "product_ceiling", lambda *_: 1e6)
    seen: list[list[GroupWork]] = []
    fill = GrpoMethod.fill_gradients

    def watch(method: GrpoMethod, step: int, clock: Clock) -> Any:
        report = fill(method, step, clock)
        works = []
        for pending in method.buffer:
            prompt = method.learner.policy.prompt_inputs(pending.group.question, method.template)
            patches = tuple(len(image.pixel_values) for image in prompt.images)
            lengths = tuple(len(r.completion.token_ids) for r in pending.group.rollouts)
            works.append(GroupWork(len(prompt.input_ids), patches, lengths))
        seen.append(works)
        return report

    monkeypatch.setattr(GrpoMethod, "fill_gradients", watch)
    grpo = {"max_steps": 4, "max_completion_tokens": 60, "kl_coef": kl_coef, "updates_per_rollout": updates}
    cfg = config(str(tiny_folder), grpo=grpo)
    steps = steps_of(cfg, tmp_path / "run", image_folder)
    shape = model_shape(load_policy(str(tiny_folder)).model.config.to_dict())
    scheme = Scheme(old_logprobs=updates > 1)
    assert len({w.completion_tokens for works in seen for w in works}) > 1  # lengths do vary
    for n, (step, works) in enumerate(zip(steps, seen, strict=True)):
        flops = sum(update_flops(shape, w, scheme).useful for w in works)
        if n % updates == 0:
            flops += sum(rollout_flops(shape, w, scheme).useful for w in works)
        # The watcher's own prompts are not on the step's clock: it looks after the parts are closed.
        extra = len(works) * PROMPT
        assert step["time/other"] == extra
        assert step["throughput/mfu"] == pytest.approx(flops / (step["time/step"] * 1e6))


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_frozen_tower_counts_where_images_walk_it(
    hand: Hand,
    method: str,
    tiny_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four images in three passes over six questions: walks are counted at the tower's own door."""
    monkeypatch.setattr(loops, "product_ceiling", lambda *_: 1e6)
    walks: list[list[int]] = []
    walk = features.image_features

    def watched(tower: Any, pixels: torch.Tensor, grids: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        walks[-1] += [math.prod(grid) for grid in grids]
        return walk(tower, pixels, grids)

    monkeypatch.setattr(features, "image_features", watched)
    seen: list[list[float]] = []

    def note(name: str, flops_of: Callable[..., StepFlops]) -> None:
        add = getattr(UsefulFlops, name)

        def noted(self: UsefulFlops, works: Iterable[GroupWork]) -> None:
            works = list(works)
            bare = [replace(work, image_patches=()) for work in works]
            seen[-1] += [flops_of(self.shape, work, Scheme.of(cfg)).useful for work in bare]
            add(self, works)

        monkeypatch.setattr(UsefulFlops, name, noted)

    note("add_rollout", rollout_flops)
    note("add_update", update_flops)
    kind: Any = GrpoMethod if method == "grpo" else SftMethod
    fill = kind.fill_gradients

    def beside_a_validation(self: Any, step: int, clock: Clock) -> Any:
        pixels = torch.zeros(16, self.useful.shape.tower.patch_values)
        walks.append([])
        self.learner.policy.features.features([ImageInputs(f"stray {step}", pixels, (1, 4, 4))])
        walks[-1].clear()
        seen.append([])
        return fill(self, step, clock)

    monkeypatch.setattr(kind, "fill_gradients", beside_a_validation)
    cfg = config(
        str(tiny_folder), method=method, template="nothink", model={"freeze_vision_tower": True},
        grpo={"epochs": 3.0}, sft={"batch_size": 2, "epochs": 3.0},
    )  # fmt: skip
    steps = steps_of(cfg, tmp_path / "run", image_folder)
    shape = model_shape(load_policy(str(tiny_folder)).model.config.to_dict())
    assert len(steps) == len(walks) == 9
    assert sum(map(len, walks[:3])) == 4 and not any(walks[3:])
    for step, patches, others in zip(steps, walks, seen, strict=True):
        tower = sum(sum(tower_flops(shape.tower, n)) for n in patches)
        assert step["throughput/mfu"] == pytest.approx((tower + sum(others)) / (step["time/step"] * 1e6))


def test_the_peak_is_that_of_the_stretch() -> None:
    cpu = torch.device("cpu")
    if not reset_peak(cpu):
        pytest.skip("this system does not let a process reset its peak memory")
    size = 2**27
    block = torch.ones(size, dtype=torch.uint8)
    before = held_bytes(cpu)
    del block
    high = peak_bytes(cpu)
    assert high >= before - 2**24
    assert reset_peak(cpu)
    assert peak_bytes(cpu) < high - size // 2
    assert math.isclose(peak_bytes(cpu), held_bytes(cpu), rel_tol=0.05)
