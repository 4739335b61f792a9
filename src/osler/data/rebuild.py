"""Choices that the text of a question cannot decide between.

A text-only reader gets far above chance where wrong choices are texts that are never right, and where some
answer is right more often than others. Wrong choices drawn from the right answers of other questions end the
first and not the second. Balance ends both: the questions of one pool (`answer_pools`) and split are put in
blocks in which no two have the same answer, and the answers of a block are the choices of all its questions.
Among questions that show the same choices, each choice is then right equally often. Whatever a reader makes
of the choices, and whatever it was trained on, it is right in one question of each block: chance. The stem
may still tell, unless all questions of a pool are asked with its one stem (`one_stem`).

What no block takes is dropped and counted, unless `keep` wants a larger share of the questions. Then some of
it is taken back without balance (rule `unbalanced`), and a reader who knows the frequent answer gains on it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from osler.data.answer_pools import AnswerKey, Pool, Pools, build_pools
from osler.data.question_types import RULE, is_yes_no
from osler.errors import BadInput
from osler.records import Question, QuestionType

YES_NO_RULES = ("balance", "drop")

BALANCED, UNBALANCED = "balanced", "unbalanced"  # how a kept question got its choices
REASONS: Mapping[str, str] = {
    "one_answer": "no other answer to the same kind of question could be offered beside it",
    "yes_no": "a yes/no question whose wording has no like number of opposite answers, or yes/no dropped",
    "surplus": "its answer is more frequent than the other answers of its pool can balance",
}


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How choices are rebuilt.

    >>> RepairOptions(seed=0, one_stem=True, yes_no="balance", keep=0.6).one_stem
    True
    """

    seed: int = 0
    one_stem: bool = False  # ask every question of a pool with the pool's one stem
    yes_no: str = "balance"  # or "drop": leave yes/no questions out
    keep: float = 0.0  # share of the questions of each split and modality to keep, balanced or not

    def __post_init__(self) -> None:
        if self.yes_no not in YES_NO_RULES:
            raise BadInput(f"yes/no rule {self.yes_no!r} is not known; it is balance or drop")
        if not 0 <= self.keep <= 1:
            raise BadInput(f"keep {self.keep:g}: a share from 0 to 1 is needed")


@dataclass(frozen=True, slots=True)
class Repaired:
    """The repaired questions in their old order, and what became of every other one."""

    questions: tuple[Question, ...]
    provenance: Mapping[str, Mapping[str, Any]]  # question id -> how it was made, and what it was
    dropped: tuple[tuple[Question, str], ...]  # the question as it was, and one of REASONS
    pools: tuple[Pool, ...]
    options: RepairOptions


def rebuild_choices(questions: Sequence[Question], options: RepairOptions) -> Repaired:
    """Give questions new choices, split by split; the same questions and options give the same result.

    Wrong choices are right answers of other questions of the same pool and split; their number is what most
    questions of the pool have, less where fewer answers exclude one another. Raises BadInput where
    nothing is left.
    """
    source = _Source(questions, build_pools(questions), options)
    placed: dict[int, _Place] = {}
    reasons: dict[int, str] = {}
    for pool in source.found.pools:
        for split, queues in source.queues(pool).items():
            if options.yes_no == "balance" or not source.asks_yes_no(pool):
                placed.update(_blocks(source, pool, split, queues))
            why = source.why_left(pool)
            reasons.update((i, why) for left in queues.values() for i in left)
    if options.keep:
        placed.update(_surplus(source, placed, reasons))
    if not placed:
        raise BadInput("rebuilding choices leaves no question: no two answers could stand beside each other")
    kept = sorted(placed)
    return Repaired(
        questions=tuple(_rebuilt(source, i, placed[i]) for i in kept),
        provenance={questions[i].id: _provenance(source, i, placed[i]) for i in kept},
        dropped=tuple((q, reasons[i]) for i, q in enumerate(questions) if i not in placed),
        pools=source.found.pools,
        options=options,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a question went: how it got its choices, in which pool and block, and which answers it offers."""

    rule: str
    pool: Pool
    block: str
    answers: tuple[AnswerKey, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """What everything is made from."""

    questions: Sequence[Question]
    found: Pools
    options: RepairOptions

    def rank(self, purpose: str, i: int, *rest: str) -> bytes:
        """A place in an order that depends on seed, purpose and question id alone."""
        return _digest(self.options.seed, purpose, self.questions[i].id, *rest)

    def asks_yes_no(self, pool: Pool) -> bool:
        return all(is_yes_no(self.questions[i]) for i in pool.positions)

    def block_size(self, pool: Pool) -> int:
        counts = Counter(len(self.questions[i].choices) for i in pool.positions)
        return max(counts, key=lambda size: (counts[size], size))

    def queues(self, pool: Pool) -> dict[str, dict[AnswerKey, list[int]]]:
        """For every split the questions of each answer, in drawn order."""
        queues: dict[str, dict[AnswerKey, list[int]]] = defaultdict(lambda: defaultdict(list))
        for key, members in pool.members.items():
            for i in sorted(members, key=lambda i: self.rank("queue", i)):
                queues[self.questions[i].split][key].append(i)
        return queues

    def why_left(self, pool: Pool) -> str:
        """Why a question of this pool is left where no block takes it: one of REASONS."""
        if self.asks_yes_no(pool):
            return "yes_no"
        pairs = combinations(pool.members, 2)
        return "surplus" if any(self.found.exclude_each_other(a, b) for a, b in pairs) else "one_answer"

    def grown(self, first: AnswerKey, others: Sequence[AnswerKey], size: int) -> tuple[AnswerKey, ...]:
        """Up to `size` answers that exclude one another: `first`, then whichever fit, in the order given."""
        block = [first]
        for key in others:
            if len(block) < size and all(self.found.exclude_each_other(key, one) for one in block):
                block.append(key)
        return tuple(block)


def _blocks(
    source: _Source, pool: Pool, split: str, queues: dict[AnswerKey, list[int]]
) -> Iterator[tuple[int, _Place]]:
    """Every question that a block takes, with its place; `queues` keeps what is left.

    The most frequent answers go first: that wastes fewest. Ties are drawn anew for every block.
    """
    size = source.block_size(pool)
    for number in itertools.count(1):
        stream = (source.options.seed, "tie", pool.name, split, number)
        order = sorted(
            (key for key, left in queues.items() if left),
            key=lambda key: (-len(queues[key]), _digest(*stream, *key)),
        )
        grown = (source.grown(first, order, size) for first in order)
        block = next((answers for answers in grown if len(answers) > 1), None)
        if block is None:
            return
        for key in block:
            yield queues[key].pop(), _Place(BALANCED, pool, f"{split}#{number}", block)


def _surplus(
    source: _Source, placed: Mapping[int, _Place], reasons: Mapping[int, str]
) -> Iterator[tuple[int, _Place]]:
    """As many unbalanced questions as each split and modality lacks of the share to be kept; yes/no last."""
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, question in enumerate(source.questions):
        strata[question.split, question.modality.value].append(i)
    offered: dict[tuple[str, str], set[AnswerKey]] = defaultdict(set)  # right somewhere in the split
    for i, place in placed.items():
        offered[place.pool.name, source.questions[i].split] |= set(place.answers)
    pool_of = {i: pool for pool in source.found.pools for i in pool.positions}
    usable = ("surplus", "yes_no") if source.options.yes_no == "balance" else ("surplus",)
    for members in strata.values():
        lacking = math.ceil(source.options.keep * len(members)) - sum(i in placed for i in members)
        left = [i for i in members if i not in placed and reasons[i] in usable]
        for i in sorted(left, key=lambda i: (usable.index(reasons[i]), source.rank("surplus", i))):
            if lacking <= 0:
                break
            pool, own = pool_of[i], source.found.keys[i]
            fitting = offered[pool.name, source.questions[i].split] if reasons[i] == "surplus" else pool.shown
            drawn = sorted(set(fitting) - {own}, key=lambda key: source.rank("offer", i, *key))
            answers = source.grown(own, drawn, source.block_size(pool))
            if len(answers) > 1:
                lacking -= 1
                yield i, _Place(UNBALANCED, pool, "", answers)


def _rebuilt(source: _Source, i: int, place: _Place) -> Question:
    order = sorted(place.answers, key=lambda key: source.rank("order", i, *key))
    return replace(
        source.questions[i],
        text=place.pool.stem if source.options.one_stem else source.questions[i].text,
        choices=tuple(place.pool.shown[key] for key in order),
        answer_index=order.index(source.found.keys[i]),
    )


def _provenance(source: _Source, i: int, place: _Place) -> dict[str, Any]:
    question, kind = source.questions[i], source.found.types[i]
    inferred = question.question_type is QuestionType.UNKNOWN
    return {
        "rule": place.rule,
        "pool": place.pool.name,
        "block": place.block,
        "question_type": f"{kind.value} ({RULE})" if inferred else kind.value,
        "text": question.text,
        "choices": list(question.choices),
        "answer_index": question.answer_index,
    }


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
