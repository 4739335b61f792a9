"""The pass over the reasoning: a model is asked again under every condition, and it is summed up."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.evaluate.passes import MainPass
from osler.evaluate.replies import Complete
from osler.evaluate.thinking.hints import COLLEAGUE, Hint
from osler.evaluate.thinking.plan import Variant, examined_from, plan_for
from osler.evaluate.thinking.rates import ThinkingSummary, summarize_thinking
from osler.evaluate.thinking.records import write_examined
from osler.prompts import Template
from osler.records import Completion, Prediction, Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling

ANSWER_TOKENS = (
    32  # an answer behind given reasoning: a letter, at most the text of a choice, and the end tag
)
_ANSWER_TAG = len("<answer>")


def check_thinks_first(template: Template) -> None:
    """Raises BadInput for a template whose answer has no reasoning before it."""
    if template.form == "think":
        return
    why = "has its reasoning behind the answer" if template.thinks else "asks for no reasoning"
    raise BadInput(f"--thinking: template {template.name!r} {why}; there is nothing to examine, use think")


def examine(main: MainPass, hint: Hint = COLLEAGUE) -> ThinkingSummary:
    """Ask under every condition (`osler.evaluate.thinking.records.CONDITIONS`) and sum up.

    The answers are predictions files under `variants/thinking-CONDITION/`, resumed like those of the main
    pass; `thinking/<name>.jsonl` gets one record per question, with its flags. Raises BadInput where such a
    file holds answers to other reasoning.
    """
    check_thinks_first(main.template)
    plan = plan_for(main.questions, main.predictions, main.template, hint)
    asks = []
    for variant in plan.variants:
        changes: dict[str, Any] = {"letters": True}
        if variant.begun is not None:
            changes["complete"] = continuing(variant.begun)
            changes["sampling"] = Sampling(max_completion_tokens=ANSWER_TOKENS, seed=main.sampling.seed)
        asks.append(main.variant(f"thinking-{variant.condition}", variant.questions, **changes))
    answers = {}
    for variant, ask, answered in zip(plan.variants, asks, main.answer(asks), strict=True):
        _check_begun(variant, answered, ask.out_dir)
        answers[variant.condition] = {p.question_id: p for p in answered}
    examined = examined_from(plan, answers, hint)
    write_examined(main.out / "thinking" / f"{main.header.name}.jsonl", examined)
    return summarize_thinking(
        examined, main.predictions, main.header, main.blind, plan.left_out, hint.wording
    )


def continuing(begun: Mapping[str, str]) -> Complete:
    """A way of asking in which each question's completion begins with the text given for its id."""

    def go_on(
        policy: Any, questions: Sequence[Question], template: Template, sampling: Sampling
    ) -> Sequence[tuple[Completion, ...]]:
        return complete(policy, questions, template, sampling, begun=[begun[q.id] for q in questions])

    return go_on


def _check_begun(variant: Variant, answered: Sequence[Prediction], folder: Path) -> None:
    """Whether stored answers stand behind the reasoning of this plan, not of an earlier one."""
    if variant.begun is None:
        return
    for prediction in answered:
        given = variant.begun[prediction.question_id][:-_ANSWER_TAG]
        # A tokenizer may compose what the text had decomposed.
        if not prediction.error and not _composed(prediction.text).startswith(_composed(given)):
            raise BadInput(
                f"{folder}: {prediction.question_id!r} was answered behind other reasoning than now; delete "
                "that folder, or use another --out"
            )


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
