"""Recipes: all are valid, carry the papers' protocol, and MedVLM-R1's runs on real MRI images."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from conftest import SHARED
from osler.cli.commands import phantom
from osler.config import load_config, recipe_names
from osler.errors import BadInput
from osler.phantom.benchmark import part_sizes
from osler.phantom.questions import QUESTIONS_PER_IMAGE
from osler.prompts import get_template
from osler.rewards import build_rubric
from osler.tracking import JsonLines
from osler.train.schedule import num_slots

MINI = SHARED / "omnimedvqa_mini"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_complete(name: str) -> None:
    config = load_config(name)
    get_template(config.template)
    build_rubric(config.rewards)
    assert config.method == ("sft" if name.startswith("sft_") else "grpo")
    if config.method == "sft":
        assert config.template == "nothink"
    for template in ("nothink", "think_after"):
        assert load_config(name, [f"template={template}"]).template == template


def test_medvlm_r1_carries_the_papers_protocol() -> None:
    """MedVLM-R1 @2eee421 train_script.sh:29-43: G 4, 2 epochs, 512 tokens, pixels; grpo_trainer.py:452: k3.

    600 questions: arXiv 2502.19634, abstract; 300 steps: on 2 GPUs with 2 accumulation steps. Not set there:
    lr 1e-6 linear and beta 0.04 are the defaults of TRL 0.14.
    """
    c = load_config("medvlm_r1_mri")
    assert (c.grpo.group_size, c.data.num_questions, c.grpo.epochs) == (4, 600, 2.0)
    assert num_slots(c.data.num_questions, c.grpo.questions_per_step, c.grpo.epochs) == 300
    assert (c.optim.lr, c.optim.schedule, c.grpo.kl_coef, c.grpo.kl_estimator) == (1e-6, "linear", 0.04, "k3")
    assert (c.grpo.max_completion_tokens, c.model.max_pixels, c.model.min_pixels) == (512, 401408, 3136)
    assert c.data.modality == ("mri",) and not c.model.freeze_vision_tower and c.model.lora_rank == 0


def test_med_r1_carries_the_papers_protocol() -> None:
    """Med-R1 @88d76c7 scripts/run_grpo_Omni_deepspeed_train_vqa.sh:60-64: one epoch, G 4.

    256 tokens is TRL 0.14's default; 4 questions per step is where the curves of
    Images/fig_rewards_length.png end.
    """
    c = load_config("med_r1_lesion_grading")
    assert (c.grpo.group_size, c.grpo.epochs, c.grpo.max_completion_tokens) == (4, 1.0, 256)
    assert num_slots(1662, c.grpo.questions_per_step, c.grpo.epochs) == 416  # the published curve ends at 415
    assert c.data.question_type == ("lesion_grading",)


def test_a_phantom_of_the_default_size_holds_the_questions_that_its_recipes_draw() -> None:
    images = inspect.signature(phantom).parameters["images"].default
    drawn = part_sizes(images)["train"] * QUESTIONS_PER_IMAGE
    assert drawn >= load_config("phantom_medvlm_r1_mri").data.num_questions == 600


def test_the_papers_rules_are_one_key_away() -> None:
    rules = "rewards={medvlm_r1_format = 1.0, medvlm_r1_accuracy = 1.0}"
    config = load_config("medvlm_r1_mri", [rules, "template=medvlm_r1_complex"])
    assert set(config.rewards) == {"medvlm_r1_format", "medvlm_r1_accuracy"}
    build_rubric(config.rewards)


def test_unknown_keys_and_recipes_name_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"did you mean grpo\.group_size"):
        load_config("med_r1_ct", ["grpo.groupsize=8"])
    with pytest.raises(BadInput, match="did you mean med_r1_ct"):
        load_config("med_r1_cd")
    with pytest.raises(BadInput, match="must be one of"):
        load_config("med_r1_ct", ["grpo.kl_estimator=k4"])
    with pytest.raises(BadInput, match="must be of type int"):
        load_config("med_r1_ct", ["grpo.group_size=many"])


@pytest.mark.skipif(not MINI.is_dir(), reason="needs the folder omnimedvqa_mini beside the project")
def test_medvlm_r1_trains_on_real_mri_from_hub_named_weights(tiny_folder: Path, tmp_path: Path) -> None:
    """Five steps of the recipe through the command line, scaled down, with a user's reward."""
    before = load_file(tiny_folder / "model.safetensors")
    assert "model.layers.0.self_attn.q_proj.weight" in before and "visual.blocks.0.attn.qkv.weight" in before
    command = [
        sys.executable, "-m", "osler", "grpo", "medvlm_r1_mri", "--out", str(tmp_path / "run"), "--json",
        f"data.train={MINI}", "data.num_questions=20", f"model.path={tiny_folder}", "grpo.max_steps=5",
        "grpo.max_completion_tokens=16", "model.max_pixels=50176", "optim.lr=1e-4",
        'rewards={"plugin_rewards:even_tokens" = 1.0}',
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 5
    after = load_file(tmp_path / "run" / "checkpoints" / "step_000005" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not before[name].equal(after[name])}
    assert any(n.startswith("model.layers") for n in moved) and any(n.startswith("visual.") for n in moved)
    rollouts = list(JsonLines(tmp_path / "run" / "rollouts.jsonl"))
    assert {r["modality"] for r in rollouts} == {"mri"}
    assert any(len({x["reward"] for x in r["rollouts"]}) > 1 for r in rollouts)
    assert [m["step"] for m in JsonLines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5]
