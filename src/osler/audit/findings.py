"""What the audit looks for, where a finding starts, and how one is made; docs/audit.md explains every check.

A share (of test questions with an overlap, say) is judged by itself. An accuracy of a text-only rule is
judged by how far the lower end of its 95 % interval lies above chance. All numbers run from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from osler.evaluate.stats import Interval, accuracy_interval

# A text-only rule needs this many questions before its accuracy is judged: with fewer, and so many rules and
# modalities, some would lie above chance by luck.
MIN_QUESTIONS = 100

ABOVE_CHANCE_WARNING = 0.05
ABOVE_CHANCE_FAULT = 0.15


class Level(StrEnum):
    """How much a finding matters, worst first."""

    FAULT = "fault"  # scores on these data do not say what they seem to say
    WARNING = "warning"  # scores are touched, or could be
    OK = "ok"
    NOTE = "note"  # a number to know, which is judged nowhere


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the audit measures.

    >>> CHECKS["image_overlap"].title
    'Test images that are also training images'
    """

    title: str
    warning: float | None  # judged above this; None: never
    fault: float | None
    is_accuracy: bool = False  # judged against chance
    advice: str = ""


def _rule(title: str, advice: str) -> Check:
    return Check(title, ABOVE_CHANCE_WARNING, ABOVE_CHANCE_FAULT, is_accuracy=True, advice=advice)


_SPLIT = "split anew by image or by patient: osler data convert DATA OUT --split image (or group)"
_REBUILD = "rebuild the choices: osler data convert DATA OUT --rebuild-choices --one-stem"

CHECKS: Mapping[str, Check] = {
    "image_overlap": Check("Test images that are also training images", 0.0, 0.01, advice=_SPLIT),
    "near_image_overlap": Check("Test images with a near copy in training", 0.0, 0.01, advice=_SPLIT),
    "image_question_overlap": Check("Same image and same stem as in training", 0.0, 0.01, advice=_SPLIT),
    "stem_overlap": Check("Stem seen in training, with any image", None, None),
    "problem_overlap": Check("Stem and choices seen in training, with any image", None, None),
    "wrong_never_right": Check("No wrong choice was ever right in training", 0.25, 0.5, advice=_REBUILD),
    "gold_in_path": Check(
        "Image path names the right choice and no other", 0.05, None, advice="never show a model image paths"
    ),
    "equal_choices": Check(
        "Two choices are the same but for case and full stop", 0.0, None, advice="correct those questions"
    ),
    "letter": _rule("Always the letter that was right most often", _REBUILD),
    "full_stop": _rule("The choice that alone has, or lacks, a full stop", _REBUILD),
    "length": _rule("The longest or the shortest choice", _REBUILD),
    "odd_one_out": _rule("The choice that alone has another form (case, digit, bracket, words)", _REBUILD),
    "named_in_stem": _rule("The choice that the stem names", _REBUILD),
    "yes_no": _rule("To every yes/no question the more frequent answer", _REBUILD),
    "option_prior": _rule("The choice whose text was right most often", _REBUILD),
    "label_free_prior": _rule("The choice whose text was offered most often, answers unseen", _REBUILD),
    "stem_lookup": _rule("The choice whose text was right most often after this stem", _REBUILD),
    "blind_baseline": _rule("Blind baseline: all words of stem and choices", _REBUILD),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check on one part of the test questions."""

    check: str  # a key of CHECKS
    scope: str  # "all" or a modality
    level: Level
    share: float  # of questions flagged, or answered right
    n: int
    interval: Interval
    chance: float | None  # for accuracies
    threshold: float | None  # what was passed, or would have to be for a warning
    evidence: tuple[str, ...]

    @property
    def title(self) -> str:
        return CHECKS[self.check].title


def make_finding(
    check: str,
    scope: str,
    flags: NDArray[np.bool_],
    clusters: Sequence[Hashable],
    chance: float | None = None,
    evidence: Sequence[str] = (),
) -> Finding:
    """Judge one check: `flags` [n] tells which questions it holds for (which are answered right, for a rule).

    `clusters` [n] names the image or subject of each question; the 95 % interval counts those, not questions.
    """
    rule = CHECKS[check]
    interval = accuracy_interval(flags.astype(np.int64), clusters)
    share = float(flags.mean())
    judged = interval.low - chance if rule.is_accuracy and chance is not None else share
    level, threshold = level_of(rule, judged)
    if rule.is_accuracy and len(flags) < MIN_QUESTIONS:
        level = Level.NOTE
    return Finding(
        check=check,
        scope=scope,
        level=level,
        share=share,
        n=len(flags),
        interval=interval,
        chance=chance,
        threshold=threshold,
        evidence=tuple(evidence),
    )


def level_of(rule: Check, judged: float) -> tuple[Level, float | None]:
    """The level of a share (or of the lower end of an accuracy above chance), and the threshold it met."""
    if rule.warning is None:
        return Level.NOTE, None
    if rule.fault is not None and judged > rule.fault:
        return Level.FAULT, rule.fault
    return (Level.WARNING if judged > rule.warning else Level.OK), rule.warning


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Faults, warnings, the rest; within a level the order they came in."""
    order = list(Level)
    return sorted(findings, key=lambda finding: order.index(finding.level))
