"""From flags and answers, one per test question, to findings: for all test questions and by modality."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from osler.audit.baselines import Accuracy, ByModality, TextAnswers, accuracy_of
from osler.audit.findings import CHECKS, Finding, make_finding
from osler.audit.leakage import Flagged
from osler.evaluate.stats import chance_level
from osler.records import Modality, Question

ALL = "all"
_NOT_ANSWERED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One part of the test questions: all of them, or a modality."""

    name: str
    num_train: int
    num_test: int
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The blind baseline fitted on one modality and tested on another."""

    train: str
    test: str
    accuracy: Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The blind baseline fitted on the first questions of a modality, tested on the same modality."""

    modality: str
    num_train: int
    accuracy: Accuracy


@dataclass(frozen=True)
class Asked:
    """The test questions, each with its cluster (image or subject), beside what was trained on."""

    questions: Sequence[Question]
    clusters: Sequence[Hashable]
    train: ByModality

    @cached_property
    def scopes(self) -> tuple[Scope, ...]:
        """All test questions, then every modality where there are several."""
        present = [m for m in Modality if (self._modality_names == m.value).any()]
        names = [ALL, *(m.value for m in present if len(present) > 1)]
        return tuple(self._scope(name) for name in names)

    def overlaps(self, found: Mapping[str, Flagged]) -> Iterator[Finding]:
        """One finding per check and scope."""
        fitted = np.isin(self._modality_names, [modality.value for modality in self.train])
        for scope in self.scopes:
            for check, flagged in found.items():
                # Which choices were ever right is counted modality by modality.
                members = self._members(scope.name) & (fitted if check == "wrong_never_right" else True)
                if members.any():
                    yield self._finding(check, scope.name, flagged.flags, members, flagged.evidence(members))

    def rules(self, answers: Mapping[Modality, TextAnswers]) -> Iterator[Finding]:
        """One finding per text-only rule and scope; questions of a modality without training are left out."""
        gold = np.array([question.answer_index for question in self.questions])
        names = dict.fromkeys(name for one in answers.values() for name in one.own)
        for name in names:
            chosen = self._joined({m: one.own[name] for m, one in answers.items() if name in one.own})
            for scope in self.scopes:
                members = self._members(scope.name) & (chosen != _NOT_ANSWERED)
                evidence = [
                    line for m, one in answers.items() for line in _evidence(one, name, m, scope.name)
                ]
                if members.any():
                    yield self._finding(name, scope.name, chosen == gold, members, evidence)

    def matrix(self, answers: Mapping[Modality, TextAnswers]) -> Iterator[Cell]:
        """The blind baseline of every training modality on every test modality."""
        for modality, one in answers.items():
            for other, chosen in one.across.items():
                yield Cell(train=modality.value, test=other.value, accuracy=self._accuracy(other, chosen))

    def curves(self, answers: Mapping[Modality, TextAnswers]) -> Iterator[CurvePoint]:
        """The blind baseline by number of training questions, all of them last."""
        for modality, one in answers.items():
            if modality in one.across:
                for size, chosen in {**one.curve, one.num_train: one.across[modality]}.items():
                    accuracy = self._accuracy(modality, chosen)
                    yield CurvePoint(modality=modality.value, num_train=size, accuracy=accuracy)

    def _scope(self, name: str) -> Scope:
        members = np.flatnonzero(self._members(name)).tolist()
        return Scope(
            name=name,
            num_train=sum(len(own) for m, own in self.train.items() if name in (ALL, m.value)),
            num_test=len(members),
            chance=chance_level([len(self.questions[i].choices) for i in members]),
        )

    @cached_property
    def _modality_names(self) -> NDArray[np.str_]:
        return np.array([question.modality.value for question in self.questions])

    def _members(self, scope: str) -> NDArray[np.bool_]:
        if scope == ALL:
            return np.ones(len(self.questions), dtype=np.bool_)
        return self._modality_names == scope

    def _finding(
        self,
        check: str,
        scope: str,
        flags: NDArray[np.bool_],
        members: NDArray[np.bool_],
        evidence: Sequence[str],
    ) -> Finding:
        positions = np.flatnonzero(members).tolist()
        is_accuracy = CHECKS[check].is_accuracy
        chance = chance_level([len(self.questions[i].choices) for i in positions]) if is_accuracy else None
        return make_finding(
            check, scope, flags[members], [self.clusters[i] for i in positions], chance, evidence
        )

    def _joined(self, chosen: Mapping[Modality, NDArray[np.int64]]) -> NDArray[np.int64]:
        """Answers of several modalities as one array over all test questions."""
        joined = np.full(len(self.questions), _NOT_ANSWERED, dtype=np.int64)
        for modality, own in chosen.items():
            joined[self._members(modality.value)] = own
        return joined

    def _accuracy(self, modality: Modality, chosen: NDArray[np.int64]) -> Accuracy:
        positions = np.flatnonzero(self._members(modality.value)).tolist()
        return accuracy_of(
            chosen, [self.questions[i] for i in positions], [self.clusters[i] for i in positions]
        )


def _evidence(one: TextAnswers, rule: str, modality: Modality, scope: str) -> Sequence[str]:
    """A modality's own evidence; in the scope of all modalities the first line of each."""
    lines = one.evidence.get(rule, ())
    if scope == ALL:
        return [f"{modality.value}: {line}" for line in lines[:1]]
    return lines if scope == modality.value else ()
