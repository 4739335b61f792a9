"""osler doctor: what is missing, what a step is predicted to take, what would make it fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.specifiers import SpecifierSet

from osler import doctor
from osler.cli import main
from osler.config import TrainConfig, load_config
from osler.costs.flops import Scheme, update_flops
from osler.costs.memory import predict_memory
from osler.costs.seconds import OPTIMIZER_PASSES, PRODUCT_SHARE, Ceilings, predict_seconds
from osler.costs.shape import QWEN2_VL_2B
from osler.costs.workload import workload

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
