"""The papers' claims as a checklist: for each the comparison and the test that decides it here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from osler.evaluate.stats import holm, margin_p
from osler.study.effects import Domain, Effect, effect, lines_of
from osler.study.recipe import RELEASED
from osler.study.results import Line, StudyResults

MARGIN = 0.02  # of "at least as good"; fixed here, before any answer
LEVEL = 0.05  # for all claims of a study together, after Holm
Verdict = Literal["holds here", "reversed here", "not shown here", "not tested here", "look"]

ZERO_SHOT, SFT, GRPO = "zero_shot_think", "sft", "grpo_think"
NOTHINK, THINK_AFTER = "grpo_nothink", "grpo_think_after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim with what was found."""

    text: str
    source: str
    test: str  # what decides it, in words
    effect: Effect | None
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    text: str
    source: str
    a: str
    b: str
    domain: Domain
    at_least: bool = False  # non-inferiority of b, and less training
    axis: str = ""  # only studies of this axis decide it


_MEDVLM, _MED = "MedVLM-R1, abstract", "Med-R1, abstract"
_WANTED = (
    _Wanted(
        text="GRPO on final answers alone raises accuracy over the base model",
        source=f"{_MEDVLM}; {_MED}",
        a=ZERO_SHOT,
        b=GRPO,
        domain="all",
    ),
    _Wanted(
        text="Out of domain, GRPO keeps more than supervised fine-tuning",
        source=_MEDVLM,
        a=SFT,
        b=GRPO,
        domain="out",
    ),
    _Wanted(
        text="No-thinking is at least as good as thinking, with less training",
        source=f"{_MED} (version 4)",
        a=GRPO,
        b=NOTHINK,
        domain="all",
        at_least=True,
    ),
    _Wanted(
        text="Answering first and thinking after does better still than not thinking",
        source=f"{_MED} (version 5)",
        a=NOTHINK,
        b=THINK_AFTER,
        domain="all",
    ),
    _Wanted(
        text="What is learnt on one question type carries over to the others",
        source=_MED,
        a=ZERO_SHOT,
        b=GRPO,
        domain="out",
        axis="question_type",
    ),
)
_DOMAINS = {"all": "all cells", "in": "in-domain cells", "out": "out-of-domain cells"}


def check_claims(results: StudyResults) -> tuple[Claim, ...]:
    """Every claim, decided where this study can; p values adjusted over the claims that were tested."""
    found = [*(_found(results, wanted) for wanted in _WANTED), *_larger(results)]
    tested = [claim.effect.p for claim in found if claim.effect is not None]
    adjusted = iter(holm(tested) if tested else ())
    at_least = {wanted.text for wanted in _WANTED if wanted.at_least}
    decided = []
    for claim in found:
        if claim.effect is not None:
            claim = replace(claim, effect=replace(claim.effect, holm_p=float(next(adjusted))))
            claim = _decided(results, claim, claim.text in at_least)
        decided.append(claim)
    return (*decided, _traces(results))


def _found(results: StudyResults, wanted: _Wanted) -> Claim:
    test = f"{_label(results, wanted.b)} minus {_label(results, wanted.a)} on {_DOMAINS[wanted.domain]}"
    if wanted.at_least:
        test += f", p against -{100 * MARGIN:g} points (non-inferiority), and fewer training tokens"
    claim = Claim(text=wanted.text, source=wanted.source, test=test, effect=None, verdict="not tested here")
    if wanted.axis and results.study.axis != wanted.axis:
        return replace(claim, note=f"needs a study by {wanted.axis.replace('_', ' ')}")
    missing = [row for row in (wanted.a, wanted.b) if not lines_of(results, row)]
    if missing:
        return replace(claim, note=f"no row {missing[0]} with results")
    one = effect(results, wanted.a, wanted.b, wanted.domain)
    if one is not None and wanted.at_least:
        one = replace(one, p=margin_p(one.difference, one.interval, MARGIN))
    return replace(claim, effect=one, note="" if one is not None else "no such cell")


def _larger(results: StudyResults) -> Iterator[Claim]:
    """One claim per row of another model than the one that was trained."""
    study = results.study
    others = [
        name
        for name, row in study.rows.items()
        if not row.recipe and row.model not in ("", study.model, RELEASED)
    ]
    claim = Claim(
        text="The small model trained with GRPO does better than larger ones (7B, 72B) without training",
        source=f"{_MEDVLM}; {_MED}",
        test=f"{_label(results, GRPO)} minus a larger model on all cells",
        effect=None,
        verdict="not tested here",
        note="no row of a larger model; add one with model = a folder, a hub id or openai:URL#name",
    )
    tested = [name for name in others if lines_of(results, name) and lines_of(results, GRPO)]
    if not tested:
        yield claim
    for name in tested:
        one = effect(results, name, GRPO)
        test = f"{_label(results, GRPO)} minus {_label(results, name)} on all cells"
        yield replace(claim, text=f"{claim.text}: {_label(results, name)}", test=test, effect=one, note="")


def _decided(results: StudyResults, claim: Claim, at_least: bool) -> Claim:
    one = claim.effect
    assert one is not None
    note, costs_less = _cost(results, one) if at_least else (claim.note, True)
    if one.holm_p >= LEVEL:
        return replace(claim, verdict="not shown here", note=note)
    if one.difference < (-MARGIN if at_least else 0):
        return replace(claim, verdict="reversed here", note=note)
    return replace(claim, verdict="holds here" if costs_less else "not shown here", note=note)


def _cost(results: StudyResults, one: Effect) -> tuple[str, bool]:
    """What both trainings took, in words, and whether b took less."""
    cost_a, cost_b = (training_tokens(lines_of(results, row)) for row in (one.a, one.b))
    if cost_a is None or cost_b is None:
        return "training tokens are not known", False
    return f"training tokens per model: {cost_b:,.0f} against {cost_a:,.0f}", cost_b < cost_a


def training_tokens(lines: Sequence[Line]) -> float | None:
    """Mean completion tokens of a training; None where a log does not say."""
    found = [line.training.tokens for line in lines if line.training is not None]
    known = [tokens for tokens in found if tokens is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def _traces(results: StudyResults) -> Claim:
    has = bool(lines_of(results, GRPO))
    return Claim(
        text="Reasoning emerges that nobody showed the model",
        source=_MEDVLM,
        test="no number decides it: completions to the same questions early and late in training",
        effect=None,
        verdict="look" if has else "not tested here",
        note="see Traces" if has else f"no row {GRPO} with results",
    )


def _label(results: StudyResults, row: str) -> str:
    return results.study.rows[row].label if row in results.study.rows else row
