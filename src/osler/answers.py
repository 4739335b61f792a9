"""What a completion answered: the only place where model output is read.

`extract_answer` serves reward, evaluation and `osler ask` alike. It reads the letter in a single answer tag
outside the reasoning (or a completion that is one letter and nothing else) as `exact`; a few harmless
deviations as `lenient:RULE`; everything else as `none`. Where two readings are possible it reads
nothing: an unparsed completion never becomes a choice, neither the first nor a random nor the most similar
one. Others do all three: MedEvalKit @9b12e3b utils/utils.py:72-93 takes the most similar choice, the first
where none is similar; VLMEvalKit @895762d vlmeval/dataset/utils/multiple_choice.py
(`extract_answer_from_item`) draws one.

The rules, in the order in which they are tried:

    case               the letter or the tag in the wrong case: <answer>c</answer>
    width              full-width letter, brackets or tag, as Chinese and Japanese text has them
    punctuation        the letter with brackets, full stop, emphasis or a LaTeX box: (C)  C.  **C**
    choice_text        exactly one choice, word for word: <answer>Kidney</answer>
    letter_and_text    a letter and the text of that same choice: C) Kidney  Kidney (C)
    final_statement    "The answer is C.", not negated, not taken back, no other letter after it; also in
                       the languages of `osler.answer_patterns`
    half_tag           the opening or the closing answer tag alone, and a complete answer at it
    repeated           several answer tags that all say the same
    outside_thinking   one answer tag outside the reasoning while the reasoning holds answer tags too
    bare_letter        nothing but the letter beside the reasoning
    own_line           the letter alone on the first or last line, and no other letter in the text
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from osler.answer_patterns import (
    DRESSING,
    IS_CORRECT,
    LEAD,
    LETTER_AND_TEXT,
    LONE_LETTER,
    MENTION,
    NEGATION,
    REFUSAL,
    REVERSAL,
    SENTENCE_END,
    TAG,
    TAKEN_BACK,
    TEXT_AND_LETTER,
    WRAPPED_LETTER,
)
from osler.prompts import thinking_spans
from osler.records import LETTERS, Extraction, Outcome

NOTHING = Extraction(index=None, how="none", span=None)

_LOOK_BACK = 120
_MOST_LEADS = 200  # a text that begins a statement this often is caught in a loop
# Full-width signs (U+FF01 to U+FF5E) and their ASCII twins: one sign for one, so positions stay.
_NARROW = {0xFF01 + i: 0x21 + i for i in range(94)}
_REFUSAL_WINDOW = 600


@dataclass(frozen=True)
class _Reading:
    """A choice read from a piece of text: position, rule ("" for the bare capital letter), its range."""

    index: int
    rule: str
    start: int
    end: int


@lru_cache(maxsize=4096)
def _texts(choices: tuple[str, ...]) -> tuple[dict[str, int | None], dict[str, int | None], int]:
    """Choice position by text as written and by plain text, None where two share it, and a length limit."""
    as_written: dict[str, int | None] = {}
    plain: dict[str, int | None] = {}
    for index, choice in enumerate(choices):
        for table, key in ((as_written, choice.strip()), (plain, _plain(choice))):
            table[key] = None if key in table else index
    return as_written, plain, 2 * max(map(len, choices)) + 80


def _plain(text: str) -> str:
    """Case, width, white space, emphasis and the final full stop make no difference between choices."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if "\\" in text or "$" in text:
        text = DRESSING.sub("", text)
    return " ".join(text.casefold().split()).strip("*_\"'` ").rstrip(".。 ")


def extract_answer(text: str, choices: Sequence[str]) -> Extraction:
    """The choice that `text` (a completion) settles on, how it was read, and the character range read.

    `choices` are the choice texts in the order shown (2 to 26). Time is linear in the length of `text`.
    """
    options = tuple(choices)
    found = _extract(text, options)
    narrow = text if found.how == "exact" or text.isascii() else text.translate(_NARROW)
    if narrow == text:
        return found
    found = _extract(narrow, options)
    return replace(found, how="lenient:width") if found.how == "exact" else found


def _extract(text: str, options: tuple[str, ...]) -> Extraction:
    stripped = text.strip()
    if len(stripped) == 1 and stripped in LETTERS[: len(options)]:
        start = text.index(stripped)
        return Extraction(LETTERS.index(stripped), "exact", (start, start + 1))
    visible, hidden = _without_thinking(text)
    tags = list(TAG.finditer(visible))
    if tags:
        return _read_tags(visible, tags, options, bool(hidden))
    reading = _read_whole(visible, 0, len(visible), options)
    if reading is not None and reading.rule in ("", "punctuation") and stripped != visible.strip():
        reading = _Reading(reading.index, "bare_letter", reading.start, reading.end)
    if reading is None:
        reading = _read_statement(visible, 0, len(visible), options)
    if reading is None:
        reading = _read_own_line(visible, options)
    return NOTHING if reading is None else _lenient(reading, reading.rule)


def _lenient(reading: _Reading, rule: str) -> Extraction:
    return Extraction(reading.index, f"lenient:{rule or 'bare_letter'}", (reading.start, reading.end))


def _without_thinking(text: str) -> tuple[str, int]:
    """`text` with the reasoning blanked to line ends (positions stay), and the answer tags inside it."""
    pieces, start, hidden = [], 0, 0
    for span_start, span_end in thinking_spans(text):
        pieces += [text[start:span_start], "\n" * (span_end - span_start)]
        hidden += len(TAG.findall(text, span_start, span_end))
        start = span_end
    return "".join([*pieces, text[start:]]), hidden


def _read_tags(visible: str, tags: list[re.Match[str]], options: tuple[str, ...], hidden: bool) -> Extraction:
    if len(tags) == 1:
        reading = _read_half_tag(visible, tags[0], options)
        return NOTHING if reading is None else _lenient(reading, "half_tag")
    if [tag.group(1) for tag in tags] != ["", "/"] * (len(tags) // 2):
        return NOTHING
    readings: list[_Reading] = []
    for opening, closing in zip(tags[::2], tags[1::2], strict=True):
        reading = _read_whole(visible, opening.end(), closing.start(), options) or _read_statement(
            visible, opening.end(), closing.start(), options
        )
        if reading is None or (readings and reading.index != readings[0].index):
            return NOTHING
        readings.append(reading)
    first = readings[0]
    if hidden:
        return _lenient(first, "outside_thinking")
    if len(readings) > 1:
        return _lenient(first, "repeated")
    if first.rule:
        return _lenient(first, first.rule)
    if (tags[0].group(), tags[1].group()) != ("<answer>", "</answer>"):
        return _lenient(first, "case")
    return Extraction(first.index, "exact", (first.start, first.end))


def _read_half_tag(visible: str, tag: re.Match[str], options: tuple[str, ...]) -> _Reading | None:
    """One tag without its partner. A letter that ends the text may be the start of a cut word: not read."""
    if tag.group(1):
        return _read_whole(visible, 0, tag.start(), options)
    cut = visible.rfind("<", tag.end())
    end = cut if cut >= 0 and "</answer>".startswith(visible[cut:].lower()) else len(visible)
    if end == len(visible) and visible[-1].isalnum():
        return None
    return _read_whole(visible, tag.end(), end, options)


def _read_whole(text: str, start: int, end: int, options: tuple[str, ...]) -> _Reading | None:
    """Read text[start:end] as one answer and nothing more."""
    as_written, plain, limit = _texts(options)
    content = text[start:end]
    start += len(content) - len(content.lstrip())
    content = content.strip()
    if not content or len(content) > limit:
        return None
    end = start + len(content)
    letters = LETTERS[: len(options)]
    if len(content) == 1 and content in letters:
        return _Reading(letters.index(content), "", start, end)
    found: dict[int, str] = {}
    wrapped = WRAPPED_LETTER.fullmatch(content)
    if wrapped and wrapped.group(1).upper() in letters:
        letter = wrapped.group(1)
        found[letters.index(letter.upper())] = "punctuation" if letter.isupper() else "case"
    by_text = as_written.get(content)
    if by_text is None and content not in as_written:
        by_text = plain.get(_plain(content))
    if by_text is not None:
        found.setdefault(by_text, "choice_text")
    for letter, choice in _letters_with_text(content):
        if letter in letters and _plain(choice) == _plain(options[letters.index(letter)]):
            found.setdefault(letters.index(letter), "letter_and_text")
    if len(found) != 1:
        return None
    ((index, rule),) = found.items()
    return _Reading(index, rule, start, end)


def _letters_with_text(content: str) -> list[tuple[str, str]]:
    """(letter, text beside it) of "C) Kidney" and of "Kidney (C)"."""
    before, after = LETTER_AND_TEXT.fullmatch(content), TEXT_AND_LETTER.fullmatch(content)
    pairs = [(before.group(1), before.group(3))] if before else []
    pairs += [(after.group(2), after.group(1))] if after else []
    return [(letter.upper(), choice) for letter, choice in pairs]


def _read_statement(text: str, start: int, end: int, options: tuple[str, ...]) -> _Reading | None:
    """Read "the answer is C" and its kin; such statements must agree and stay undisputed by what follows."""
    candidates: list[_Reading] = []
    letters = LETTERS[: len(options)]
    named: set[int] = set()  # letters stated in a way that cannot be read: they have to agree all the same
    for count, lead in enumerate(LEAD.finditer(text, start, end)):
        if count == _MOST_LEADS:
            return None
        if _doubted(text, start, lead.start()):
            continue
        reading = _read_after(text, lead.end(), end, options)
        if reading is not None:
            candidates.append(reading)
        elif (lone := LONE_LETTER.match(text, lead.end(), end)) and lone.group(1) in set(letters):
            named.add(letters.index(lone.group(1)))
    for match in IS_CORRECT.finditer(text, start, end):
        if match.group(1) in letters and not _doubted(text, start, match.start(), set(letters)):
            index = letters.index(match.group(1))
            candidates.append(_Reading(index, "final_statement", match.start(1), match.end(1)))
    if not candidates or len({reading.index for reading in candidates} | named) > 1:
        return None
    last = max(candidates, key=lambda reading: reading.end)
    return None if _disputed(text, last.end, end, last.index, options) else last


def _read_after(text: str, start: int, end: int, options: tuple[str, ...]) -> _Reading | None:
    """The choice named at `start`: the rest of the line, its first sentence, or a letter with a stop."""
    stop = min(end, start + _texts(options)[2])
    newline = text.find("\n", start, stop)
    stop = stop if newline < 0 else newline
    sentence = SENTENCE_END.search(text, start, stop)
    ends = [stop] if sentence is None else [stop, sentence.start()]
    for until in ends:
        reading = _read_whole(text, start, until, options)
        # "The answer is a" is the beginning of a sentence, "the answer is b" is not.
        if reading is not None and (reading.rule != "case" or LETTERS[reading.index] not in "AI"):
            return _Reading(reading.index, "final_statement", reading.start, reading.end)
    letter = MENTION.match(text, start, stop)
    if letter is None or letter.group(1) not in LETTERS[: len(options)]:
        return None
    index = LETTERS.index(letter.group(1))
    if _names_another(_plain(text[letter.end() : stop]), index, options):
        return None
    return _Reading(index, "final_statement", letter.start(1), letter.end(1))


def _names_another(rest: str, index: int, options: tuple[str, ...]) -> bool:
    """Whether the plain text `rest` holds another choice's text that is no part of the text of `index`."""
    own = _plain(options[index])
    for position, option in enumerate(options):
        other = _plain(option)
        where = rest if own in other else rest.replace(own, " ")
        if position != index and other and re.search(rf"(?<!\w){re.escape(other)}(?!\w)", where):
            return True
    return False


def _doubted(text: str, start: int, position: int, letters: Collection[str] = ()) -> bool:
    """Whether the sentence that leads up to `position` negates, supposes, or already names a letter."""
    before = text[max(start, position - _LOOK_BACK) : position]
    before = before[max((match.end() for match in SENTENCE_END.finditer(before)), default=0) :]
    if NEGATION.search(before):
        return True
    return any(match.group(1) in letters for match in LONE_LETTER.finditer(before))


def _disputed(text: str, start: int, end: int, index: int, options: tuple[str, ...]) -> bool:
    """Whether text[start:end] takes the answer back or names another choice's letter."""
    if TAKEN_BACK.match(text, start, end) or REVERSAL.search(text, start, end):
        return True
    others = set(LETTERS[: len(options)]) - {LETTERS[index]}
    return any(match.group(1) in others for match in LONE_LETTER.finditer(text, start, end))


def _read_own_line(visible: str, options: tuple[str, ...]) -> _Reading | None:
    """Read a letter (with its text or not) that stands alone on the first or the last line."""
    start = len(visible) - len(visible.lstrip())
    end = len(visible.rstrip())
    first_end = visible.find("\n", start, end)
    if first_end < 0:
        return None
    last_start = visible.rfind("\n", start, end) + 1
    lines = ((start, first_end), (last_start, end))
    readings = [_read_whole(visible, *line, options) for line in lines]
    kept = [
        reading for reading in readings if reading and reading.rule in ("", "punctuation", "letter_and_text")
    ]
    if not kept or len({reading.index for reading in kept}) > 1:
        return None
    found = kept[0]
    if _disputed(visible, start, end, found.index, options):
        return None
    if found is readings[1] and _doubted(visible, start, found.start):
        return None
    return _Reading(found.index, "own_line", found.start, found.end)


def refuses(text: str) -> bool:
    """Whether the beginning of the completion, beside its reasoning, declines to answer."""
    visible, _ = _without_thinking(text)
    return REFUSAL.search(visible.lstrip()[:_REFUSAL_WINDOW]) is not None


def outcome_of(
    extraction: Extraction, answer_index: int, truncated: bool, text: str, refused: bool = False
) -> Outcome:
    """What came of a completion.

    The extraction decides. Only where nothing was read does it matter that the completion refused (in its
    text, or because whoever made it said so: `refused`) or was cut off by the token limit (`truncated`,
    which the prediction keeps as a flag in any case).
    """
    if extraction.index is not None:
        return Outcome.CORRECT if extraction.index == answer_index else Outcome.WRONG
    if refused or refuses(text):
        return Outcome.REFUSED
    return Outcome.TRUNCATED if truncated else Outcome.UNPARSED
