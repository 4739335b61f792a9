"""osler doctor: what is missing, what a step is predicted to take, what would make it fit."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.specifiers import SpecifierSet
from rich.console import Console

from osler import doctor, trial
from osler.cli import main
from osler.config import TrainConfig, load_config
from osler.costs.flops import Scheme, update_flops
from osler.costs.memory import predict_memory
from osler.costs.seconds import OPTIMIZER_PASSES, PRODUCT_SHARE, Ceilings, predict_seconds
from osler.costs.shape import QWEN2_VL_2B
from osler.costs.workload import workload
from osler.data.folder import write_folder
from osler.tracking import JsonLines
from training_case import questions

MEASURED = {"flops_per_second_fp32": 1e12, "bytes_per_second": 1e10, "seconds_per_call": 1e-6}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings as given: a test must not depend on the machine."""
    monkeypatch.setattr(doctor, "measure", lambda device: dict(MEASURED))


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_shipped_phantom_recipe_is_predicted_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = report(capsys, "phantom_medvlm_r1_mri")
    assert code == 0 and found["ok"] and found["measured"] == MEASURED
    predicted = found["predicted"]
    parts = {k: v for k, v in predicted["seconds"].items() if k != "time/step"}
    assert parts.keys() == {"time/rollout", "time/reference", "time/loss", "time/optimizer"}
    assert sum(parts.values()) == pytest.approx(predicted["seconds"]["time/step"])
    assert predicted["note"].startswith("predicted") and predicted["fits"]


def test_without_a_recipe_the_machine_alone_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = report(capsys)
    assert code == 0 and "predicted" not in found
    names = [check["name"] for check in found["checks"]]
    assert {"python", "torch", "transformers", "CPU cores", "memory", "free disk", "GPU"} <= set(names)


def test_what_is_missing_ends_in_1_and_bad_input_in_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, found = report(capsys, "medvlm_r1_mri", "model.path=nobody/nothing", f'data.train="{tmp_path}"')
    assert code == 1 and not found["ok"] and "predicted" not in found
    missing = {check["name"]: check["found"] for check in found["checks"] if not check["ok"]}
    assert missing.keys() == {"model", "data"}
    assert str(tmp_path) in missing["data"]
    assert main(["doctor", "no_such_recipe"]) == 2
    assert main(["doctor", "phantom_medvlm_r1_mri", "grpo.group=4"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_packages_are_held_to_their_range() -> None:
    assert doctor.package_check("torch", SpecifierSet(">=2.11")).ok
    assert not doctor.package_check("torch", SpecifierSet(">=99")).ok
    missing = doctor.package_check("no-such-package-here", SpecifierSet(">=1"))
    assert missing.found == "missing" and not missing.ok


def full_size(*overrides: str) -> TrainConfig:
    return load_config("medvlm_r1_mri", ["grpo.group_size=8", "grpo.max_completion_tokens=150", *overrides])


@pytest.mark.parametrize("giga", [12, 24, 32])
def test_the_changes_named_make_it_fit_and_none_is_idle(giga: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "capacity_bytes", lambda device: giga * 10**9)
    monkeypatch.setattr(doctor, "held_bytes", lambda device: doctor.DRIVER_BYTES)

    def peak(*changes: str) -> int:
        config = full_size(*changes)
        load = workload(config, QWEN2_VL_2B.tower)
        return predict_memory(config, QWEN2_VL_2B, load).peak + doctor.DRIVER_BYTES

    config = full_size()
    assert peak() > giga * 10**9
    changes = doctor.fitting_changes(config, QWEN2_VL_2B, workload(config, QWEN2_VL_2B.tower), CPU)
    assert changes and peak(*changes) <= giga * 10**9
    assert ("model.lora_rank=16" in changes) == (giga == 12)
    warning = doctor.memory_warning(config, QWEN2_VL_2B, CPU)
    assert "\n" not in warning and " ".join(changes) in warning


def test_a_training_that_fits_is_not_warned_about() -> None:
    config = load_config("phantom_medvlm_r1_mri")
    shape = doctor.shape_of(config)
    assert shape is not None and doctor.memory_warning(config, shape, CPU) == ""


def test_a_trial_leaves_out_its_first_half(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[TrainConfig] = []
    folders: list[Path] = []

    def train(config: TrainConfig, run: Path) -> None:
        log = JsonLines(run / "metrics.jsonl")
        for step in range(config.grpo.max_steps):
            rollout = {"time/rollout": 100.0} if step % 4 == 0 else {}
            log.append({"step": step, **rollout, "time/loss": 10.0**step, "reward/total": 1.0})
        given.append(config)
        folders.append(run)

    monkeypatch.setattr(trial, "train", train)
    config = load_config("phantom_medvlm_r1_mri", ["grpo.steps_per_rollout=2", "grpo.updates_per_rollout=2"])
    assert trial.trial_steps(config) == 8 and trial.trial_steps(load_config("sft_phantom")) == 2
    config = replace(config, validation=replace(config.validation, every_questions=1))
    assert trial.trial_seconds(config) == {"time/rollout": 25.0, "time/loss": 11110000.0 / 4}
    assert given[0].validation.every_questions == 0 and given[0].optim == config.optim
    assert not folders[0].parent.exists()


def test_a_small_model_is_tried_on_its_own_questions(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    write_folder(questions(image_folder), tmp_path / "data")
    keys = [
        f'data.train="{tmp_path / "data"}"', "data.num_questions=0", "data.modality=[]",
        f'model.path="{tiny_folder}"', "grpo.max_completion_tokens=4", "grpo.group_size=2",
        "grpo.questions_per_step=2",
    ]  # fmt: skip
    code, found = report(capsys, "phantom_medvlm_r1_mri", *keys)
    tried = found["tried"]
    assert code == 0 and {"time/data", "time/rollout", "time/reward", "time/loss"} <= tried.keys()
    parts = [seconds for name, seconds in tried.items() if name != "time/step"]
    assert tried["time/step"] == pytest.approx(sum(parts)) and min(parts) >= 0
    assert found["predicted"]["seconds"].keys() < tried.keys()
    console = Console(record=True, width=100, file=io.StringIO())
    doctor.print_report(found, console)
    shown = console.export_text()
    assert "seconds in a trial" in shown and f"{tried['time/data']:.3g}" in shown
    # More questions a step than there are: the training would not start, and the doctor says so.
    code, found = report(capsys, "phantom_medvlm_r1_mri", *keys, "grpo.questions_per_step=7")
    assert code == 1 and found["tried"] == {} and "only 6 questions" in found["checks"][-1]["found"]


def test_what_would_take_long_or_is_not_here_is_not_tried() -> None:
    config = load_config("phantom_medvlm_r1_mri", ["data.train=somewhere"])
    here = [doctor.Check("model", "", True), doctor.Check("data", "", True)]
    predicted = {"fits": True, "seconds": {"time/step": 0.5 * doctor.TRIAL_SECONDS}}
    assert doctor.worth_a_trial(config, here, predicted, CPU)
    assert not doctor.worth_a_trial(config, here, {**predicted, "fits": False}, CPU)
    assert not doctor.worth_a_trial(config, here, predicted, torch.device("cuda"))
    assert not doctor.worth_a_trial(config, [*here, doctor.Check("data", "", False)], predicted, CPU)
    assert not doctor.worth_a_trial(load_config("phantom_medvlm_r1_mri"), here, predicted, CPU)
    slow = {"fits": True, "seconds": {"time/step": 0.6 * doctor.TRIAL_SECONDS}}
    assert not doctor.worth_a_trial(config, here, slow, CPU)


def test_seconds_are_operations_over_the_ceiling_and_its_share() -> None:
    config = full_size()
    load = workload(config, QWEN2_VL_2B.tower)
    seconds = predict_seconds(config, QWEN2_VL_2B, load, Ceilings(1e14, 1e12, 0.0))
    flops = update_flops(QWEN2_VL_2B, load.work, Scheme.of(config)).times(load.questions)
    assert seconds["time/reference"] == pytest.approx(flops.reference / (1e14 * PRODUCT_SHARE))
    loss = flops.loss + flops.backward + flops.recompute
    assert seconds["time/loss"] == pytest.approx(loss / (1e14 * PRODUCT_SHARE))
    moved = OPTIMIZER_PASSES * QWEN2_VL_2B.parameters * 4 / (1e12 * 0.5)
    assert seconds["time/optimizer"] == pytest.approx(moved)
    # Where starting operations is slow, decoding takes that and nothing else changes.
    slow = predict_seconds(config, QWEN2_VL_2B, load, Ceilings(1e14, 1e12, 1e-3))
    assert slow["time/rollout"] > 150 * 28 * 30 * 1e-3
    assert slow["time/loss"] == seconds["time/loss"]


def test_ceilings_and_the_cost_of_a_call_are_positive_numbers() -> None:
    from osler.ceilings import call_seconds, matmul_ceiling

    assert matmul_ceiling("cpu", torch.float32, 0.001) > 1e6
    assert 0 < call_seconds("cpu") < 1
