"""The question type where a source names none: the rule `stem_words`.

Med-R1's files by modality carry no question type. The first of these patterns that a stem holds names
its type; a stem with none of them asks for a disease. All questions of one data set with the same answer
then take the type that most of their stems name, because an answer belongs to one type, whatever words ask
for it (a yes/no question goes by its own stem). On the 70,888 questions of OmniMedVQA's open-access part,
which do carry a type, the rule names the right one for 96.0 %; most of the rest are the 1,708 grades of one
data set that are asked for as "abnormality" (`benchmarks/repair.py` prints the share).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from osler.data.rows import normalise_choice
from osler.records import Question, QuestionType

RULE = "stem_words"

# In this order: a stem on "the diagnostic technique" asks for the modality, one on "the stage of the cancer"
# for a grade, one on "attributes of the abnormality" for an attribute.
_PATTERNS: tuple[tuple[QuestionType, re.Pattern[str]], ...] = (
    (
        QuestionType.MODALITY_RECOGNITION,
        re.compile(
            r"\b(modalit\w*|techniques?|methods?|means|technology|scan is this"
            r"|imaging (?:procedure|tool|approach)|diagnostic (?:tool|imaging)"
            r"|(?:type|kind|form) of (?:medical )?imaging)\b"
        ),
    ),
    (QuestionType.LESION_GRADING, re.compile(r"\b(grade|grading|stage|severity|image quality|quality of)\b")),
    (
        QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES,
        re.compile(
            r"\b(attributes?|characteristics?|features?|shape|morpholog\w*|orient\w*|axis|observed about)\b"
        ),
    ),
    (
        QuestionType.DISEASE_DIAGNOSIS,
        re.compile(
            r"\b(diagnos\w*|disease|illness|condition|abnormal\w*|anomal\w*|patholog\w*|cancer|tumou?r)\b"
        ),
    ),
    (
        QuestionType.ANATOMY_IDENTIFICATION,
        re.compile(
            r"\b(anatom\w*|organs?|region|structure|joint|tissue|oculus|content|subject matter|part|cells?"
            r"|body area|area of the (?:human )?body|left eye|right eye)\b"
        ),
    ),
)


def type_of_stem(stem: str) -> QuestionType:
    """The type that the words of one stem name.

    >>> type_of_stem("What part of the body does this image show?")
    <QuestionType.ANATOMY_IDENTIFICATION: 'anatomy_identification'>
    """
    words = stem.casefold()
    for question_type, pattern in _PATTERNS:
        if pattern.search(words):
            return question_type
    return QuestionType.DISEASE_DIAGNOSIS


def is_yes_no(question: Question) -> bool:
    """Whether the choices are just yes and no."""
    return {normalise_choice(choice) for choice in question.choices} == {"yes", "no"}


def question_types(questions: Sequence[Question]) -> list[QuestionType]:
    """The type of every question: its own where the source names one, else what the rule says. [n]"""
    keys = [_votes_with(question) for question in questions]
    votes: dict[Hashable, Counter[QuestionType]] = defaultdict(Counter)
    for question, key in zip(questions, keys, strict=True):
        if question.question_type is QuestionType.UNKNOWN:
            votes[key][type_of_stem(question.text)] += 1
    order = list(QuestionType)
    winner = {key: min(found, key=lambda t: (-found[t], order.index(t))) for key, found in votes.items()}
    return [
        winner[key] if question.question_type is QuestionType.UNKNOWN else question.question_type
        for question, key in zip(questions, keys, strict=True)
    ]


def _votes_with(question: Question) -> Hashable:
    same = question.text.casefold() if is_yes_no(question) else normalise_choice(question.answer)
    return question.modality, question.dataset, is_yes_no(question), same
