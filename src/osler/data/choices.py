"""Cutting `A) … B) … C) …` out of one text, by walking the letters in order.

Med-R1's files write stem and choices in one line (`question? A)one, B)two`), MedVLM-R1's one choice per
line (`question?\\nA) one\\nB) two`). Splitting on commas is wrong: 4 % of Med-R1's choices contain ", " and
more than a thousand contain something like "X)".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from osler.records import LETTERS

_FIRST = re.compile(r"(?:(?<=\s)|\A)A\)(?P<space>[ \t]*)(?=\S)")
_SENTENCE_ENDS = ("?", ".", ":", "!")


@dataclass(frozen=True, slots=True)
class CutProblem:
    """A problem text taken apart.

    >>> cut_choices("Seen here? A)Cyst, left, B)Tumour (grade B)").choices
    ('Cyst, left', 'Tumour (grade B)')
    """

    stem: str
    choices: tuple[str, ...]
    ambiguous: bool  # a marker occurs more often than it is used, so another cut could be meant


def _marker(letter: str, new_line: bool, spaced: bool) -> re.Pattern[str]:
    before = r"[ \t]*\n[ \t]*" if new_line else r", "
    # At the start of a line the break is mark enough; inline the space behind is part of the form.
    after = r"[ \t]*" if new_line else r"[ \t]+" if spaced else ""
    return re.compile(f"{before}{letter}\\){after}(?=\\S)")


_MARKERS: dict[tuple[bool, bool], list[re.Pattern[str]]] = {
    (new_line, spaced): [_marker(letter, new_line, spaced) for letter in LETTERS]
    for new_line in (False, True)
    for spaced in (False, True)
}


def _walk(body: str, new_line: bool, spaced: bool) -> tuple[list[str], bool]:
    """The choices of `body` (which starts right behind "A)"), and whether a marker occurs twice."""
    choices: list[str] = []
    ambiguous = False
    start = 0
    previous: re.Pattern[str] | None = None
    for marker in _MARKERS[new_line, spaced][1:]:
        found = marker.search(body, start)
        end = len(body) if found is None else found.start()
        if previous is not None and previous.search(body, start, end):
            ambiguous = True
        choices.append(body[start:end].strip())
        if found is None:
            break
        start, previous = found.end(), marker
    else:
        choices.append(body[start:].strip())
    return choices, ambiguous


def cut_choices(problem: str) -> CutProblem | None:
    """Stem and choices of one problem text; None where no `A)` is followed by a `B)`.

    The first marker decides the form: at the start of a line the others must start lines too, inline
    they must follow ", " and have a space behind them just where "A)" has one. Where
    several "A)" could be the first, the one behind the end of a sentence is taken, else the earliest.
    """
    candidates: list[tuple[bool, int, list[str], bool]] = []
    for first in _FIRST.finditer(problem):
        before = problem[: first.start()]
        line_start = before.rstrip(" \t").endswith("\n") or not before.strip()
        spaced = bool(first.group("space"))
        for new_line in (True, False) if line_start else (False,):
            choices, ambiguous = _walk(problem[first.end() :], new_line, spaced)
            if len(choices) >= 2 and all(choices):
                after_sentence = before.rstrip().endswith(_SENTENCE_ENDS)
                candidates.append((not after_sentence, first.start(), choices, ambiguous))
                break
    if not candidates:
        return None
    _, start, choices, ambiguous = min(candidates, key=lambda c: c[:2])
    return CutProblem(problem[:start].strip(), tuple(choices), ambiguous or len(candidates) > 1)
