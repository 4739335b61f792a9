"""Checkpoints: complete or absent, verified on the way back in.

`checkpoints/step_000100/` is an ordinary Hugging Face folder (or PEFT adapter folder) plus
`trainer.json`, `optimizer.safetensors` and, written last, `COMPLETE` with the digest of every file.
Safetensors and JSON only. A folder without the marker does not count as a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from osler.errors import BadInput
from osler.policy.load import Policy

MARKER = "COMPLETE"
MERGED_START = "../../start"  # from a checkpoint folder: where a run keeps a merged start


@dataclass(frozen=True)
class Restored:
    """What a checkpoint holds besides the weights."""

    folder: Path
    trainer: Mapping[str, Any]


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def save_checkpoint(
    run: Path,
    step: int,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    named_parameters: Mapping[str, nn.Parameter],
    trainer: Mapping[str, Any],
    adapter: Any = None,
) -> Path:
    """Write one checkpoint; the folder appears under its final name only when it is whole."""
    final = step_folder(run, step)
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_policy(policy, partial, adapter)
    save_file(_optimizer_tensors(optimizer, named_parameters), partial / "optimizer.safetensors")
    (partial / "trainer.json").write_text(json.dumps(dict(trainer)), encoding="utf-8")
    digests = {f.name: _digest(f) for f in sorted(partial.iterdir())}
    for file in partial.iterdir():
        _sync(file)
    (partial / MARKER).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    _sync(partial / MARKER)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    return final


def save_policy(policy: Policy, folder: Path, adapter: Any = None) -> None:
    """The model (or its adapter), tokenizer, chat template, image processor and generation defaults."""
    if adapter is not None:
        adapter.save_pretrained(folder)
    else:
        policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    policy.image_processor.save_pretrained(folder)


def complete_steps(run: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    folders = (run / "checkpoints").glob("step_*")
    return sorted(int(f.name[5:]) for f in folders if f.name[5:].isdigit() and (f / MARKER).is_file())


def newest_intact(run: Path, warn: Any) -> Restored | None:
    """The newest checkpoint whose files match their digests; damaged ones are named to `warn`."""
    for step in reversed(complete_steps(run)):
        folder = step_folder(run, step)
        damaged = _damaged_file(folder)
        if damaged is None:
            trainer = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
            return Restored(folder, trainer)
        warn(f"checkpoint {folder.name}: {damaged} is damaged or missing; falling back to the one before")
    return None


def restore_optimizer(
    folder: Path, optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter]
) -> None:
    """Load the optimizer's moments, every one of them. Raises BadInput where the parameters differ."""
    tensors = load_file(folder / "optimizer.safetensors")
    states = {name.partition("|")[2] for name in tensors}
    if states and states != set(named_parameters):
        differ = sorted(states ^ set(named_parameters))
        raise BadInput(f"checkpoint {folder.name}: optimizer state does not fit the model, e.g. {differ[0]}")
    for key, value in tensors.items():
        kind, _, name = key.partition("|")
        parameter = named_parameters[name]
        # AdamW keeps its step count on the CPU.
        target = value if kind == "step" else value.to(parameter.device)
        optimizer.state[parameter][kind] = target


def restore_adapter(folder: Path, adapter: Any) -> None:
    """Load LoRA weights back, every key of them."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    tensors = load_file(folder / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(adapter)
    if set(tensors) != set(expected):
        differ = sorted(set(tensors) ^ set(expected))
        raise BadInput(f"checkpoint {folder.name}: adapter keys do not fit the model, e.g. {differ[0]}")
    set_peft_model_state_dict(adapter, tensors)


def remove_old(run: Path, keep: int, protected: int | None) -> None:
    """Keep the `keep` newest checkpoints and the protected one (the best)."""
    for step in complete_steps(run)[:-keep]:
        if step != protected:
            shutil.rmtree(step_folder(run, step))


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in named_parameters.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind}|{name}"] = value.detach().contiguous()
    return tensors


def _damaged_file(folder: Path) -> str | None:
    try:
        digests = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return MARKER
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file() or _digest(file) != digest:
            return str(name)
    return None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
