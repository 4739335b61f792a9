"""Which right answers may stand beside each other as choices.

A pool is a set of answers that exclude one another: the right answers of one modality, data set and question
type. Four rules, all of them read from the questions themselves:

- *same answer*: answers that differ in case, punctuation, white space or a plural s are one answer, shown in
  its most frequent form.
- *true together*: two answers are never offered together where the words of one contain those of the other
  ("Melanoma", "Malignant melanoma"), or where some image of the data has both as right answers ("Chest",
  "Lung").
- *several things asked*: where images have two answers of one pool, the pool asks about several things (head
  and tail of a cell). It is cut along its stems: answers asked for in the same words stay together.
- *one answer*: where a data set has only one answer of a type, or only answers that are true together, its
  questions join the other such data sets of the modality and type. Modality recognition does not: "X-ray"
  and "Mammography" are names of one thing.

A yes/no question belongs to its own stem: "no" means something else under another one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

from osler.data.question_types import is_yes_no, question_types
from osler.records import Question, QuestionType

AnswerKey = tuple[str, ...]

ALL_DATA_SETS = "(several data sets)"
_YES_NO: Mapping[AnswerKey, str] = {("yes",): "Yes", ("no",): "No"}
_PUNCTUATION = ".,;:!?()[]'\"`"


@dataclass(frozen=True, slots=True)
class Pool:
    """Answers that exclude one another, and the questions that have them.

    >>> Pool(name="mri / Brain / disease_diagnosis", members={("cyst",): (0, 4), ("stroke",): (2,)},
    ...      shown={("cyst",): "Cyst", ("stroke",): "Stroke"}, stem="What is seen?").num_questions
    3
    """

    name: str
    members: Mapping[AnswerKey, tuple[int, ...]]  # answer -> positions of its questions
    shown: Mapping[AnswerKey, str]  # answer -> its one form
    stem: str  # the one stem that fits all answers best

    @property
    def positions(self) -> Iterator[int]:
        return chain.from_iterable(self.members.values())

    @property
    def num_questions(self) -> int:
        return sum(len(positions) for positions in self.members.values())


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools of a data set, and which answers are true together."""

    pools: tuple[Pool, ...]
    keys: tuple[AnswerKey, ...]  # the right answer of every question
    types: tuple[QuestionType, ...]  # of every question, inferred where the source names none
    together: frozenset[tuple[AnswerKey, AnswerKey]]  # seen on one image; both orders

    def exclude_each_other(self, a: AnswerKey, b: AnswerKey) -> bool:
        """Whether two answers may be offered together: not where both can be true of an image."""
        first, second = frozenset(a), frozenset(b)
        return not (first <= second or second <= first or (a, b) in self.together)


def answer_key(text: str) -> AnswerKey:
    """The words of an answer without case, punctuation and plural s; what makes two answers the same.

    >>> answer_key("First Proximal interphalangeal joints.")
    ('first', 'proximal', 'interphalangeal', 'joint')
    """
    words = (word.strip(_PUNCTUATION) for word in text.casefold().split())
    return tuple(_singular(word) for word in words if word) or (text.strip(),)


def tidy_answer(text: str) -> str:
    """One white space between words, no final full stop, a capital in front.

    >>> tidy_answer(" thyroid  gland. ")
    'Thyroid gland'
    """
    tidy = " ".join(text.split()).rstrip(".").rstrip() or text.strip()
    return tidy[:1].upper() + tidy[1:]


def build_pools(questions: Sequence[Question]) -> Pools:
    """The pools of all splits together. Every question is in exactly one."""
    types = question_types(questions)
    keys = [answer_key(question.answer) for question in questions]
    together = frozenset(_seen_together(questions, keys))
    found = Pools((), tuple(keys), tuple(types), together)
    cells: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, (question, kind) in enumerate(zip(questions, types, strict=True)):
        own_stem = (_stem_key(question.text),) if is_yes_no(question) else ()
        cells[(question.modality.value, question.dataset, kind.value, *own_stem)].append(position)
    joined: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for cell, positions in cells.items():
        answers = {keys[i] for i in positions}
        alone = not any(found.exclude_each_other(a, b) for a, b in combinations(answers, 2))
        joins = alone and len(cell) == 3 and cell[2] != QuestionType.MODALITY_RECOGNITION.value
        joined[(cell[0], ALL_DATA_SETS, cell[2]) if joins else cell] += positions
    pools = []
    for cell, positions in sorted(joined.items()):
        name = " / ".join(part or "(no name)" for part in cell)
        members: dict[AnswerKey, list[int]] = defaultdict(list)
        for i in positions:
            members[keys[i]].append(i)
        several = cell[1] != ALL_DATA_SETS and _asks_several_things(questions, positions, keys)
        parts = _cut_by_stems(questions, members) if several else [set(members)]
        for number, part in enumerate(parts, start=1):
            label = f"{name} #{number}" if len(parts) > 1 else name
            pools.append(_pool(label, {key: members[key] for key in sorted(part)}, questions))
    return replace(found, pools=tuple(pools))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _stem_key(stem: str) -> str:
    return " ".join(stem.casefold().split()).strip(_PUNCTUATION).strip()


def _answers_by_image(
    questions: Sequence[Question], keys: Sequence[AnswerKey], positions: Iterable[int]
) -> Iterable[set[AnswerKey]]:
    answers: dict[tuple[str, ...], set[AnswerKey]] = defaultdict(set)
    for i in positions:
        if questions[i].images and not is_yes_no(questions[i]):
            answers[questions[i].images].add(keys[i])
    return answers.values()


def _seen_together(
    questions: Sequence[Question], keys: Sequence[AnswerKey]
) -> set[tuple[AnswerKey, AnswerKey]]:
    """Pairs of answers, of whatever question types, that one image has; in both orders."""
    pairs = set()
    for answers in _answers_by_image(questions, keys, range(len(questions))):
        for a, b in combinations(answers, 2):
            pairs |= {(a, b), (b, a)}
    return pairs


def _asks_several_things(
    questions: Sequence[Question], positions: Sequence[int], keys: Sequence[AnswerKey]
) -> bool:
    return any(len(answers) > 1 for answers in _answers_by_image(questions, keys, positions))


def _cut_by_stems(
    questions: Sequence[Question], members: Mapping[AnswerKey, Sequence[int]]
) -> list[set[AnswerKey]]:
    """Answers in groups: the stem whose answers have most questions takes them all, then the next stem."""
    asked_with = _answers_by_stem(questions, members)
    left = set(members)
    parts: list[set[AnswerKey]] = []
    while True:
        groups = [answers & left for _, answers in sorted(asked_with.items()) if len(answers & left) > 1]
        if not groups:
            return [*parts, left] if left else parts
        parts.append(max(groups, key=lambda group: sum(len(members[key]) for key in group)))
        left = left - parts[-1]


def _answers_by_stem(
    questions: Sequence[Question], members: Mapping[AnswerKey, Sequence[int]]
) -> dict[str, set[AnswerKey]]:
    found: dict[str, set[AnswerKey]] = defaultdict(set)
    for key, positions in members.items():
        for i in positions:
            found[_stem_key(questions[i].text)].add(key)
    return found


def _pool(name: str, members: Mapping[AnswerKey, Sequence[int]], questions: Sequence[Question]) -> Pool:
    yes_no = all(is_yes_no(questions[i]) for positions in members.values() for i in positions)
    shown = dict(_YES_NO) if yes_no else {}  # both can be offered, though one of them may never be right
    for key, positions in members.items():
        forms = Counter(tidy_answer(questions[i].answer) for i in positions)
        shown[key] = min(forms, key=lambda form: (-forms[form], form))
    frozen = {key: tuple(positions) for key, positions in members.items()}
    return Pool(name, frozen, shown, _best_stem(questions, frozen))


def _best_stem(questions: Sequence[Question], members: Mapping[AnswerKey, Sequence[int]]) -> str:
    """The stem whose answers cover most questions of the pool, then the one most often asked.

    A stem that names some of the answers and not all comes last: it would give one away or rule some out.
    """
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for positions in members.values():
        for i in positions:
            forms[_stem_key(questions[i].text)][" ".join(questions[i].text.split()).strip('"')] += 1
    asked_with = _answers_by_stem(questions, members)

    def rank(stem: str) -> tuple[bool, int, int, str]:
        words = frozenset(answer_key(stem))
        named = sum(frozenset(key) <= words for key in members)
        covered = sum(len(members[key]) for key in asked_with[stem])
        return named in (0, len(members)), covered, forms[stem].total(), stem

    chosen = forms[max(forms, key=rank)]
    return min(chosen, key=lambda form: (-chosen[form], form))
