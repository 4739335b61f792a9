"""A user's reward function, as `package.module:function` names it: varies within a group of random text."""

from __future__ import annotations

from osler.prompts import Template
from osler.records import Completion, Extraction, Question


def even_tokens(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """Share of even token ids."""
    return sum(t % 2 == 0 for t in completion.token_ids) / len(completion.token_ids)
