"""The benchmarks' TRL side at sizes that take no time; needs TRL (`make bench` runs this first)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL is in the environment that `make bench` builds")

from benchmarks.fast_path import learning, osler_side, trl_side
from benchmarks.fast_path.case import make_case
from benchmarks.fast_path.equality import compare_updates
from benchmarks.fast_path.measure import measure
from benchmarks.fast_path.rows import SCALES, Row, Scale
from osler.phantom.benchmark import write_benchmark
from osler.records import Modality

pytestmark = pytest.mark.filterwarnings("ignore")
SCALE = Scale("cpu", questions=2, precision="fp32", hidden=64, layers=1, repeats=1)
TRL = {"cpu": {"trl": 1.0}}


def row(work: str) -> Row:
    return Row(work, work, work, group_size=4, image_tokens=6, completion_tokens=5, bars=TRL)


@pytest.fixture(autouse=True)
def short_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fast_path.measure.CEILING_SECONDS", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fast_path")


@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_updates_are_equal_however_trl_is_set_up(folder: Path, rows: int, checkpointing: bool) -> None:
    case = make_case(row("update"), SCALE, folder)
    ours = osler_side.build_update(case)
    theirs = trl_side.TrlUpdate(case, trl_side.Variant("TRL", rows, checkpointing))
    ours.update()
    theirs.run()
    equality = compare_updates(ours, theirs)
    assert equality.holds and equality.worst_gradient < 1e-4
    reference = theirs.trainer.ref_model
    assert not torch.equal(next(reference.parameters()), next(theirs.model.parameters()))


@pytest.mark.parametrize("work", ["update", "rollout", "step"])
def test_a_row_gives_ratios_floor_and_both_duels(folder: Path, work: str) -> None:
    found = measure(row(work), SCALE, folder)
    assert len(found["duels"]) == 2 and found["duels"][0]["name"] == "TRL defaults"
    assert found["ratios"]["trl"] == min(d["ratio"] for d in found["duels"])
    assert 0 < found["floor"]["share_reached"] < 1
    assert all(e["holds"] for e in found.get("equality", {}).values())
    assert bool(found.get("equality")) == (work != "step")


def test_equality_alone_takes_one_question_in_fp32(folder: Path) -> None:
    found = measure(row("equality"), replace(SCALE, precision="bf16"), folder)
    assert found["equality"]["TRL"]["holds"]


def test_in_bf16_both_sides_compute_but_equality_has_no_bar(folder: Path) -> None:
    found = measure(row("update"), replace(SCALE, precision="bf16"), folder)
    assert [e["holds"] for e in found["equality"].values()] == [None, None]
    assert max(e["logprob"] for e in found["equality"].values()) < 0.1


def test_memory_counts_both_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fast_path.memory.RUNS", 1)
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a CPU process is read from Linux's /proc")
    large = Row("memory", "memory", "memory", 4, 64, 30, TRL)
    found = measure(large, SCALE, folder)
    assert found["ratios"]["trl"] > 1 and all(len(v) == 1 for v in found["bytes"].values())


def test_cuda_variants_differ_in_weights_and_cache(folder: Path) -> None:
    """Which variants a CUDA row has can be seen without one."""
    case = make_case(row("rollout"), SCALE, folder)
    on_cuda = replace(case, scale=SCALES["cuda"])
    named = {v.name: v for group in trl_side.variants(on_cuda) for v in group}
    assert named["static cache, compiled"].opponent == "static"
    assert named["static cache, compiled"].compile_decode and named["TRL tuned"].weights is torch.bfloat16
    assert named["TRL defaults"].gradient_checkpointing and named["TRL defaults"].weights is torch.float32


def test_static_cache_and_compiled_decoding_reach_trls_generate(folder: Path) -> None:
    case = make_case(row("rollout"), SCALE, folder)
    variant = trl_side.Variant("static", 4, False, cache="static", compile_decode=True)
    side = trl_side.TrlRollout(case, variant)
    assert side.trainer.generation_config.disable_compile is False
    assert side.trainer.generation_config.cache_implementation == "static"
    assert [len(ids) for ids in side.run()] == [5] * 8


def test_learning_sees_the_same_questions_and_rewards_on_both_sides(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_benchmark(data, 20, seed=3, modalities=(Modality.MRI,), workers=1)
    config = learning.config_of(data, "nothink", seed=0, max_steps=1)
    small: Any = replace(
        config,
        data=replace(config.data, num_questions=8),
        grpo=replace(config.grpo, group_size=2, questions_per_step=4, max_completion_tokens=8),
    )
    ours = learning.learn_with_osler(small, tmp_path / "osler")
    theirs = learning.learn_with_trl(small, tmp_path / "trl", 8)
    assert len(ours.accuracy) == len(theirs.accuracy) == 1
    assert all(0 <= a <= 1 for a in ours.accuracy + theirs.accuracy)
    assert len(learning.question_order(small, learning.training_questions(small.data))) == 4
