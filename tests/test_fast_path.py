"""The benchmarks of the fast path, at sizes that take no time; what needs TRL is in test_fast_path_trl.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import scaling
from benchmarks.fast_path import __main__ as command_line
from benchmarks.fast_path import learning, machines, memory, osler_side, results, vllm_rollout
from benchmarks.fast_path.case import Case, gradients, make_case
from benchmarks.fast_path.equality import relative_difference
from benchmarks.fast_path.floor import shape_of, useful_flops
from benchmarks.fast_path.measure import measure
from benchmarks.fast_path.models import ASK
from benchmarks.fast_path.rows import GROUPS, ROWS, SCALES, Row, Scale, rows_of
from benchmarks.fast_path.timing import Seconds, median, take_turns
from osler import doctor
from osler.costs.memory import predict_memory
from osler.costs.seconds import decode_bytes
from osler.costs.shape import ModelShape, TowerShape
from osler.costs.workload import workload

ROOT = Path(__file__).resolve().parents[1]
SCALE = Scale("cpu", questions=2, precision="fp32", hidden=64, layers=1, repeats=1)
ROW = Row("row", "rows", "update", group_size=3, image_tokens=6, completion_tokens=5, bars={})


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(ROW, SCALE, tmp_path_factory.mktemp("fast_path"))


@pytest.fixture(scope="module")
def side(case: Case) -> osler_side.OslerSide:
    return osler_side.build_update(case)


def test_prompts_have_exactly_the_tokens_asked_for(case: Case, side: osler_side.OslerSide) -> None:
    for question, ids in zip(case.first_questions, side.prompt_ids(), strict=True):
        assert len(ids) == ROW.image_tokens + SCALE.text_tokens
        assert ids.count(side.model.config.image_token_id) == ROW.image_tokens
        assert ASK.user_text(question).startswith("~")


def test_too_short_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the shortest prompt takes"):
        make_case(ROW, replace(SCALE, text_tokens=10), tmp_path)


def test_an_update_takes_the_given_completions_and_leaves_the_same_gradients_each_time(
    side: osler_side.OslerSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_rollout(*_: Any, **__: Any) -> None:
        raise AssertionError("an update must not sample")

    monkeypatch.setattr("osler.train.grpo.trainer.complete", no_rollout)
    side.update()
    first = {name: g.clone() for name, g in gradients(side.model).items()}
    side.update()
    again = gradients(side.model)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(name.startswith("model.visual") and g.any() for name, g in first.items())
    assert {"time/reference", "time/loss"} <= side.parts.keys()


def test_the_gap_between_sampling_and_training_is_measured(case: Case) -> None:
    """Given completions state log-probabilities of 0, so the gap is the mean of what the update computes."""
    given, drawn = osler_side.build_update(case), osler_side.build(case, mask_placeholders=True)
    gaps = [s.method.fill_gradients(0, s._clock()).metrics["ratio/sampled_gap"] for s in (given, drawn)]
    assert gaps[0] == pytest.approx(float(given.logprobs().abs().mean()), rel=1e-5)
    assert 0 < gaps[1] < 1e-5


def test_the_policy_is_nudged_off_its_reference(side: osler_side.OslerSide) -> None:
    reference = side.method.reference.model
    pairs = zip(side.model.parameters(), reference.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_rollouts_have_full_length(case: Case) -> None:
    tokens, logprobs = osler_side.build(case).rollout()
    assert [len(ids) for ids in tokens] == [ROW.completion_tokens] * case.rows_per_step
    assert [len(row) for row in logprobs] == [len(ids) for ids in tokens]


def test_a_stepper_takes_whole_steps(case: Case) -> None:
    side = osler_side.build(make_case(ROW, SCALE, case.folder, steps=2), mask_placeholders=True)
    before = [p.clone() for p in side.model.parameters()]
    step = side.stepper()
    step()
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, side.model.parameters(), strict=True))
    with pytest.raises(StopIteration):
        step()


def test_bf16_takes_the_same_code(case: Case) -> None:
    side = osler_side.build_update(replace(case, scale=replace(SCALE, precision="bf16")))
    side.update()
    assert all(torch.isfinite(g).all() for g in gradients(side.model).values())


def test_decoding_reads_weights_and_caches_once_per_token() -> None:
    tower = TowerShape(1, 1, 1, 2, 1, 1, 1, 1, 1)
    shape = ModelShape(
        tower, layers=2, width=8, queries=8, keys=4, heads=2, mlp_width=3, vocabulary=11, tied=True
    )
    numbers = 0
    for token in range(1, 4):  # the first comes out of the prefill
        numbers += 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 3) + 8 * 11
        numbers += 2 * 2 * 4 * (5 * 7 + 6 * token)  # five prompts of 7, six rows
    assert decode_bytes(shape, prompt=7, rows=6, prompts=5, tokens=4, width=2) == 2 * numbers


def test_the_floor_counts_what_is_computed_and_what_is_left_out(
    case: Case, side: osler_side.OslerSide
) -> None:
    """Matrix products counted where they run, attention pair by pair."""
    flops = useful_flops(case)
    assert flops.rollout == flops.loss == flops.reference
    with FlopCounterMode(display=False) as counter:
        side.logprobs()
    counts = counter.get_flop_counts()["Global"]
    found = sum(counts[op] for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    config, prompt, patches = side.model.config, ROW.image_tokens + SCALE.text_tokens, 4 * ROW.image_tokens
    causal = prompt * (prompt + 1) // 2
    own = ROW.group_size * sum(prompt + t + 1 for t in range(ROW.completion_tokens - 1))
    attention = 4 * patches**2 * config.vision_config.embed_dim * config.vision_config.depth
    text = config.get_text_config()
    attention += 4 * (causal + own) * text.hidden_size * text.num_hidden_layers
    # The count takes every layer whole. In the last one only keys and values of a prompt are needed, and its
    # last token's state.
    shape = shape_of(case)
    left_out = 2 * (prompt - 1) * (shape.layer_matrix_parameters - 2 * shape.width * shape.keys)
    assert flops.loss == found + SCALE.questions * (left_out + attention)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's training in this process (one of its own takes seconds), and ceilings as given."""
    ceilings = {"flops_per_second_fp32": 1e12, "bytes_per_second": 1e10, "seconds_per_call": 1e-6}
    monkeypatch.setattr(doctor, "measure", lambda device: ceilings)

    def here(spec: str, folder: Path) -> dict[str, Any]:
        given = json.loads(spec)
        found = machines.train_within(Row(**given["row"]), Scale(**given["scale"]), folder)
        return dict(json.loads(json.dumps(found)))

    monkeypatch.setattr(machines, "in_own_process", here)


def machine(gigabytes: int, way: str) -> Row:
    return replace(ROW, work="machine", gigabytes=gigabytes, way=way)


@pytest.mark.parametrize("row", [r for r in ROWS if r.work == "machine"], ids=lambda row: row.name)
def test_a_machine_trains_as_the_page_recommends(row: Row, case: Case, alone: None) -> None:
    small = machine(row.gigabytes, row.way)
    found = measure(small, SCALE, case.folder)
    assert f"`{found['keys'][-1]}`" in (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert found["out_of_memory"] == "" and found["seconds"] > 0 and found["seconds_predicted"] > 0
    assert found["limit_bytes"] == row.gigabytes * 10**9 - 2**30
    assert results.verdicts(found["ratios"], {"card": 1.0}) == {"card": True}
    config = osler_side.config_of(case, mask_placeholders=True, keys=found["keys"])
    assert (config.model.lora_rank > 0) == ("LoRA" in row.way)
    assert (config.grpo.kl_coef > 0) == ("KL on" in row.way)
    shape = shape_of(case)
    load = workload(config, shape.tower, image_pixels=ROW.image_tokens * 784, text_tokens=SCALE.text_tokens)
    assert load.work.prompt_tokens == ROW.image_tokens + SCALE.text_tokens
    assert found["peak_bytes_predicted"] == predict_memory(config, shape, load).peak
    assert not (case.folder / "run").exists()  # its checkpoint has served
    shown = results.table([{"row": asdict(small), **found}])
    assert f"| {row.gigabytes} GB | {row.way} | yes |" in shown and "TRL" not in shown


def test_a_card_that_runs_out_is_a_result(case: Case, alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(self: Any, step: int, clock: Any) -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more")
        finally:
            raise RuntimeError("a capture could not be ended")

    monkeypatch.setattr("osler.train.grpo.trainer.GrpoMethod.fill_gradients", too_much)
    found = measure(machine(24, "full, KL off"), SCALE, case.folder)
    assert found["out_of_memory"] == "CUDA out of memory. Tried to allocate 2 GiB."
    assert results.verdicts(found["ratios"], {"card": 1.0}) == {"card": False}
    assert machines.out_of_memory(RuntimeError("another")) == ""
    with pytest.raises(ValueError, match="predicted not to fit 12 GB"):
        machines.recommended(machine(12, "full, KL on"))


def test_a_process_is_held_to_the_cards_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=40 * 10**9)
    )
    cuda = torch.device("cuda")
    assert machines.hold_to(10 * 10**9, cuda) == 10 * 10**9
    assert machines.hold_to(80 * 10**9, cuda) == 40 * 10**9
    assert shares == [0.25, 1.0]


def test_sides_take_turns_and_each_begins_in_its_turn() -> None:
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = take_turns(sides, 4, "cpu")
    assert "".join(order) == "abcbcacababc"
    assert all(len(runs) == 4 for runs in seconds.values())


def test_the_median_is_of_the_clock_that_counts() -> None:
    runs = [Seconds(wall=9, process=1), Seconds(wall=8, process=3), Seconds(wall=7, process=2)]
    assert median(runs, "cpu") == 2 and median(runs, "cuda") == 8


def test_relative_difference_by_hand() -> None:
    b = {"large": torch.tensor([3.0, 4.0]), "small": torch.tensor([0.5]), "noise": torch.tensor([1e-9])}
    a = {"large": torch.tensor([3.0, 4.1]), "small": torch.tensor([0.6]), "noise": torch.tensor([1e-8])}
    whole, worst, name = relative_difference(a, b)
    assert whole == pytest.approx((0.01 + 0.01) ** 0.5 / 25.25**0.5, rel=1e-4)
    assert name == "small" and worst == pytest.approx(0.2, rel=1e-5)
    with pytest.raises(ValueError, match="different parameters"):
        relative_difference(a, {"large": b["large"]})


def test_rows_by_group_and_by_name() -> None:
    assert [r.name for r in rows_of(["update-g8"])] == ["update-g8-196", "update-g8-512"]
    assert rows_of([]) == ROWS and len(rows_of(["memory", "memory-g8-512"])) == 1
    with pytest.raises(ValueError, match="unknown rows"):
        rows_of(["update"])


def test_peak_memory_is_what_the_work_holds_at_once() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a CPU process is read from Linux's /proc")
    size = 2**26

    def work() -> None:
        torch.ones(size, dtype=torch.uint8)  # freed before the next
        torch.ones(size, dtype=torch.uint8)

    assert 0.99 * size <= memory._peak_beyond(work, torch.device("cpu")) < 1.2 * size


def result_of(name: str, ratio: float, bar: float) -> dict[str, Any]:
    floor = {"seconds": 0.5, "share_reached": 0.25}
    duel = {"median_theirs": 2 * ratio, "median_ours": 2.0}
    return {
        "row": {"name": name}, "ratios": {"trl": ratio}, "bars": {"trl": bar},
        "duels": [duel], "median_ours": 2.0,
        "floor": floor, "equality": {"TRL": {"logprob": 2e-6, "gradient": 3e-6}},
    }  # fmt: skip


def test_results_are_read_back_in_the_order_of_the_table(tmp_path: Path) -> None:
    results.write(tmp_path, "rollout-g8-196", result_of("rollout-g8-196", 3.0, 2.0))
    results.write(tmp_path, "update-g8-512", result_of("update-g8-512", 8.0, 7.0))
    found = results.read_all(tmp_path)
    lines = results.table(found).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| update-g8-512", "| rollout-g8-196"]
    assert "| 16.00 s | 2.00 s | 8.00x | 7.00x | 0.50 s | 25 % | 2.0e-06 | 3.0e-06 |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1
    results.plot([found, found[:1]], tmp_path / "ratios.svg")
    assert "<svg" in (tmp_path / "ratios.svg").read_text()
    assert results.verdicts({"trl": 3.0, "static": 1.0}, {"trl": 2.0, "static": 1.5}) == {
        "trl": True,
        "static": False,
    }


def test_learning_is_compared_by_area_and_by_second() -> None:
    def run(area: float, seconds: float) -> learning.Learnt:
        return learning.Learnt([area - 0.1, area + 0.1], seconds, 2 * seconds)

    ours = {0: run(0.50, 10.0), 1: run(0.60, 10.0), 7: run(0.1, 1.0)}  # seed 7 has no partner
    theirs = {0: run(0.51, 40.0), 1: run(0.59, 40.0)}
    found = learning.compare(ours, theirs, "think")
    assert found["seeds"] == 2 and found["area_osler"] == pytest.approx(0.55)
    # differences -0.01 and +0.01: standard error 0.01, t(0.95, 1) = 6.3138
    assert found["difference_high"] == pytest.approx(0.063138, rel=1e-4) and not found["equal"]
    assert found["per_second"] == pytest.approx(4 * (50 / 51 + 60 / 59) / 2)


def test_scaling_measures_a_point_and_says_how_steeply_it_grows(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "bytes_in_own_process", memory.update_bytes)  # a process takes seconds
    sizes = {"group_size": 2, "image_tokens": 6, "completion_tokens": 3, "questions": 1}
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a CPU process is read from Linux's /proc")
    one_question = replace(SCALE, questions=1)
    point = scaling.measure_point(sizes, SCALE, case.folder)
    flops = useful_flops(
        make_case(replace(ROW, group_size=2, completion_tokens=3), one_question, case.folder)
    )
    assert sum(point["operations"].values()) == flops.rollout
    assert point["seconds"].keys() == point["floor_seconds"].keys() == {"rollout", "update"}
    other = {**point, "sizes": {**sizes, "group_size": 4}, "bytes": 4 * max(1, point["bytes"])}
    point["bytes"] = max(1, point["bytes"])
    assert scaling.growth(point, other, "group_size") == "0.00, 0.00, 0.00, 0.00, 2.00"
    assert len(scaling.table("group_size", [point, other]).splitlines()) == 4
    more = {**point["operations"], "completions": 1 + point["operations"]["completions"]}
    said = scaling.where("group_size", [point, {**other, "operations": more}])
    assert said.startswith("group_size x2: rollout x1.0, rollout's floor x1.0, update x1.0")
    assert "memory of the update x4.0" in said and "0 % / 0 % / 100 % / 0 %" in said
    assert scaling.WHY.keys() == scaling.SWEEPS.keys() == scaling.MIDDLE.keys()
    scaling.plot("group_size", [point, other], tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_the_scripts_know_the_rows() -> None:
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    assert all(group in script for group in GROUPS)
    assert all({"cpu", "cuda"} >= row.bars.keys() for row in ROWS) and SCALES.keys() == {"cpu", "cuda"}
    shown = run_gpu_script("--help")
    assert "--wheels DIR" in shown.stdout and "set -euo" not in shown.stdout


def run_gpu_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *arguments],
        env={**os.environ, "PYTHON": sys.executable, "DEVICE": "cpu"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_the_gpu_script_goes_on_where_it_stopped(tmp_path: Path) -> None:
    results.write(tmp_path, "memory-g8-512", result_of("memory-g8-512", 4.0, 3.0))
    done = run_gpu_script("memory", "--out", str(tmp_path))
    assert "there already" in done.stderr and "| 4.00x | 3.00x |" in done.stdout


def test_a_row_that_fails_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(row: Row, scale: Scale, out: Path) -> None:
        if row.name == "update-g8-196":
            raise RuntimeError("out of memory")
        results.write(out, row.name, result_of(row.name, 8.0, 7.0))

    monkeypatch.setattr(command_line, "run", run)
    monkeypatch.setattr(command_line, "missing", lambda rows, device: [])
    monkeypatch.setattr(sys, "argv", ["fast_path", "update-g8", "--out", str(tmp_path)])
    assert command_line.main() == 1
    printed = capsys.readouterr()
    assert "8.00x" in printed.out
    assert "out of memory" in printed.err and "failed: update-g8-196" in printed.err


def test_what_rows_need_is_asked_for_before_hours_are_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "find_spec", lambda name: None if name in ("trl", "peft") else name)
    monkeypatch.setattr(command_line.shutil, "which", lambda name: None)
    update, machine = rows_of(["update-g8-196"]), rows_of(["machine-12"])
    assert command_line.missing(list(update), "cpu") == ["trl"]
    assert command_line.missing(list(update), "cuda") == ["trl", "a C compiler"]
    assert command_line.missing(list(machine), "cuda") == ["peft"]
    assert command_line.missing([], "cuda") == []


def test_an_unknown_row_is_a_wrong_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fast_path", "nonsense", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert stopped.value.code == 2 and "unknown rows nonsense" in capsys.readouterr().err


def test_beside_vllm_every_round_has_fresh_images_and_full_groups(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_rollout, "TOKENS", 3)
    rounds = vllm_rollout.rounds_of(case, 2)
    images = [Path(q.images[0]).read_bytes() for questions in rounds for q in questions]
    assert len(rounds) == 2 and len(set(images)) == 2 * SCALE.questions
    run = vllm_rollout.osler_rollout(case, rounds)
    for _ in rounds:
        groups: Any = run()
        assert [[len(c.token_ids) for c in group] for group in groups] == [[3] * 8] * SCALE.questions
