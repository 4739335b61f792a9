"""Training runs: exact resume, micro-batches, processes, adapters, checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from osler import checkpoint as checkpoints
from osler.config import to_json
from osler.costs.microbatches import fill, packed_tokens
from osler.data.folder import write_folder
from osler.errors import BadInput
from osler.policy.load import load_policy
from osler.policy.packing import Packing
from osler.prompts import get_template
from osler.records import Modality
from osler.rewards import build_rubric
from osler.runtime import World
from osler.signals import Stop
from osler.tracking import JsonLines
from osler.train import loop as loops
from osler.train import sft
from osler.train.clock import Clock, HostTimeline
from osler.train.grpo import trainer
from osler.train.grpo.trainer import GrpoMethod
from osler.train.loop import build_learner
from osler.train.run import describe
from training_case import config, questions, run


def weights(run_folder: Path, step: int) -> dict[str, torch.Tensor]:
    folder = checkpoints.step_folder(run_folder, step)
    file = folder / "adapter_model.safetensors"
    return load_file(file if file.is_file() else folder / "model.safetensors")


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def rollout_texts(run_folder: Path) -> list[Any]:
    return [
        (
            r["step"],
            r["question_id"],
            r["choices"],
            [(x["text"], x["reward"], x["advantage"]) for x in r["rollouts"]],
        )
        for r in JsonLines(run_folder / "rollouts.jsonl")
    ]


def losses(run_folder: Path) -> list[Any]:
    return [
        (r["step"], r.get("loss/total"), r.get("optim/grad_norm"))
        for r in JsonLines(run_folder / "metrics.jsonl")
    ]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Pretend that SIGTERM arrived during this step."""
    one_step = loops.TrainingLoop._one_step

    def with_signal(self: loops.TrainingLoop) -> dict[str, float]:
        metrics = one_step(self)
        if self.step == step:
            os.kill(os.getpid(), 15)
        return metrics

    monkeypatch.setattr(loops.TrainingLoop, "_one_step", with_signal)


CASES = {
    "full": {},
    "lora": {"model": {"lora_rank": 4}},
    "frozen tower": {"model": {"freeze_vision_tower": True}},
    "bf16 weights": {"model": {"precision": "bf16", "master_weights": False}},
    "buffered": {
        "grpo": {"steps_per_rollout": 2, "updates_per_rollout": 2},
        "data": {"permute_choices": True},
    },
    "sft": {
        "method": "sft",
        "template": "nothink",
        "sft": {"batch_size": 4, "epochs": 3.0},
        "data": {"permute_choices": True},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_equals_never_stopped(
    case: str, tiny_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test 7, bit for bit: weights, optimizer, samples, log. `buffered` stops inside a rollout batch."""
    cfg = config(str(tiny_folder), **CASES[case])
    whole = run(cfg, tmp_path / "whole", image_folder)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stop) as stopped:
            run(cfg, tmp_path / "stopped", image_folder)
    assert stopped.value.exit_code == 143
    assert checkpoints.complete_steps(tmp_path / "stopped")[-1] == 3
    # A crash after the checkpoint leaves records of steps that will be computed again, and a torn line.
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 4, "loss/total": 0.5}\n{"step": 5, "lo')
    resumed = run(cfg, tmp_path / "stopped", image_folder, resume=True)
    assert resumed == whole
    last = whole["steps"]
    assert_same_weights(weights(tmp_path / "whole", last), weights(tmp_path / "stopped", last))
    moments = [
        checkpoints.step_folder(tmp_path / n, last) / "optimizer.safetensors" for n in ("whole", "stopped")
    ]
    assert_same_weights(load_file(moments[0]), load_file(moments[1]))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    logged = rollout_texts(tmp_path / "whole")
    assert logged == rollout_texts(tmp_path / "stopped")
    orders = {tuple(choices) for _, _, choices, _ in logged}
    assert (len(orders) > 1) == (case == "buffered"), "choices are permuted where asked for, nowhere else"


def test_full_checkpoint_loads_every_weight_back(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    """Language model and tower both moved, are stored under the hub's key names, and come back."""
    run(config(str(tiny_folder)), tmp_path / "run", image_folder)
    before, after = load_file(tiny_folder / "model.safetensors"), weights(tmp_path / "run", 6)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(n.startswith("model.layers") for n in moved) and any(n.startswith("visual.") for n in moved)
    policy = load_policy(str(tmp_path / "run"))
    held = dict(policy.model.named_parameters())
    assert len(held) == len(after)
    for name, value in after.items():
        renamed = name.replace("visual.", "model.visual.") if name.startswith("visual.") else name
        renamed = (
            renamed.replace("model.", "model.language_model.", 1) if name.startswith("model.") else renamed
        )
        assert torch.equal(held[renamed], value), name


def test_writing_a_checkpoint_copies_no_moments() -> None:
    """On a GPU that is full of weights, gradients and moments there is no room for them twice."""
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    written = checkpoints._optimizer_tensors(optimizer, {"w": weight})
    for kind in ("exp_avg", "exp_avg_sq"):
        assert written[f"{kind}|w"].data_ptr() == optimizer.state[weight][kind].data_ptr()


def test_a_checkpoint_with_a_missing_key_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "broken")
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("visual.blocks.0.attn.qkv.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="missing keys"):
        load_policy(str(folder))


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_checkpoint_with_another_activation_is_refused(
    tiny_folder: Path, tmp_path: Path, part: str
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config[part]["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"hidden_act .*relu.* has silu and quick_gelu"):
        load_policy(str(folder))


def test_adapter_off_equals_the_frozen_start(tiny_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    """Test 7: with a trained adapter switched off, the model is the one training started from."""
    cfg = config(str(tiny_folder), model={"lora_rank": 4})
    run(cfg, tmp_path / "run", image_folder)
    restored = checkpoints.newest_intact(tmp_path / "run", warn=pytest.fail)
    assert restored is not None
    world = World(0, 1, torch.device("cpu"))
    learner = build_learner(cfg, tmp_path / "run", world, restored)
    start = load_policy(str(tiny_folder))
    prompt = start.prompt_inputs(questions(image_folder)[0], loops.Template("t", "nothink", "{problem}"))
    ids = prompt.input_ids[None]
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == start.model.config.image_token_id).int(),
        "pixel_values": prompt.images[0].pixel_values,
        "image_grid_thw": torch.tensor([prompt.images[0].grid_thw]),
    }
    with torch.no_grad():
        frozen = start.model(**inputs).logits
        adapted = learner.policy.model(**inputs).logits
        with learner.adapter.disable_adapter():
            off = learner.policy.model(**inputs).logits
        merged = load_policy(str(tmp_path / "run")).model(**inputs).logits
    assert torch.equal(off, frozen)
    assert not torch.allclose(adapted, frozen, atol=1e-4)
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)


def test_lora_leaves_the_tower_alone(tiny_folder: Path, tmp_path: Path) -> None:
    cfg = config(str(tiny_folder), model={"lora_rank": 2})
    learner = build_learner(cfg, tmp_path, World(0, 1, torch.device("cpu")), None)
    assert learner.named_parameters and not any("visual" in n for n in learner.named_parameters)


def test_a_reference_in_bf16_changes_nothing(tiny_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    """Bit for bit the log-probabilities of fp32 weights under bf16 products, for about half the bytes."""
    cfg = config(str(tiny_folder), model={"precision": "bf16"})
    world = World(0, 1, torch.device("cpu"))
    learner = build_learner(cfg, tmp_path, world, None)
    reference = loops.frozen_copy(learner.policy)
    rubric = build_rubric(cfg.rewards)
    method = GrpoMethod(
        cfg, world, learner, questions(image_folder), get_template("nothink"), rubric, reference
    )
    method.fill_gradients(0, Clock(HostTimeline()))
    assert method.reference is not None
    (batch,) = method._microbatches(method.buffer)
    with torch.no_grad():
        policy = method.forward(batch.inputs, batch.ids_BGT, batch.mask_BGT)[0]
        frozen = method.reference(batch.inputs, batch.ids_BGT, batch.mask_BGT)[0]
    assert torch.equal(policy, frozen) and bool(frozen.any())
    held, full = (sum(p.nbytes for p in m.parameters()) for m in (reference, learner.policy.model))
    tied = learner.policy.model.get_input_embeddings().weight.nbytes
    assert held < 0.51 * (full - tied) + tied


@pytest.mark.parametrize("master_weights", [True, False])
def test_an_offloaded_reference_changes_nothing(
    master_weights: bool, tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    model = {"precision": "bf16", "master_weights": master_weights}
    for name, offload in (("here", False), ("away", True)):
        cfg = config(str(tiny_folder), model=model, grpo={"max_steps": 3, "offload_reference": offload})
        run(cfg, tmp_path / name, image_folder)
    assert losses(tmp_path / "here") == losses(tmp_path / "away")
    assert_same_weights(weights(tmp_path / "here", 3), weights(tmp_path / "away", 3))


def test_bf16_weights_train_and_are_stored_as_such(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    model = {"precision": "bf16", "master_weights": False}
    run(config(str(tiny_folder), model=model), tmp_path / "run", image_folder)
    before, after = load_file(tiny_folder / "model.safetensors"), weights(tmp_path / "run", 6)
    assert {t.dtype for t in after.values()} == {torch.bfloat16}
    state = load_file(checkpoints.step_folder(tmp_path / "run", 6) / "optimizer.safetensors")
    assert {t.dtype for k, t in state.items() if not k.startswith("step|")} == {torch.bfloat16}
    moved = [n for n in before if not torch.equal(before[n].bfloat16(), after[n])]
    assert len(moved) > 0.9 * len(before)


def first_gradient(
    cfg: Any, out: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """Gradient of the first step as the optimizer gets it."""
    caught: dict[str, torch.Tensor] = {}
    clip = loops.clip_gradients

    with monkeypatch.context() as patch:

        def catch(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
            if not caught:
                caught.update({str(i): p.grad.clone() for i, p in enumerate(parameters)})
            return clip(parameters, limit)

        patch.setattr(loops, "clip_gradients", catch)
        run(cfg, out, images)
    return caught


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    difference = sum(float((a[k] - b[k]).square().sum()) for k in a) ** 0.5
    return difference / sum(float(a[k].square().sum()) for k in a) ** 0.5


@pytest.fixture
def microbatches(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """What every call of `fill` put together, as the sizes of the groups."""
    seen: list[list[list[int]]] = []

    def watched(sizes: list[int], budget: int) -> list[list[int]]:
        filled = fill(sizes, budget)
        seen.append([[sizes[i] for i in indices] for indices in filled])
        return filled

    monkeypatch.setattr(trainer, "fill", watched)
    monkeypatch.setattr(sft, "fill", watched)
    return seen


@pytest.mark.parametrize(
    "method",
    [
        {"grpo": {"questions_per_step": 6, "max_steps": 1}},
        {"grpo": {"questions_per_step": 6, "max_steps": 1, "loss_aggregation": "token_mean"}},
        {"grpo": {"questions_per_step": 6, "max_steps": 1, "updates_per_rollout": 2}},
        {"method": "sft", "template": "nothink", "sft": {"batch_size": 6, "max_steps": 1}},
    ],
    ids=["sequence_mean", "token_mean", "old log-probabilities", "sft"],
)
def test_micro_batches_do_not_change_the_gradient(
    method: dict[str, Any],
    microbatches: list[list[list[int]]],
    tiny_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Test 7: 6 questions of different length in one forward = forwards of one = what a budget between them
    puts together (1e-6 relative in fp32)."""
    gradients, shapes = [], []
    for tokens in (10**6, 1, 400):
        cfg = config(str(tiny_folder), **method, model={"microbatch_tokens": tokens})
        gradients.append(first_gradient(cfg, tmp_path / str(tokens), image_folder, monkeypatch))
        shapes.append(microbatches[-1])
        microbatches.clear()
    whole, single, between = shapes
    sizes = sorted(n for batch in whole for n in batch)
    assert len(whole) == 1 and len(single) == 6 and len(set(sizes)) > 2
    assert 1 < len(between) < 6 and all(sum(batch) <= 400 for batch in between)
    assert all(sorted(n for batch in shape for n in batch) == sizes for shape in shapes)
    assert relative_difference(gradients[0], gradients[1]) < 2e-6
    assert relative_difference(gradients[0], gradients[2]) < 2e-6


def test_a_group_weighs_what_the_forward_is_long(tiny_folder: Path, image_folder: Path) -> None:
    """Packed tokens as the forward lays them out, with and without the patches of a trained tower."""
    policy = load_policy(str(tiny_folder))
    prompt = policy.prompt_inputs(questions(image_folder)[1], get_template("think"))
    work, lengths = prompt.work([7, 1, 4]), [7, 1, 4]
    packing = Packing([len(prompt.input_ids)], [[n - 1 for n in lengths]])
    assert packed_tokens(work, tower=False) == packing.completions[-1]
    patches = len(prompt.images[0].pixel_values)
    assert packed_tokens(work, tower=True) == packing.completions[-1] + patches // 2


def test_two_processes_equal_one(tiny_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    """Test 7: same tokens, same rewards, same weights (to rounding) with 3 questions on 2 processes."""
    cfg = config(
        str(tiny_folder),
        grpo={"questions_per_step": 3, "max_steps": 2, "group_size": 2},
        optim={"lr": 1e-4, "max_grad_norm": 0.0},
    )
    run(cfg, tmp_path / "one", image_folder)
    (tmp_path / "config.json").write_text(json.dumps(to_json(cfg)))
    here = Path(__file__).parent
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(here / "training_case.py"), str(tmp_path / "config.json"), str(tmp_path / "two"),
        str(image_folder),
    ]  # fmt: skip
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (rollout_texts(tmp_path / n) for n in ("one", "two"))
    assert one == two and len(one) == 6
    for (_, loss_a, norm_a), (_, loss_b, norm_b) in zip(
        losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True
    ):
        assert loss_a == pytest.approx(loss_b, abs=1e-6) and norm_a == pytest.approx(norm_b, rel=1e-5)


def test_damaged_checkpoint_falls_back_to_the_one_before(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    cfg = config(str(tiny_folder), grpo={"max_steps": 2})
    run(cfg, tmp_path / "run", image_folder)
    file = checkpoints.step_folder(tmp_path / "run", 2) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    warnings: list[str] = []
    restored = checkpoints.newest_intact(tmp_path / "run", warn=warnings.append)
    assert restored is not None and restored.trainer["step"] == 1
    assert "model.safetensors is damaged" in warnings[0]


def test_resume_with_another_configuration_is_refused(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    cfg = config(str(tiny_folder), grpo={"max_steps": 1})
    run(cfg, tmp_path / "run", image_folder)
    with pytest.raises(BadInput, match="already holds a run"):
        run(cfg, tmp_path / "run", image_folder)
    other = config(str(tiny_folder), grpo={"max_steps": 1, "kl_coef": 0.0})
    with pytest.raises(BadInput, match=r"grpo.kl_coef was 0.04, is 0.0"):
        run(other, tmp_path / "run", image_folder, resume=True)


def test_zero_variance_groups_are_counted_and_keep_their_kl(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    """A constant reward: without a KL term nothing moves; with one, only the KL has a gradient."""
    constant = {"rewards": {"format": 1.0}}  # random text never has the format, so every reward is 0
    run(
        config(str(tiny_folder), **constant, grpo={"max_steps": 1, "kl_coef": 0.0}),
        tmp_path / "a",
        image_folder,
    )
    (record,) = JsonLines(tmp_path / "a" / "metrics.jsonl")
    assert record["group/zero_variance_frac"] == 1.0 and record["optim/grad_norm"] == 0.0
    run(config(str(tiny_folder), **constant, grpo={"max_steps": 2}), tmp_path / "b", image_folder)
    first, second = JsonLines(tmp_path / "b" / "metrics.jsonl")
    # On the first step policy = reference, where k3 has its minimum and no gradient.
    assert first["optim/grad_norm"] < 1e-6 and "loss/kl" in second


def test_validation_curve_and_best_checkpoint(tiny_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    """In-domain and out-of-domain curves by question count; the first set decides, the best is kept."""
    write_folder(
        [
            replace(q, modality=m, id=f"{m}_{q.id}")
            for m in (Modality.MRI, Modality.CT)
            for q in questions(image_folder)
        ],
        tmp_path / "data",
    )
    sets = {m: {"data": str(tmp_path / "data"), "modality": [m]} for m in ("mri", "ct")}
    cfg = config(
        str(tiny_folder), keep_checkpoints=1, validation={"sets": sets, "every_questions": 4, "limit": 4}
    )
    summary = run(cfg, tmp_path / "run", image_folder)
    curve = [r for r in JsonLines(tmp_path / "run" / "metrics.jsonl") if "eval/accuracy/mri" in r]
    assert [r["progress/questions"] for r in curve] == [0, 4, 8, 12]
    assert all("eval/accuracy/ct" in r and "eval/parse_rate/mri" in r for r in curve)
    trained = [(r["eval/accuracy/mri"], -r["step"]) for r in curve if r["step"] > 0]
    assert summary["best"]["step"] == -max(trained)[1]
    kept = checkpoints.complete_steps(tmp_path / "run")
    assert set(kept) == {summary["best"]["step"], 6}
    best = summary["best"]
    for record in curve:
        low, high = (record[f"eval/accuracy_{end}/mri"] for end in ("low", "high"))
        assert 0 <= low <= record["eval/accuracy/mri"] <= high <= 1 and high - low > 0.1
    assert (best["name"], best["n"], best["chance"]) == ("mri", 4, pytest.approx(1 / 3))
    (line,) = describe(summary).splitlines()[1:]
    for part in (f"best: step {best['step']}, mri: accuracy", "n 4", "chance 33.3", "blind ", "parsed "):
        assert part in line, line
    facts = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert best["blind_accuracy"] == facts["mri"]["blind_accuracy"]
    assert facts["mri"]["n"] == 4 and facts["mri"]["chance"] == pytest.approx(1 / 3)
    assert 0 <= facts["ct"]["blind_accuracy"] <= 1


def test_adapter_on_an_adapter_loads_back(
    tiny_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second adapter sits on the merged first one, also after the folder was moved."""
    first = config(str(tiny_folder), model={"lora_rank": 4}, grpo={"max_steps": 2})
    run(first, tmp_path / "first", image_folder)
    second = config(str(tmp_path / "first"), model={"lora_rank": 2}, grpo={"max_steps": 3})
    held: dict[str, torch.Tensor] = {}
    with monkeypatch.context() as patch:
        save = checkpoints.save_checkpoint

        def keep_logits(run_folder: Path, step: int, policy: Any, *rest: Any) -> Path:
            held["logits"] = text_logits(policy.model)
            return save(run_folder, step, policy, *rest)

        patch.setattr(checkpoints, "save_checkpoint", keep_logits)
        run(second, tmp_path / "second", image_folder)
    moved = shutil.move(tmp_path / "second", tmp_path / "elsewhere")
    torch.testing.assert_close(
        text_logits(load_policy(str(moved)).model), held["logits"], atol=1e-4, rtol=1e-4
    )
    first_logits = text_logits(load_policy(str(tmp_path / "first")).model)
    assert not torch.allclose(first_logits, held["logits"], atol=1e-4)


def text_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 40)[None]).logits


def test_resume_on_changed_data_or_weights_is_refused(
    tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    start = shutil.copytree(tiny_folder, tmp_path / "start")
    cfg = config(str(start), grpo={"max_steps": 1})
    run(cfg, tmp_path / "run", image_folder)
    content = bytearray((start / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (start / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match="has changed since it began"):
        run(cfg, tmp_path / "run", image_folder, resume=True)
