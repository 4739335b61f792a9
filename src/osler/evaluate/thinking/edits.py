"""The reasoning of a completion, and what is done to it: cut, swapped, its letters taken out.

Pure functions of text. Cutting the reasoning and putting other reasoning in its place: arXiv 2505.13774;
keeping it while the choices are shuffled: ACRE, arXiv 2510.10104.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from osler.answer_patterns import LONE_LETTER, UNSPACED
from osler.data.permutation import choice_order, draw_key
from osler.prompts import Template, thinking_spans
from osler.records import LETTERS

_OPENING_TAG = re.compile(r"<think>", re.IGNORECASE)
_CLOSING_TAG = re.compile(r"</think>$", re.IGNORECASE)
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
# "(b)" and "option b" name a choice as "(B)" does; a lone small letter elsewhere is a word.
_SMALL_LETTER = re.compile(
    r"\(([a-z])\)|\b(?:option|choice|answer(?: is)?)\s{1,3}([b-hj-z])\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Trace:
    """A completion up to its answer letter, cut at its reasoning.

    >>> Trace("<think>", "Shows gas (B).", "</think><answer>").with_body("")
    '<think></think><answer>'
    """

    opening: str  # up to the reasoning
    body: str  # the reasoning itself
    joint: str  # from its end to where the answer letter stands

    def with_body(self, body: str) -> str:
        """The completion up to its answer letter with other reasoning."""
        return self.opening + body + self.joint


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """What choosing a donor of reasoning depends on."""

    question_id: str
    group: str  # donors come from the same one
    image_digest: str  # and show another image
    body: str


def find_trace(text: str, template: Template) -> Trace | None:
    """The one piece of reasoning before the answer of a completion.

    None where there is no answer, no reasoning before it or more than one piece, or where it says nothing.
    """
    prefix = template.answer_prefix(text)
    spans = [] if prefix is None else thinking_spans(prefix)
    if prefix is None or len(spans) != 1:
        return None
    body = _inside_tags(prefix, *spans[0])
    return None if body is None else Trace(prefix[: body[0]], prefix[slice(*body)], prefix[body[1] :])


def reasoning_in(text: str) -> str | None:
    """The reasoning of a completion without its tags, be it before or behind the answer.

    None where there is none, more than one piece, or one that says nothing or never ends.

    >>> reasoning_in("<answer>B</answer><think>Shows gas.</think>")
    'Shows gas.'
    """
    spans = thinking_spans(text)
    body = _inside_tags(text, *spans[0]) if len(spans) == 1 else None
    return None if body is None else text[slice(*body)]


def _inside_tags(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The range of what stands between the tags of one piece of reasoning; None where it says nothing."""
    opened = _OPENING_TAG.match(text, start)
    closed = _CLOSING_TAG.search(text, start, end)
    begin = start if opened is None else opened.end()
    if closed is None or not any(sign.isalnum() for sign in text[begin : closed.start()]):
        return None
    return begin, closed.start()


def first_share(body: str, share: float) -> str:
    """The first `share` (0 to 1) of the words, rounded down; where words are not spaced, of the signs.

    >>> first_share("Shows a bright mass.", 0.5), first_share("Shows a bright mass.", 0.2)
    ('Shows a', '')
    """
    words = list(_WORD.finditer(body))
    kept = int(share * len(words))
    return body[: words[kept - 1].end()] if kept else ""


def letters_named(body: str, num_choices: int) -> list[tuple[int, int, int]]:
    """(choice, start, end) of every letter by which the reasoning names one of the choices."""
    found = {}
    for pattern in (LONE_LETTER, _SMALL_LETTER):
        for match in pattern.finditer(body):
            for group in range(1, pattern.groups + 1):
                letter = match.group(group)
                if letter is not None and letter.upper() in LETTERS[:num_choices]:
                    found[match.span(group)] = LETTERS.index(letter.upper())
    return [(index, *span) for span, index in sorted(found.items())]


def without_letters(body: str, num_choices: int) -> str:
    """The reasoning with the letters of choices taken out, and the brackets and the space that held them.

    >>> without_letters("Shows gas (B), so the answer is B.", 4)
    'Shows gas, so the answer is.'
    """
    for _, start, end in reversed(letters_named(body, num_choices)):
        bracketed = body[:start].endswith(("(", "[")) and body[end:].startswith((")", "]"))
        start, end = (start - 1, end + 1) if bracketed else (start, end)
        if not bracketed and body[end:].startswith((")", ":")):
            end += 1
        before, after = body[:start].rstrip(" "), body[end:]
        if after and after[0].isalnum():
            before = body[:start]
        body = before + (after.lstrip(" ") if not before or before[-1].isspace() else after)
    return body


def shuffled_order(question_id: str, num_choices: int, answered: int) -> tuple[int, ...]:
    """Another order of the choices, keyed by the question: what stands at each place, by its old place.

    The choice that was answered always moves, so that its text and its old letter point to two choices.
    """
    for attempt in range(1000):
        order = choice_order(f"shuffled reasoning\x1f{attempt}\x1f{question_id}", num_choices)
        if order[answered] != answered:
            return order
    raise ValueError(f"{num_choices} choices cannot be put into another order")


def choose_donors(thoughts: Sequence[Thought]) -> dict[str, str]:
    """Question id -> question whose reasoning takes its place: same group, other image, other words.

    The questions stand in the order in which `--limit` takes them, and each takes the nearest before it that
    fits, else the nearest behind: asking more questions later changes no donor. None where none fits.
    """
    groups: dict[str, list[Thought]] = defaultdict(list)
    for thought in sorted(thoughts, key=lambda t: draw_key(t.question_id)):
        groups[thought.group].append(thought)
    donors = {}
    for members in groups.values():
        for place, own in enumerate(members):
            for other in [*reversed(members[:place]), *members[place + 1 :]]:
                if other.image_digest != own.image_digest and other.body.strip() != own.body.strip():
                    donors[own.question_id] = other.question_id
                    break
    return donors
