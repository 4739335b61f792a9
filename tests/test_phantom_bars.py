"""The base model's bars: every accuracy with n, interval, chance and blind baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from osler.audit.blind import cross_validated_blind
from osler.phantom.questions import Domain, draw_questions
from osler.phantom_base import bars
from osler.records import LETTERS, Completion, Modality, Question


def answers_a(
    policy: Any, questions: Sequence[Question], template: Any, sampling: Any, group_size: int = 1
) -> list[tuple[Completion, ...]]:
    thought = "<think>Seen.</think>" if template.form == "think" else ""
    one = Completion(
        text=f"{thought}<answer>{LETTERS[0]}</answer>",
        token_ids=(1,),
        sampled_logprobs=(0.0,),
        finish_reason="stop",
    )
    return [(one,) * group_size for _ in questions]


def test_accuracies_carry_what_belongs_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars, "complete", answers_a)
    questions = [
        replace(q, images=(str(tmp_path / q.images[0]),))
        for modality in (Modality.MRI, Modality.CT)
        for q in draw_questions(modality, 20, 0, "test", Domain.BASE)[1]
    ]
    found = {one.name: one for one in bars.measure(None, questions, tmp_path, 100)}  # type: ignore[arg-type]
    blind = cross_validated_blind(questions, [q.images[0] for q in questions])
    for modality in ("mri", "ct"):
        one = found[f"think, {modality}"]
        mine = [(q, b) for q, b in zip(questions, blind, strict=True) if q.modality == modality]
        assert one.value == pytest.approx(sum(q.answer_index == 0 for q, _ in mine) / len(mine))
        assert one.blind == pytest.approx(sum(q.answer_index == b for q, b in mine) / len(mine))
        assert (one.n, one.chance) == (len(mine), 0.25) and one.interval is not None
    assert found["think, form kept"].value == 1.0 and found["think, form kept"].blind is None
    assert found["think, blank image"].n == len(questions) == found["think, pass@8"].n
    Console(width=110).print(bars.table(list(found.values())))
    shown = capsys.readouterr().out
    assert "chance" in shown and "0.250" in shown and "cross-validation" in shown
    assert bars.to_json([found["think, ct"]])["think, ct"]["chance"] == 0.25
