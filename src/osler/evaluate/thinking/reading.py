"""What reasoning says: the choice it concludes on, and the choices it rules out.

Only plain wordings are read. What is not known here is not read: no conclusion, nothing ruled out.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from osler.answer_patterns import NEGATION, REVERSAL, SENTENCE_END
from osler.answers import NOTHING, extract_answer
from osler.evaluate.thinking.edits import letters_named
from osler.records import Extraction

ONLY_CHOICE = "lenient:only_choice"
_SHORTEST_NAME = 3  # letters of a choice's text by which running text can name it


@dataclass(frozen=True, slots=True)
class Elimination:
    """The choices that reasoning rules out in words, and by which wordings."""

    rejected: tuple[int, ...]  # choices, in order
    patterns: tuple[str, ...]  # names from `METHOD` and `REJECTED`, in order of first appearance

    @property
    def found(self) -> bool:
        return bool(self.patterns)


@dataclass(frozen=True, slots=True)
class _Mention:
    choices: frozenset[int]
    start: int
    end: int


# Wordings that state the method, whatever is ruled out.
METHOD: dict[str, re.Pattern[str]] = {
    "by_elimination": re.compile(
        r"\b(?:process of elimination|by (?:elimination|exclusion|ruling out|excluding|eliminating))\b",
        re.IGNORECASE,
    ),
    "others_rejected": re.compile(
        r"\b(?:the |all )?(?:other|remaining)(?: \w+)? (?:options|choices|answers|possibilities|diagnoses)\b"
        r"[^.!?\n]{0,40}?\b(?:not|incorrect|wrong|unlikely|impossible|excluded|eliminated|ruled out"
        r"|less likely|inconsistent|\w{1,8}n['’]t)\b"
        r"|\bnone of the (?:other|remaining)\b|\bno other (?:option|choice|answer)\b",
        re.IGNORECASE,
    ),
    "what_remains": re.compile(
        r"\b(?:leav(?:es|ing) (?:us (?:with )?)?(?:only|just)|left with (?:only)?"
        r"|only (?:remaining|possible) (?:option|choice|answer|possibility)"
        r"|only (?:option|choice|answer|possibility) (?:left|remaining|that remains))\b",
        re.IGNORECASE,
    ),
}
_RULE_OUT = r"(?:rul(?:e|es|ed|ing) out|eliminat(?:e|es|ed|ing)|exclud(?:e|es|ed|ing)|discard(?:s|ed|ing)?)"
_LEADING = r"(?:\s{1,3}(?:(?:a|an|the|any|both|either|options?|choices?|answers?)\b))*[\s:(\"'*]{0,4}$"
_BE = r"(?:is|are|was|were|be|being|seems?|appears?|looks?|can be|could be|may be|would be|can|could)"
_ADVERB = r"(?:\s{1,3}(?:also|then|clearly|definitely|therefore|thus|both|all|most|very|highly|safely))?"
_WRONG = (
    r"(?:incorrect|wrong|unlikely|impossible|less likely|inconsistent|implausible|improbable|not\b"
    r"|excluded|eliminated|ruled out|discarded)"
)
# Wordings that reject the choice behind ("before") or in front of ("after") them.
REJECTED: dict[str, re.Pattern[str]] = {
    "ruled_out": re.compile(rf"\b{_RULE_OUT}{_LEADING}", re.IGNORECASE),
    "not_this": re.compile(
        rf"\b(?:not|\w{{1,8}}n['’]t|rather than|instead of|unlike|against){_LEADING}", re.IGNORECASE
    ),
    "absent": re.compile(
        rf"\b(?:no|without|absence of|lack of|no (?:evidence|signs?|indication|features?) of){_LEADING}",
        re.IGNORECASE,
    ),
    "stated_wrong": re.compile(
        rf"^[)\]\"'*,]{{0,3}}\s{{1,3}}(?:{_BE}{_ADVERB}\s{{1,3}}(?:be\s{{1,3}})?{_WRONG}"
        rf"|{_BE}n['’]t\b|(?:does|do|did)(?:\s{{1,3}}not|n['’]t)\s{{1,3}}(?:fit|match|apply|explain|correspond)"
        rf"|(?:can|may|should)\s{{1,3}}(?:\w+\s{{1,3}})?be\s{{1,3}}(?:\w+\s{{1,3}})?{_RULE_OUT})",
        re.IGNORECASE,
    ),
}
_AFTER = ("stated_wrong",)
# "cannot be ruled out", "is not excluded", "not only": no rejection, whatever the wording.
_KEPT_AFTER = re.compile(
    rf"^[^.!?\n]{{0,20}}\b(?:cannot|can['’]?t|not|never|\w{{1,8}}n['’]t)\s{{1,3}}(?:\w+\s{{1,3}}){{0,2}}{_RULE_OUT}"
    rf"|^[^.!?\n]{{0,12}}\bnot\s{{1,3}}(?:unlikely|impossible|wrong|incorrect|inconsistent|only)",
    re.IGNORECASE,
)
_KEPT_BEFORE = re.compile(
    rf"(?:\b(?:cannot|can['’]?t|not|never|without)|n['’]t)\s{{1,3}}(?:\w+\s{{1,3}}){{0,2}}{_RULE_OUT}{_LEADING}"
    rf"|\bnot\s{{1,3}}(?:only|just){_LEADING}",
    re.IGNORECASE,
)
_LISTED = re.compile(
    r"[)\]\"'*]{0,2}\s{0,3}(?:,|/|&|\b(?:and|or|nor)\b|,\s{1,3}(?:and|or|nor)\b)\s{0,3}"
    r"(?:(?:the|an?|options?|choices?)\s{1,3}){0,2}[(\[\"'*]{0,2}",
    re.IGNORECASE,
)


def conclusion(body: str, choices: Sequence[str]) -> Extraction:
    """The choice that the reasoning settles on, by `osler.answers`; else the only choice that it names.

    A choice is named by its letter or by its whole text, `lenient:only_choice`. Reasoning that negates
    something, the choices' own texts aside, or turns round, and reasoning that names two choices or none,
    has no conclusion.
    """
    stated = extract_answer(body, choices)
    if stated.index is not None:
        return stated
    mentions = mentions_of(body, choices)
    signs = list(body)  # the "no" of a choice that reads "No contrast" negates nothing
    for _, start, end in mentions:
        signs[start:end] = "." * (end - start)
    beside = "".join(signs)
    if NEGATION.search(beside) or REVERSAL.search(beside):
        return NOTHING
    if len({index for index, _, _ in mentions}) != 1:
        return NOTHING
    index, start, end = mentions[-1]
    return Extraction(index, ONLY_CHOICE, (start, end))


def mentions_of(body: str, choices: Sequence[str]) -> list[tuple[int, int, int]]:
    """(choice, start, end) wherever the text names a choice by its letter or its whole text, in order.

    Where the text of one choice is part of another's, the longer one is meant.
    """
    found: list[tuple[int, int, int]] = []
    covered = bytearray(len(body))
    for index in sorted(range(len(choices)), key=lambda i: -len(choices[i])):
        words = choices[index].strip().rstrip(".").strip()
        if sum(sign.isalnum() for sign in words) < _SHORTEST_NAME:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", body, re.IGNORECASE):
            start, end = match.span()
            if not any(covered[start:end]):
                covered[start:end] = b"\1" * (end - start)
                found.append((index, start, end))
    # The B of "hepatitis B" is no letter of a choice where that is one.
    found += [named for named in letters_named(body, len(choices)) if not covered[named[1]]]
    return sorted(found, key=lambda mention: mention[1:])


def elimination(body: str, choices: Sequence[str]) -> Elimination:
    """Whether and how the reasoning rules out choices in words.

    A choice is ruled out where its letter or text stands next to a wording of `REJECTED` in the same
    sentence; of a list ("A, C and D are wrong") every member is. That a finding is absent counts where the
    finding is a choice.
    """
    patterns = {name: m.start() for name, p in METHOD.items() if (m := p.search(body))}
    rejected: set[int] = set()
    mentions = mentions_of(body, choices)
    starts = [mention[1] for mention in mentions]
    for start, end in _sentences(body):
        lists = _lists(body, mentions[bisect_left(starts, start) : bisect_left(starts, end)])
        for place, mention in enumerate(lists):
            before = body[lists[place - 1].end if place else start : mention.start]
            after = body[mention.end : lists[place + 1].start if place + 1 < len(lists) else end]
            for name, at in _rejections(before, after):
                rejected |= mention.choices
                patterns.setdefault(name, mention.start + at)
    order = sorted(patterns, key=lambda name: patterns[name])
    return Elimination(tuple(sorted(rejected)), tuple(order))


def _rejections(before: str, after: str) -> list[tuple[str, int]]:
    """(pattern, offset) of what rejects a mention between these two pieces of its sentence."""
    if _KEPT_AFTER.search(after):
        return []
    found = []
    for name, pattern in REJECTED.items():
        if name in _AFTER:
            found += [(name, 0)] if pattern.search(after) else []
        elif pattern.search(before) and not _KEPT_BEFORE.search(before):
            found.append((name, -1))
    return found


def _sentences(body: str) -> list[tuple[int, int]]:
    """Character ranges of the sentences; a line end ends one too."""
    ends = sorted({m.end() for m in SENTENCE_END.finditer(body)} | {m.end() for m in re.finditer("\n", body)})
    starts = [0, *ends]
    return list(zip(starts, [*ends, len(body)], strict=True))


def _lists(body: str, mentions: Sequence[tuple[int, int, int]]) -> list[_Mention]:
    """Mentions joined where they stand in one list, or where a text follows its own letter."""
    joined: list[_Mention] = []
    for index, start, end in mentions:
        last = joined[-1] if joined else None
        between = "" if last is None else body[last.end : start]
        same = last is not None and index in last.choices and re.fullmatch(r"[\s().:*\"'\[\]-]{0,5}", between)
        if last is not None and (same or _LISTED.fullmatch(between)):
            joined[-1] = _Mention(last.choices | {index}, last.start, end)
        else:
            joined.append(_Mention(frozenset({index}), start, end))
    return joined
