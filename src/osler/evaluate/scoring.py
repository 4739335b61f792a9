"""Scorers by name: the rule that says which choice a completion settled on.

    osler                    ours, the reader that training and `osler ask` use too (`osler.answers`)
    paper-strict:medvlm_r1   the rule of MedVLM-R1's released evaluation
    paper-strict:med_r1      the rule of Med-R1's released evaluation
    letter-logprob           the letter with the highest log-probability where the answer stands; no text
                             is read

Questions that are asked without their choices have a scorer of their own, text-logprob: the choice whose text
has the highest log-probability per byte.

Published accuracies move by 20 points with this rule alone, so every number names its scorer. None of them
turns an unreadable completion into a choice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from osler.answers import NOTHING, extract_answer
from osler.errors import BadInput
from osler.prompts import Template
from osler.records import LETTERS, Extraction

DEFAULT_SCORER = "osler"
LETTER_LOGPROB = "letter-logprob"
TEXT_LOGPROB = "text-logprob"

TextReader = Callable[[str, Sequence[str], Template], Extraction]

_TAGGED_CAPITAL = re.compile(r"<answer>\s*([A-Z])\s*</answer>")
_TAGGED_WORD = re.compile(r"<answer>\s*(\w+)\s*</answer>")


def read_as_osler(text: str, choices: Sequence[str], template: Template) -> Extraction:
    """`osler.answers.extract_answer`, whatever the template."""
    return extract_answer(text, choices)


def read_as_medvlm_r1(text: str, choices: Sequence[str], template: Template) -> Extraction:
    """MedVLM-R1's rule (JZPeterPan/MedVLM-R1 @2eee421 src/eval/test_qwen2vl_med.py:164-189).

    The first answer tag that holds one capital letter, wherever it stands, the reasoning included; for a
    plain template the whole completion, which has to be the letter and nothing else, no white space either.
    """
    if template.form == "plain":
        return _whole(text, choices)
    return _tagged(_TAGGED_CAPITAL, text, choices)


def read_as_med_r1(text: str, choices: Sequence[str], template: Template) -> Extraction:
    """Med-R1's rule (Yuxiang-Lai117/Med-R1 @88d76c7 src/eval_vqa/).

    The first answer tag that holds one word, wherever it stands (test_qwen2vl_vqa.py:110-125); for a plain
    template the whole completion (test_qwen2vl_vqa_zero_shot.py:124). Without reasoning the tag where the
    completion holds the word "answer", else the whole completion (test_qwen2_5vl_vqa_nothink.py:128-131);
    the script of the same name for Qwen2-VL never looks into the tag and scores 0 for every well-formed
    completion (test_qwen2vl_vqa_nothink.py:125-126), which nobody can mean.
    """
    if template.form == "plain" or (template.form == "nothink" and "answer" not in text):
        return _whole(text, choices)
    return _tagged(_TAGGED_WORD, text, choices)


READERS: dict[str, TextReader] = {
    DEFAULT_SCORER: read_as_osler,
    "paper-strict:medvlm_r1": read_as_medvlm_r1,
    "paper-strict:med_r1": read_as_med_r1,
}
SCORERS = (*READERS, LETTER_LOGPROB)


def check_scorer(name: str) -> str:
    """`name` itself. Raises `BadInput`, naming the nearest one, where there is no such scorer."""
    if name in SCORERS:
        return name
    near = get_close_matches(name, SCORERS, n=1, cutoff=0.0)[0]
    raise BadInput(f"--scorer {name}: did you mean {near}? known: {', '.join(SCORERS)}")


def scored_name(test_set: str, scorer: str) -> str:
    """What a test set's files are called: one set may be scored by several rules in one run folder.

    >>> scored_name("mri", "osler"), scored_name("mri", "paper-strict:med_r1")
    ('mri', 'mri@paper-strict-med_r1')
    """
    return test_set if scorer == DEFAULT_SCORER else f"{test_set}@{scorer.replace(':', '-')}"


def read_logprobs(logprobs: Sequence[float] | None) -> Extraction:
    """The most probable letter, from the log-probabilities [num_choices] at the answer position.

    Nothing is read where there are none (the completion never came to an answer), where one is not a
    number, or where two letters share the first place.
    """
    if not logprobs or any(math.isnan(value) for value in logprobs):
        return NOTHING
    best = max(logprobs)
    if list(logprobs).count(best) > 1:
        return NOTHING
    return Extraction(list(logprobs).index(best), LETTER_LOGPROB, None)


def read_text_logprobs(logprobs: Sequence[float], choices: Sequence[str]) -> Extraction:
    """The choice whose text is the most probable per byte of UTF-8; `logprobs` [num_choices] in nats.

    Per byte, because a sum over a text's tokens compares lengths first: each further token costs
    probability, whatever it says. Bytes, because tokens differ from model to model.
    """
    per_byte = [value / len(choice.encode()) for value, choice in zip(logprobs, choices, strict=True)]
    found = read_logprobs(per_byte)
    return found if found.index is None else Extraction(found.index, TEXT_LOGPROB, None)


def _whole(text: str, choices: Sequence[str]) -> Extraction:
    if len(text) != 1 or text not in LETTERS[: len(choices)]:
        return NOTHING
    return Extraction(LETTERS.index(text), "exact", (0, 1))


def _tagged(pattern: re.Pattern[str], text: str, choices: Sequence[str]) -> Extraction:
    found = pattern.search(text)
    if found is None or len(found.group(1)) != 1 or found.group(1) not in LETTERS[: len(choices)]:
        return NOTHING
    return Extraction(LETTERS.index(found.group(1)), "exact", found.span(1))
