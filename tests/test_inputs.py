"""What a step is fed: images decoded once, a frozen tower walked once, the next batch made beside."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from osler.data.folder import write_folder
from osler.errors import BadInput
from osler.policy import features, forward, load
from osler.policy.bounded import BoundedCache
from osler.policy.forward import PolicyForward
from osler.policy.inputs import ImageInputs, pad_completions
from osler.policy.load import Policy, load_policy
from osler.prompts import get_template
from osler.records import Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling
from osler.runtime import World
from osler.signals import Stop
from osler.tracking import JsonLines
from osler.train import loop as loops
from osler.train import sft
from osler.train.ahead import Ahead
from osler.train.grpo import trainer
from osler.train.loop import build_learner, frozen_copy
from osler.train.schedule import slot_questions
from tiny_model import write_tiny_model
from training_case import config, questions, run

TEMPLATE = get_template("nothink")
FROZEN = {
    "lora": {"model": {"lora_rank": 4}},
    "frozen": {"model": {"freeze_vision_tower": True}},
    "frozen, reference away": {"model": {"freeze_vision_tower": True}, "grpo": {"offload_reference": True}},
    "frozen, bf16": {"model": {"freeze_vision_tower": True, "precision": "bf16"}},
    "sft": {"method": "sft", "template": "nothink", "sft": {"epochs": 2.0}, "model": {"lora_rank": 4}},
}
TRAINED = {
    "grpo": {},
    "sft": {"method": "sft", "template": "nothink", "sft": {"batch_size": 4, "epochs": 2.0}},
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image file was decoded for the model."""
    counts: Counter[str] = Counter()
    open_image = load.open_image

    def counted(path: str) -> Any:
        counts[path] += 1
        return open_image(path)

    monkeypatch.setattr(load, "open_image", counted)
    return counts


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int, int]]]:
    """The images of every pass through a tower, as their grids."""
    passes: list[list[tuple[int, int, int]]] = []
    image_features = features.image_features

    def counted(tower: Any, pixels: Any, grids: Any, **options: Any) -> Any:
        passes.append(list(grids))
        return image_features(tower, pixels, grids, **options)

    monkeypatch.setattr(features, "image_features", counted)
    monkeypatch.setattr(forward, "image_features", counted)
    return passes


@pytest.fixture
def validated(image_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A validation set on the same images, asked before, between and after the steps."""
    write_folder(questions(image_folder), tmp_path / "validation")
    return {"sets": {"same": {"data": str(tmp_path / "validation")}}, "every_questions": 4}


def losses(run_folder: Path) -> list[float]:
    return [r["loss/total"] for r in JsonLines(run_folder / "metrics.jsonl") if "loss/total" in r]


# ---- the bounded cache -----------------------------------------------------------------------------


def test_the_cache_holds_its_bound_and_drops_what_was_used_longest_ago() -> None:
    made: list[str] = []

    def make(key: str) -> Callable[[], str]:
        return lambda: made.append(key) or key  # type: ignore[func-returns-value]

    cache = BoundedCache[str](10, len)
    for key in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        assert cache.get(key, make(key)) == key
        assert cache.held_bytes <= 10
    assert made == ["aaaa", "bbbb", "cccc", "bbbb"]
    assert cache.get("x" * 11, make("x" * 11)) == "x" * 11, "too large to hold, and served all the same"
    assert cache.held_bytes == 0 == len(cache)


def test_threads_that_want_the_same_value_wait_for_one_of_them() -> None:
    made: list[int] = []

    def make() -> int:
        time.sleep(0.02)
        made.append(1)
        return 7

    cache = BoundedCache[int](10, lambda _: 1)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("k", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 5 and made == [1]


def test_images_are_told_apart_by_content_and_pixel_bounds(
    tiny_folder: Path, image_folder: Path, tmp_path: Path, decoded: Counter[str]
) -> None:
    policy = load_policy(str(tiny_folder))
    copy = str(shutil.copy(image_folder / "0.png", tmp_path / "copy.png"))
    first, again = policy.image_inputs(str(image_folder / "0.png")), policy.image_inputs(copy)
    assert again is first and sum(decoded.values()) == 1, "the same bytes under another name"
    policy.image_processor.size = {"shortest_edge": 12544, "longest_edge": 401408}
    larger = policy.image_inputs(copy)
    assert larger.pixel_values.shape[0] > first.pixel_values.shape[0] and sum(decoded.values()) == 2
    policy.images.limit = 0
    assert policy.image_inputs(str(image_folder / "1.png")) is not policy.image_inputs(
        str(image_folder / "1.png")
    )
    assert policy.images.held_bytes == 0


@pytest.mark.parametrize("case", [{}, *FROZEN.values()], ids=["full", *FROZEN])
def test_each_image_is_decoded_once_per_run(
    case: dict[str, Any],
    validated: dict[str, Any],
    tiny_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    decoded: Counter[str],
) -> None:
    """Two epochs with rollout, reference, loss, and validation on copies of the images."""
    run(config(str(tiny_folder), **case, validation=validated), tmp_path / "run", image_folder)
    assert sum(decoded.values()) == 4, decoded


# ---- features of a frozen tower --------------------------------------------------------------------


@pytest.mark.parametrize("case", FROZEN.values(), ids=FROZEN)
def test_a_frozen_tower_sees_each_image_once_per_run(
    case: dict[str, Any],
    validated: dict[str, Any],
    tiny_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    walked: list[list[Any]],
) -> None:
    run(config(str(tiny_folder), **case, validation=validated), tmp_path / "run", image_folder)
    assert len(walked) == 4 and all(len(grids) == 1 for grids in walked)


@pytest.mark.parametrize("case", TRAINED.values(), ids=TRAINED)
def test_a_trained_tower_sees_each_image_once_per_pass(
    case: dict[str, Any], tiny_folder: Path, image_folder: Path, tmp_path: Path, walked: list[list[Any]]
) -> None:
    """GRPO: rollout, reference and loss, whatever the group size; SFT: the loss alone."""
    cfg = config(str(tiny_folder), **case)
    asked = questions(image_folder)
    size = cfg.grpo.questions_per_step if cfg.method == "grpo" else cfg.sft.batch_size
    order = [slot_images(asked, slot, size, cfg.seed) for slot in range(2 * -(-len(asked) // size))]
    run(cfg, tmp_path / "run", image_folder)
    passes = 3 if cfg.method == "grpo" else 1
    assert [len(grids) for grids in walked] == [n for images in order for n in [len(images)] * passes]


def slot_images(asked: list[Question], slot: int, size: int, seed: int) -> set[str]:
    return {image for q in slot_questions(asked, slot, size, seed, permute=False) for image in q.images}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_features_change_neither_logprobs_nor_gradients(
    family: str, precision: str, image_folder: Path, tmp_path: Path, walked: list[list[Any]]
) -> None:
    """Several images in one batch, one of them shown twice, against the tower on all of them at once."""
    folder = write_tiny_model(tmp_path / "model", family=family)
    asked = questions(image_folder)
    found = []
    for kept in (False, True):
        policy = load_policy(str(folder), precision=precision)
        if kept:
            policy.keep_features()
        else:
            policy.model.model.visual.requires_grad_(False)
        ids, mask = pad_completions([[[30, 31, 32], [40]]] * len(asked), policy.pad_id, "cpu")
        processor = policy.logits_processor(1.0)
        model_forward = PolicyForward(policy.model, processor, precision, features=policy.features)
        prompts = [policy.prompt_inputs(q, TEMPLATE) for q in asked]
        for _ in range(2):
            policy.model.zero_grad()
            logprobs, _ = model_forward(policy.batch(prompts), ids, mask)
            logprobs.square().sum().backward()
        rows = complete(policy, asked, TEMPLATE, Sampling(6))
        gradients = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
        found.append((logprobs.detach(), gradients, [c.token_ids for (c,) in rows]))
    (plain, plain_gradients, plain_tokens), (cached, cached_gradients, cached_tokens) = found
    assert [len(grids) for grids in walked] == [4, 4, 4, 1, 1, 1, 1]
    # Features are rounded to bf16 where products are taken in it, so one of them may land a step aside.
    near = 1e-6 if precision == "fp32" else 1e-2
    assert (plain - cached).norm() <= near * plain.norm()
    assert (plain_gradients - cached_gradients).norm() <= near * plain_gradients.norm()
    assert plain_tokens == cached_tokens or precision == "bf16"


def test_training_on_kept_features_is_training_without(
    tiny_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(str(tiny_folder), model={"lora_rank": 4}, grpo={"max_steps": 4})
    run(cfg, tmp_path / "kept", image_folder)
    monkeypatch.setattr(Policy, "keep_features", lambda self: self.model.model.visual.requires_grad_(False))
    run(cfg, tmp_path / "walked", image_folder)
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "walked"), abs=1e-6)


def images_of(policy: Policy, image_folder: Path) -> list[ImageInputs]:
    return [policy.image_inputs(str(image_folder / f"{i}.png")) for i in range(4)]


def test_features_never_outlive_the_weights_they_came_from(
    tiny_folder: Path, image_folder: Path, walked: list[list[Any]]
) -> None:
    policy = load_policy(str(tiny_folder))
    policy.keep_features()
    assert policy.features is not None
    images, tower = images_of(policy, image_folder), policy.model.model.visual
    before = policy.features.features(images)
    assert all(a is b for a, b in zip(policy.features.features(images), before, strict=True))
    with torch.no_grad():
        tower.merger.mlp[0].weight.mul_(1.5)
    after = policy.features.features(images)
    assert not any(torch.allclose(a, b) for a, b in zip(after, before, strict=True)) and len(walked) == 8
    fresh = tower(images[0].pixel_values, grid_thw=torch.tensor([images[0].grid_thw])).pooler_output
    torch.testing.assert_close(after[0], fresh, atol=1e-5, rtol=1e-5)
    tower.requires_grad_(True)
    with pytest.raises(RuntimeError, match="the vision tower trains"):
        policy.features.features(images)


def test_features_stay_within_their_bound(
    tiny_folder: Path, image_folder: Path, walked: list[list[Any]]
) -> None:
    policy = load_policy(str(tiny_folder))
    policy.keep_features()
    assert policy.features is not None
    images = images_of(policy, image_folder)
    whole = policy.features.features(images)
    small = features.FeatureCache(policy.model.model.visual, limit=max(f.nbytes for f in whole))
    for _ in range(2):
        again = small.features(images)
        assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
        assert 0 < small.held.held_bytes <= small.held.limit
    assert len(walked) > 4 + len(images)


def test_the_reference_of_a_frozen_tower_holds_none(tiny_folder: Path, tmp_path: Path) -> None:
    for frozen in (False, True):
        cfg = config(str(tiny_folder), model={"freeze_vision_tower": frozen})
        learner = build_learner(cfg, tmp_path, World(0, 1, torch.device("cpu")), None)
        reference = frozen_copy(learner.policy)
        assert (reference.model.visual is None) == frozen
        assert learner.policy.model.model.visual is not None


# ---- the next batch --------------------------------------------------------------------------------


def test_the_next_batch_is_made_on_a_thread_in_order_and_no_further() -> None:
    made: list[tuple[int, str]] = []
    reached = threading.Event()

    def make(item: int) -> int:
        made.append((item, threading.current_thread().name))
        if item == 13:
            reached.set()
        return -item

    ahead = Ahead(lambda index: [10 * index + i for i in range(4)], 3, make, beside=True)
    assert ahead.take(0) == [0, -1, -2, -3]
    assert reached.wait(10)
    assert [item for item, _ in made] == [0, 1, 2, 3, 10, 11, 12, 13], "one batch ahead, no more"
    assert {name for _, name in made[:4]} == {threading.current_thread().name}
    assert all(name.startswith("osler-ahead") for _, name in made[4:])
    assert ahead.take(1) == [-10, -11, -12, -13]
    assert ahead.take(2) == [-20, -21, -22, -23]
    ahead.close()
    assert len(made) == 12 and not running()


def running() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("osler-ahead")]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    for module in (trainer, sft):
        monkeypatch.setattr(module, "works_beside", lambda device: True)


PREPARED = {
    "grpo": {},
    "buffered": {"grpo": {"steps_per_rollout": 2, "updates_per_rollout": 2}},
    "sft": {"method": "sft", "template": "nothink", "sft": {"batch_size": 4, "epochs": 3.0}},
}


@pytest.mark.parametrize("case", PREPARED)
def test_a_batch_made_beside_changes_nothing_and_resumes_exactly(
    case: str, tiny_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(str(tiny_folder), **PREPARED[case])
    whole = run(cfg, tmp_path / "inline", image_folder)
    for module in (trainer, sft):
        monkeypatch.setattr(module, "works_beside", lambda device: True)
    one_step = loops.TrainingLoop._one_step

    def with_signal(self: loops.TrainingLoop) -> dict[str, float]:
        metrics = one_step(self)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(loops.TrainingLoop, "_one_step", with_signal)
        with pytest.raises(Stop):
            run(cfg, tmp_path / "beside", image_folder)
    assert not running(), "the thread ends with the run"
    assert run(cfg, tmp_path / "beside", image_folder, resume=True) == whole
    assert losses(tmp_path / "inline") == losses(tmp_path / "beside")
    assert not running()


@pytest.mark.usefixtures("beside")
def test_a_bad_image_is_named_when_its_step_comes(
    tiny_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step before it is taken and kept."""
    cfg = config(str(tiny_folder))
    first = slot_images(questions(image_folder), 0, cfg.grpo.questions_per_step, cfg.seed)
    open_image = load.open_image

    def damaged(path: str) -> Any:
        if path not in first:
            raise BadInput(f"image {Path(path).name}: damaged")
        return open_image(path)

    monkeypatch.setattr(load, "open_image", damaged)
    with pytest.raises(BadInput, match=r"image \d.png: damaged"):
        run(cfg, tmp_path / "run", image_folder)
    assert [r["step"] for r in JsonLines(tmp_path / "run" / "metrics.jsonl")] == [1]
    assert not running()
