"""Measure one row: build both sides, show that they agree, time them in turns, put the floor beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.fast_path import osler_side
from benchmarks.fast_path.case import Case, make_case
from benchmarks.fast_path.equality import compare_updates
from benchmarks.fast_path.floor import shape_of, useful_flops
from benchmarks.fast_path.machines import measure_machine
from benchmarks.fast_path.memory import measure_memory
from benchmarks.fast_path.rows import Row, Scale
from benchmarks.fast_path.timing import Seconds, clock_of, free, median, take_turns, timed
from osler.ceilings import copy_ceiling, matmul_ceiling
from osler.costs.seconds import decode_bytes

WARM_UPS = {"cpu": 1, "cuda": 3}
CEILING_SECONDS = 0.5
LOGPROB_TOKENS = 32  # of each sampled completion are scored again by TRL


class Opponent(Protocol):
    """TRL's side of a row."""

    def run(self) -> object: ...


@dataclass(frozen=True)
class Duel:
    """One opponent and Osler, in turns."""

    opponent: str  # whose bar it counts for
    name: str
    theirs: list[Seconds]
    ours: list[Seconds]

    def ratio(self, device: str) -> float:
        return median(self.theirs, device) / median(self.ours, device)


def measure(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    """Everything about one row as plain values; `folder` keeps model and images for the next row."""
    return {
        "update": _update,
        "rollout": _rollout,
        "step": _step,
        "memory": measure_memory,
        "equality": _equality,
        "machine": measure_machine,
    }[row.work](row, scale, folder)


def _update(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    from benchmarks.fast_path.trl_side import TrlUpdate

    case = make_case(row, scale, folder)
    ours = osler_side.build_update(case)
    equal: dict[str, Any] = {}

    def check(name: str, theirs: Any) -> None:
        equality = compare_updates(ours, theirs)
        equal[name] = {**asdict(equality), "holds": equality.holds if scale.precision == "fp32" else None}

    duels, trials = _duels(case, ours.update, lambda v: TrlUpdate(case, v), check)
    flops = useful_flops(case)
    found = _found(case, duels, trials, flops.useful - flops.rollout)
    return {**found, "equality": equal, "osler_parts_seconds": ours.parts}


def _equality(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    """One question in fp32 on the device, where the row's own precision would hide a difference."""
    from benchmarks.fast_path.trl_side import TrlUpdate, Variant

    case = make_case(row, replace(scale, precision="fp32", master_weights=True, questions=1), folder)
    ours, theirs = osler_side.build_update(case), TrlUpdate(case, Variant("TRL", row.group_size, False))
    with _exact_convolutions():
        ours.update()
        theirs.run()
        equality = compare_updates(ours, theirs)
    return {"equality": {"TRL": {**asdict(equality), "holds": equality.holds}}}


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """TRL's tower begins with a convolution, which CUDA would take in TF32."""
    held = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = held


def _rollout(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    from benchmarks.fast_path.trl_side import TrlRollout

    case = make_case(row, scale, folder)
    ours = osler_side.build(case)
    duels, trials = _duels(case, ours.rollout, lambda v: TrlRollout(case, v))
    found = _found(case, duels, trials, useful_flops(case).rollout)
    found["equality"] = {"sampled log-probabilities": _sampled_logprob_difference(case, ours)}
    if scale.device == "cuda":
        prompt, shape = row.image_tokens + scale.text_tokens, shape_of(case)
        read = decode_bytes(shape, prompt, case.rows_per_step, scale.questions, row.completion_tokens, 2)
        ceiling = copy_ceiling("cuda")
        share = read / ceiling / found["median_ours"]
        found["bandwidth"] = {"bytes": read, "bytes_per_second": ceiling, "share_of_bound": share}
    return found


def _sampled_logprob_difference(case: Case, ours: osler_side.OslerSide) -> dict[str, Any]:
    """Largest |Osler's sampled log-probability - TRL's own of the same token|.

    With the placeholder mask off an image token may be drawn, which TRL's forward refuses: completions are
    cut before the first one.
    """
    from benchmarks.fast_path.trl_side import TrlUpdate, Variant, equal_weights

    tokens, logprobs = ours.rollout()
    bad = set(ours.learner.policy.placeholder_ids)
    firsts = (next((i for i, t in enumerate(row) if t in bad), len(row)) for row in tokens)
    width = min(LOGPROB_TOKENS, *firsts)
    if width == 0:
        raise RuntimeError("a completion begins with a placeholder token: nothing to compare")
    group = case.row.group_size
    cut = [tuple(row[:width]) for row in tokens]
    groups = tuple(tuple(cut[i : i + group]) for i in range(0, len(cut), group))
    forced = replace(case, row=replace(case.row, completion_tokens=width), completions=groups)
    theirs = TrlUpdate(forced, Variant("TRL", group, False, equal_weights(case.scale)), at_start=True)
    drawn = torch.tensor([row[:width] for row in logprobs])
    difference = float((theirs.logprobs().cpu() - drawn).abs().max())
    bound = 1e-4 if case.scale.precision == "fp32" else None
    return {"logprob": difference, "tokens": width, "holds": None if bound is None else difference <= bound}


def _step(row: Row, scale: Scale, folder: Path) -> dict[str, Any]:
    from benchmarks.fast_path.trl_side import TrlSteps

    duel_steps = WARM_UPS[scale.device] + scale.repeats
    case = make_case(row, scale, folder, steps=2 * duel_steps)  # two duels, no question twice
    ours = osler_side.build(case, mask_placeholders=True)
    duels, trials = _duels(case, ours.stepper(), lambda v: TrlSteps(case, v))
    return _found(case, duels, trials, useful_flops(case).useful)


def _duels(
    case: Case,
    ours: Callable[[], object],
    build: Callable[[Any], Opponent],
    check: Callable[[str, Any], None] | None = None,
) -> tuple[list[Duel], dict[str, float]]:
    """Osler against every variant in turns, one at a time in memory; of alternatives the faster one."""
    from benchmarks.fast_path.trl_side import variants

    device = case.scale.device
    duels: list[Duel] = []
    trials: dict[str, float] = {}
    for alternatives in variants(case):
        variant = alternatives[0]
        if len(alternatives) > 1:
            tried = {}
            for v in alternatives:
                tried[v] = timed(build(v).run, device).on(device)
                free(device)
            trials |= {v.name: seconds for v, seconds in tried.items()}
            variant = min(tried, key=lambda v: tried[v])
        theirs = build(variant)
        for _ in range(WARM_UPS[device]):
            theirs.run()
            ours()
        if check is not None:
            check(variant.name, theirs)
        seconds = take_turns({"theirs": theirs.run, "ours": ours}, case.scale.repeats, device)
        duels.append(Duel(variant.opponent, variant.name, seconds["theirs"], seconds["ours"]))
        del theirs
        free(device)
    return duels, trials


def _found(case: Case, duels: list[Duel], trials: dict[str, float], flops: int) -> dict[str, Any]:
    device = case.scale.device
    dtype = torch.bfloat16 if case.scale.precision == "bf16" else torch.float32
    ceiling = matmul_ceiling(device, dtype, CEILING_SECONDS, clock_of(device))
    ours = median([s for d in duels for s in d.ours], device)
    ratios: dict[str, float] = {}
    for duel in duels:  # the fastest variant of an opponent is the one to beat
        ratios[duel.opponent] = min(duel.ratio(device), ratios.get(duel.opponent, float("inf")))
    return {
        "ratios": ratios,
        "clock": "process time" if device == "cpu" else "wall clock",
        "median_ours": ours,
        "duels": [
            {
                **asdict(d),
                "median_theirs": median(d.theirs, device),
                "median_ours": median(d.ours, device),
                "ratio": d.ratio(device),
            }
            for d in duels
        ],
        "trials_seconds": trials,
        "floor": {
            "useful_flops": flops,
            "flops_per_second": ceiling,
            "seconds": flops / ceiling,
            "share_reached": flops / ceiling / ours,
        },
    }
