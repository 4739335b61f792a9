"""The architecture as a test: which module may import which, and what imports without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# A module takes the layer of its longest prefix here; it may import lower layers, and its own package.
LAYERS = {
    "osler": 0.0,  # the version, nothing else
    "osler.errors": 0.0,
    "osler.signals": 0.0,
    "osler.processes": 0.0,
    "osler.records": 1.0,
    "osler.config": 1.1,
    "osler.prompts": 2.0,
    "osler.answer_patterns": 2.0,
    "osler.answers": 2.1,
    "osler.rewards": 2.2,
    "osler.data": 2.0,
    "osler.phantom": 2.0,
    "osler.tracking": 2.0,
    "osler.costs": 2.0,
    "osler.audit": 2.2,  # of data: no model
    "osler.audit.blind": 2.0,
    "osler.evaluate": 5.0,
    "osler.evaluate.stats": 2.0,
    "osler.evaluate.power": 2.0,
    "osler.evaluate.server": 2.0,
    "osler.evaluate.printed": 2.1,
    "osler.evaluate.scoring": 2.2,
    "osler.evaluate.predictions": 2.3,
    "osler.evaluate.summary": 2.4,
    "osler.evaluate.summary_table": 2.5,
    "osler.evaluate.variants": 2.1,
    "osler.evaluate.looking_records": 2.5,
    "osler.evaluate.looking": 2.6,
    "osler.evaluate.looking_table": 2.6,
    "osler.evaluate.looking_pass": 5.1,
    "osler.evaluate.run": 5.2,
    "osler.evaluate.compare": 2.5,
    "osler.evaluate.confidence": 2.5,
    "osler.evaluate.confidence_table": 2.6,
    "osler.evaluate.recorded_confidence": 2.4,
    "osler.evaluate.calibrated": 2.6,
    "osler.evaluate.compare_table": 2.6,
    "osler.evaluate.thinking.edits": 2.1,  # the pass itself is asked of a model
    "osler.evaluate.thinking.hints": 2.1,
    "osler.evaluate.thinking.reading": 2.2,
    "osler.evaluate.thinking.kinds": 2.3,
    "osler.evaluate.thinking.records": 2.2,
    "osler.evaluate.thinking.plan": 2.3,
    "osler.evaluate.thinking.rates": 2.5,
    "osler.evaluate.thinking.table": 2.6,
    "osler.evaluate.transfer": 2.1,
    "osler.evaluate.calibration": 2.1,
    "osler.study.recipe": 2.2,
    "osler.study.published": 2.0,
    "osler.study.graph": 2.0,
    "osler.study.store": 2.1,
    "osler.study.results": 2.6,
    "osler.study.effects": 2.7,
    "osler.study.claims": 2.8,
    "osler.evaluate.selective": 2.2,
    "osler.policy": 3.0,
    "osler.optim": 3.0,
    "osler.runtime": 3.0,
    "osler.ceilings": 3.0,
    "osler.peak_memory": 3.0,
    "osler.checkpoint": 3.1,
    "osler.rollout": 4.0,
    "osler.train": 6.0,
    "osler.report": 7.0,
    "osler.view": 7.0,
    "osler.serve": 7.0,
    "osler.export": 7.0,
    "osler.doctor": 7.0,
    "osler.trial": 6.1,
    "osler.ask": 7.0,
    "osler.calibrate": 7.0,
    "osler.phantom_base": 7.0,
    "osler.demo": 7.1,  # the demo writes a report
    "osler.study": 7.1,
    "osler.cli": 8.0,
    "osler.__main__": 9.0,
}
TORCH_STARTS = 3.0
NO_TORCH = ("osler.report",)  # above layer 2, and torch-free all the same
HEAVY = {"torch", "transformers", "peft", "safetensors"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((SOURCE / "osler").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer_key(module: str) -> str:
    """The entry of LAYERS that a module falls under."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in LAYERS and (length > 1 or module == "osler"):
            return key
    raise AssertionError(f"{module} has no layer; add it to LAYERS")


def imports(module: str) -> set[str]:
    """Every module named in an import statement, wherever it stands; `from package import module` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the full name"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module)
    return names


def is_torch_free(module: str) -> bool:
    key = layer_key(module)
    return LAYERS[key] < TORCH_STARTS or key in NO_TORCH


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_down(module: str) -> None:
    own = layer_key(module)
    for name in sorted(n for n in imports(module) if n.split(".")[0] == "osler"):
        assert name in MODULES, f"{module} imports {name}, which does not exist"
        other = layer_key(name)
        inside = other == own and own != "osler"
        assert inside or LAYERS[other] < LAYERS[own], (
            f"{module} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[other]}); arrows point down only"
        )


@pytest.mark.parametrize("module", sorted(m for m in MODULES if is_torch_free(m)))
def test_torch_free_modules_never_name_torch(module: str) -> None:
    named = {name.split(".")[0] for name in imports(module)} & HEAVY
    assert not named, f"{module} must import without torch, and names {named}"


def test_torch_free_modules_import_with_torch_absent() -> None:
    names = sorted(m for m in MODULES if is_torch_free(m))
    program = (
        "import sys, importlib\n"
        f"for name in {sorted(HEAVY)!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_dustbin_names() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager", "managers"}
    assert not [m for m in MODULES if m.split(".")[-1] in forbidden]


def test_files_stay_small() -> None:
    long = {m: n for m, p in MODULES.items() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"
