"""Sorting reasoning by what can be counted: right or wrong, how sure, where it ends, what it rules out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from osler.evaluate.thinking.edits import reasoning_in
from osler.evaluate.thinking.reading import Elimination, conclusion, elimination
from osler.records import Extraction, Prediction

CONFIDENT = 0.9
RIGHT, WRONG, SURE_AND_WRONG = "right", "wrong", "wrong-and-confident"
OTHER_CHOICE, ELIMINATES, NO_CONCLUSION = "another-choice", "elimination", "no-conclusion"
KINDS = {
    RIGHT: "the answer is right",
    WRONG: "the answer is wrong",
    SURE_AND_WRONG: f"the answer is wrong, and its confidence is at least {100 * CONFIDENT:g} %",
    OTHER_CHOICE: "the reasoning settles on another choice than the answer, by its letter or its text",
    ELIMINATES: "the reasoning rules out choices in words",
    NO_CONCLUSION: "what the reasoning settles on cannot be read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """An answer that was read, with its reasoning."""

    index: int  # the answer
    correct: bool
    confidence: float | None  # of that answer, 0 to 1; None where nobody measured it
    body: str  # the reasoning, without tags
    conclusion: Extraction  # of `body`
    elimination: Elimination

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of `KINDS` that hold; an answer may be of several."""
        sure = self.confidence is not None and self.confidence >= CONFIDENT
        settled = self.conclusion.index
        held = {
            RIGHT: self.correct,
            WRONG: not self.correct,
            SURE_AND_WRONG: not self.correct and sure,
            OTHER_CHOICE: settled is not None and settled != self.index,
            ELIMINATES: self.elimination.found,
            NO_CONCLUSION: settled is None,
        }
        return tuple(kind for kind in KINDS if held[kind])


def traced(prediction: Prediction, choices: Sequence[str], confidence: float | None) -> Traced | None:
    """The answer sorted; None where none was read, or where it comes without one piece of reasoning."""
    index = prediction.extraction.index
    body = None if prediction.error or index is None else reasoning_in(prediction.text)
    if body is None or index is None:
        return None
    return Traced(
        index=index,
        correct=prediction.correct,
        confidence=confidence,
        body=body,
        conclusion=conclusion(body, choices),
        elimination=elimination(body, choices),
    )
