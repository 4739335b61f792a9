"""Is this machine fit for a recipe: what is installed, what it can do, what a step will take.

Nothing is downloaded, and a prediction needs `config.json` alone. Where the data are here and the model is
small enough for the CPU, two steps are tried as well.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.table import Table

from osler.ceilings import call_seconds, copy_ceiling, matmul_ceiling
from osler.config import TrainConfig, load_config
from osler.costs.memory import Memory, predict_memory
from osler.costs.seconds import Ceilings, predict_seconds
from osler.costs.shape import ModelShape, model_shape
from osler.costs.workload import Workload, workload
from osler.errors import BadInput
from osler.peak_memory import held_bytes
from osler.policy.load import checkpoint_folder
from osler.train.run import training_questions
from osler.trial import trial_seconds, trial_steps

GIB = 2**30
DRIVER_BYTES = GIB  # of a GPU that hold no tensor: driver, kernels, gaps between tensors
FREE_DISK_BYTES = 10 * GIB
TRIAL_SECONDS = 60.0  # predicted, that a trial on a CPU may take
# Changes that save memory, each worth trying where the one before does not suffice. The first three leave
# the mathematics as it is, bf16 weights round, an adapter is another model.
SAVINGS = (
    "model.microbatch_tokens=2048",
    "model.gradient_checkpointing=true",
    "grpo.offload_reference=true",
    "model.precision=bf16 model.master_weights=false",
    "model.lora_rank=16",
)


@dataclass(frozen=True)
class Check:
    """One thing looked at: Check("torch", "2.11.0", True)."""

    name: str
    found: str
    ok: bool
    wanted: str = ""


def examine(recipe: str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that `osler doctor` says, as JSON values; `ok` is False where something needed is missing.

    Raises BadInput for an unknown recipe or key.
    """
    config = load_config(recipe, overrides) if recipe else None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checks = [*software_checks(), *machine_checks(device)]
    ceilings = measure(device)
    report: dict[str, Any] = {"device": device_name(device), "measured": ceilings}
    if config is not None:
        checks += recipe_checks(config)
        report["recipe"] = recipe
        shape = shape_of(config)
        if shape is not None:
            report["predicted"] = predict(config, shape, ceilings_of(config, ceilings), device)
            if worth_a_trial(config, checks, report["predicted"], device):
                report["tried"], more = try_steps(config)
                checks += more
    report["checks"] = [asdict(check) for check in checks]
    fits = report.get("predicted", {}).get("fits", True)
    return {"ok": all(check.ok for check in checks) and fits, **report}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


# ---- what is there ----------------------------------------------------------------------------------


def software_checks() -> list[Check]:
    """Python and every required package against the range that this version of osler asks for."""
    wanted = [Requirement(text) for text in requires("osler") or ()]
    return [
        Check("python", platform.python_version(), _python_is_new_enough(), ">=3.11"),
        *(package_check(r.name, r.specifier) for r in wanted if r.marker is None),
    ]


def _python_is_new_enough() -> bool:
    return SpecifierSet(">=3.11").contains(platform.python_version())


def package_check(name: str, wanted: SpecifierSet) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "missing", False, str(wanted))
    return Check(name, found, wanted.contains(found, prereleases=True), str(wanted))


def machine_checks(device: torch.device) -> list[Check]:
    """Cores, memory, disk, and the GPU with its driver's CUDA version."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = shutil.disk_usage(Path.cwd()).free
    checks = [
        Check("CPU cores", str(cores), True),
        Check("memory", f"{host_memory() / GIB:.1f} GiB", True),
        Check(
            "free disk", f"{free / GIB:.1f} GiB", free > FREE_DISK_BYTES, f"> {FREE_DISK_BYTES // GIB} GiB"
        ),
    ]
    if device.type == "cpu":
        return [*checks, Check("GPU", "none: phantom recipes and reading run on the CPU", True)]
    total = torch.cuda.get_device_properties(device).total_memory
    bf16 = torch.cuda.is_bf16_supported()
    return [
        *checks,
        Check("GPU", f"{torch.cuda.get_device_name(device)}, {total / GIB:.1f} GiB", True),
        Check("CUDA", str(torch.version.cuda), True),
        Check("bf16", "yes" if bf16 else "no", bf16, "compute capability 8.0 or newer"),
    ]


def host_memory() -> int:
    """Bytes of memory that this process may take: of the machine, or of its control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        return min(total, int(text))
    return total


def recipe_checks(config: TrainConfig) -> list[Check]:
    """The model's files on this machine, and the questions that the recipe names."""
    checks = []
    try:
        folder = checkpoint_folder(config.model.path, config.model.revision)
        weights = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        found = f"{folder}, {weights / GIB:.2f} GiB" if weights else f"{folder}: no safetensors"
        checks.append(Check("model", found, weights > 0))
    except (BadInput, OSError) as error:
        checks.append(Check("model", str(error).splitlines()[0], False, "download it, or name a folder"))
    if not config.data.train:
        return [*checks, Check("data", "the recipe names none; pass data.train=PATH", True)]
    try:
        questions = training_questions(config.data)
        checks.append(Check("data", f"{config.data.train}: {len(questions)} questions", True))
    except (BadInput, OSError) as error:
        checks.append(Check("data", str(error), False, "data.train=PATH"))
    return checks


def shape_of(config: TrainConfig) -> ModelShape | None:
    """Of the recipe's model, where its configuration is on this machine."""
    try:
        file = checkpoint_folder(config.model.path, config.model.revision) / "config.json"
        return model_shape(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (BadInput, OSError):
        return None


# ---- what it can do ---------------------------------------------------------------------------------


def measure(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """The ceilings that a prediction stands on, measured now."""
    found = {"flops_per_second_fp32": matmul_ceiling(device.type, torch.float32, clock=clock)}
    if device.type == "cuda":
        found["flops_per_second_bf16"] = matmul_ceiling(device.type, torch.bfloat16, clock=clock)
    found["bytes_per_second"] = copy_ceiling(device.type, clock)
    found["seconds_per_call"] = call_seconds(device.type, clock)
    return found


def ceilings_of(config: TrainConfig, found: Mapping[str, float]) -> Ceilings:
    """Where bf16 was not measured (a CPU), its products are taken to run at the rate of fp32."""
    fp32 = found["flops_per_second_fp32"]
    bf16 = found.get("flops_per_second_bf16", fp32)
    flops = bf16 if config.model.precision == "bf16" else fp32
    return Ceilings(flops, found["bytes_per_second"], found["seconds_per_call"])


# ---- what a step will take --------------------------------------------------------------------------


def predict(
    config: TrainConfig, shape: ModelShape, machine: Ceilings, device: torch.device
) -> dict[str, Any]:
    """Seconds by part and bytes by use of one step, images and completions at their longest."""
    load = workload(config, shape.tower)
    memory = predict_memory(config, shape, load)
    peak, capacity = predicted_peak(memory, device), capacity_bytes(device)
    return {
        "note": "predicted, not measured: images at model.max_pixels, completions at their full length",
        "seconds": predict_seconds(config, shape, load, machine),
        "bytes": {**asdict(memory), "phases": memory.phases(), "peak": peak, "capacity": capacity},
        "fits": peak <= capacity,
        "change": [] if peak <= capacity else fitting_changes(config, shape, load, device),
    }


def worth_a_trial(
    config: TrainConfig, checks: Sequence[Check], predicted: Mapping[str, Any], device: torch.device
) -> bool:
    """On a CPU, with model and data here and fitting, where the trial is predicted to be short."""
    here = bool(config.data.train) and all(c.ok for c in checks if c.name in ("model", "data"))
    seconds = trial_steps(config) * predicted["seconds"]["time/step"]
    return device.type == "cpu" and here and predicted["fits"] and seconds <= TRIAL_SECONDS


def try_steps(config: TrainConfig) -> tuple[dict[str, float], list[Check]]:
    """Seconds of a step by part; none, and a failed check, where the recipe cannot train as it is."""
    try:
        return trial_seconds(config), []
    except BadInput as error:
        return {}, [Check("trial", str(error), False, "a training that starts")]


def predicted_peak(memory: Memory, device: torch.device) -> int:
    """With what the process holds besides: driver and gaps on a GPU, Python and libraries on a CPU."""
    if device.type == "cuda":
        return memory.peak + DRIVER_BYTES
    try:
        return memory.peak + held_bytes(device)
    except OSError:  # only Linux says
        return memory.peak + DRIVER_BYTES


def capacity_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host_memory()


def fitting_changes(
    config: TrainConfig, shape: ModelShape, load: Workload, device: torch.device
) -> list[str]:
    """Keys to change, in the order of SAVINGS and no more than needed; empty where not even all suffice."""
    changed: TrainConfig = config
    taken: list[str] = []
    for saving in SAVINGS:
        attempt = _with(changed, saving)
        if attempt is None:
            continue
        before = predicted_peak(predict_memory(changed, shape, workload(changed, shape.tower)), device)
        after = predicted_peak(predict_memory(attempt, shape, workload(attempt, shape.tower)), device)
        if after >= before:
            continue
        changed = attempt
        # With an adapter there is no reference left to offload.
        taken = [t for t in taken if attempt.grpo.offload_reference or "offload" not in t] + saving.split()
        if after <= capacity_bytes(device):
            return taken
    return []


def _with(config: TrainConfig, saving: str) -> TrainConfig | None:
    """The configuration with one saving; None where it has nothing to act on."""
    model, grpo = config.model, config.grpo
    if saving.startswith("model.microbatch_tokens"):
        return replace(config, model=replace(model, microbatch_tokens=min(2048, model.microbatch_tokens)))
    if saving.startswith("model.gradient_checkpointing"):
        return replace(config, model=replace(model, gradient_checkpointing=True))
    if saving.startswith("grpo.offload_reference"):
        if model.lora_rank or grpo.kl_coef == 0 or config.method != "grpo":
            return None
        return replace(config, grpo=replace(grpo, offload_reference=True))
    if saving.startswith("model.precision"):
        return replace(config, model=replace(model, precision="bf16", master_weights=False))
    if model.lora_rank:
        return None
    return replace(config, model=replace(model, lora_rank=16), grpo=replace(grpo, offload_reference=False))


def preflight(recipe: str, overrides: Sequence[str] = ()) -> str:
    """`memory_warning` of a recipe on this machine; empty where its model is not here yet."""
    config = load_config(recipe, overrides)
    shape = shape_of(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "" if shape is None else memory_warning(config, shape, device)


def memory_warning(config: TrainConfig, shape: ModelShape, device: torch.device) -> str:
    """One line where a training is predicted not to fit its device; empty where it fits."""
    load = workload(config, shape.tower)
    peak, capacity = predicted_peak(predict_memory(config, shape, load), device), capacity_bytes(device)
    if peak <= capacity:
        return ""
    changes = fitting_changes(config, shape, load, device)
    advice = f"try {' '.join(changes)}" if changes else "no change of keys makes it fit"
    return f"predicted peak memory {peak / GIB:.1f} GiB of {capacity / GIB:.1f} GiB: {advice}"


# ---- on the terminal --------------------------------------------------------------------------------


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Checks, measured ceilings and, marked as such, predictions."""
    for check in report["checks"]:
        wanted = f"  (wanted {check['wanted']})" if not check["ok"] and check["wanted"] else ""
        mark = "ok     " if check["ok"] else "MISSING"
        console.print(f"{mark} {check['name']}: {check['found']}{wanted}", markup=False, highlight=False)
    console.print(f"measured on {report['device']}:", markup=False, highlight=False)
    for name, value in report["measured"].items():
        console.print(f"  {name}: {value:.3g}", markup=False, highlight=False)
    predicted = report.get("predicted")
    if predicted is None:
        return
    console.print(f"{report['recipe']}, {predicted['note']}:", markup=False, highlight=False)
    tried = report.get("tried", {})
    columns = ("part", "predicted seconds", *(["seconds in a trial"] if tried else []), "predicted peak, GiB")
    table = Table(*columns)
    seconds, memory = predicted["seconds"], predicted["bytes"]
    peaks = {part: f"{peak / GIB:.2f}" for part, peak in memory["phases"].items()}
    peaks["step"] = f"{memory['peak'] / GIB:.2f} of {memory['capacity'] / GIB:.1f}"
    for part in ("data", "rollout", "reward", "reference", "loss", "optimizer", "other", "step"):
        name = f"time/{part}"
        if name in seconds or name in tried:
            both = [seconds, tried] if tried else [seconds]
            shown = [f"{found[name]:.3g}" if name in found else "" for found in both]
            table.add_row(part, *shown, peaks.get(part, ""))
    console.print(table)
    if tried:
        console.print("in a trial: measured here, on the recipe's own questions", highlight=False)
    if predicted["fits"]:
        console.print("predicted to fit", highlight=False)
    elif predicted["change"]:
        console.print(f"predicted not to fit; it would with {' '.join(predicted['change'])}", markup=False)
    else:
        console.print("predicted not to fit, whatever is changed", highlight=False)
