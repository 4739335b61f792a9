"""Two evaluation runs over the same questions: is one better than the other, where, and by how much?

Nothing is asked of a model and no image is opened. The two sides are called a and b; a difference is
accuracy(b) - accuracy(a), "gained" is what only b answers right, "lost" what only a does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.errors import BadInput
from osler.evaluate.power import minimal_detectable_difference, paired_sample_size
from osler.evaluate.predictions import (
    Header,
    QuestionText,
    StoredPredictions,
    read_predictions,
    read_questions,
)
from osler.evaluate.stats import (
    Interval,
    McNemar,
    NonInferiority,
    cluster_flip_test,
    holm,
    mcnemar,
    non_inferiority,
    paired_cluster_bootstrap,
    paired_design_effect,
)
from osler.evaluate.summary import NOT_FITTED, SCOPES, BlindBaseline, Row, cluster_of, row_of
from osler.records import LETTERS, Prediction

PLANNED = (0.05, 0.02, 0.01)  # differences for which the number of questions is worked out


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """The comparison on one group of questions. Fractions of 1; p values are two-sided."""

    scope: str  # "overall", "modality", "question_type" or "dataset"
    value: str
    a: Row
    b: Row
    table: McNemar  # with exact p and mid-p, each question on its own
    difference: float
    interval: Interval  # 95 %, clustered
    cluster_p: float  # mid-p with whole clusters: equal to McNemar's where each has one question
    holm_p: float  # cluster_p adjusted: overall over the test sets, groups over all groups shown
    design_effect: float
    detectable: float | None  # smallest true difference found with 80 % power; None where none would be
    verdict: NonInferiority | None  # None where no margin was given

    @property
    def discordant_share(self) -> float:
        return self.table.discordant / self.a.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A question that one side answers right and the other does not."""

    question_id: str
    text: str  # "" where the run's questions file is missing
    answer: str  # the right letter
    a: str  # "B wrong", "unparsed", "error"
    b: str
    line_a: int  # in the side's predictions file, from 1
    line_b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything about one test set."""

    files: tuple[str, str]  # predictions files of a and b
    headers: tuple[Header, Header]
    differing: Mapping[str, tuple[Any, Any]]  # what was not the same in both: "template" -> (a, b)
    overall: Contrast
    groups: tuple[Contrast, ...]  # only scopes with two values or more
    needed: Mapping[float, int]  # difference -> questions needed at this share of disagreement, 80 % power
    gained: tuple[Change, ...]
    lost: tuple[Change, ...]
    margin: float | None
    cluster_unit: str
    blind_sources: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Side:
    path: Path  # predictions file
    stored: StoredPredictions
    predictions: Mapping[str, Prediction]
    blind: BlindBaseline


def compare_runs(run_a: str | Path, run_b: str | Path, margin: float | None = None) -> tuple[Comparison, ...]:
    """Compare every test set that both run folders hold; `margin` (fraction) asks for non-inferiority of b.

    Test sets are matched by name; where each run holds one only, those two are compared whatever they are
    called. Raises BadInput where nothing matches or where the questions are not the same.
    """
    if margin is not None and not 0 < margin <= 1:
        raise BadInput(f"--margin {100 * margin:g}: give percentage points above 0 and at most 100")
    pairs = [(_read_side(a), _read_side(b)) for a, b in _matched(Path(run_a), Path(run_b))]
    found = [_compare(a, b, margin) for a, b in pairs]
    overall = holm([c.overall.cluster_p for c in found])
    groups = iter(holm([g.cluster_p for c in found for g in c.groups]))
    return tuple(
        dataclasses.replace(
            comparison,
            overall=dataclasses.replace(comparison.overall, holm_p=float(p)),
            groups=tuple(dataclasses.replace(g, holm_p=float(next(groups))) for g in comparison.groups),
        )
        for comparison, p in zip(found, overall, strict=True)
    )


def _matched(run_a: Path, run_b: Path) -> list[tuple[Path, Path]]:
    if run_a.resolve() == run_b.resolve():
        raise BadInput(f"{run_a}: the same run twice; give two evaluation run folders")
    a, b = ({p.stem: p for p in sorted((run / "predictions").glob("*.jsonl"))} for run in (run_a, run_b))
    for run, names in ((run_a, a), (run_b, b)):
        if not names:
            raise BadInput(f"{run}: no predictions in it; give a run folder that osler evaluate wrote")
    if len(a) == len(b) == 1:
        return list(zip(a.values(), b.values(), strict=True))
    shared = [name for name in a if name in b]
    if not shared:
        raise BadInput(
            f"{run_a} was asked {', '.join(a)}; {run_b} was asked {', '.join(b)}: no test set in common"
        )
    return [(a[name], b[name]) for name in shared]


def _read_side(path: Path) -> _Side:
    stored = read_predictions(path)
    if not stored.predictions:
        raise BadInput(f"{path}: no answers in it; evaluate again")
    blind = path.parent.parent / "blind" / f"{path.stem}.json"
    if not blind.is_file():
        baseline = BlindBaseline(source=f"{NOT_FITTED} (the run holds no blind/{blind.name})")
    else:
        try:
            values = json.loads(blind.read_text(encoding="utf-8"))
            baseline = BlindBaseline(source=str(values["source"]), correct=dict(values["correct"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{blind}: not a blind baseline ({error!r}); evaluate again") from error
    return _Side(path, stored, {p.question_id: p for p in stored.predictions}, baseline)


def _compare(a: _Side, b: _Side, margin: float | None) -> Comparison:
    _check_same_questions(a, b)
    ids = list(a.predictions)
    overall = _contrast(a, b, ids, "overall", "", margin)
    right_a, right_b = ({i for i in ids if side.predictions[i].correct} for side in (a, b))
    texts = _texts(b) | _texts(a)
    units = {cluster_of(p).partition(":")[0] for p in a.predictions.values()}
    share = overall.discordant_share
    identities = (a.stored.header.identity, b.stored.header.identity)
    return Comparison(
        files=(str(a.path), str(b.path)),
        headers=(a.stored.header, b.stored.header),
        differing={
            key: (identities[0].get(key), identities[1].get(key))
            for key in identities[0] | identities[1]
            if identities[0].get(key) != identities[1].get(key)
        },
        overall=overall,
        groups=tuple(_groups(a, b, ids, margin)),
        needed={
            points: paired_sample_size(points, share, design_effect=overall.design_effect)
            for points in PLANNED
            if points <= share
        },
        gained=tuple(_change(a, b, i, texts) for i in ids if i in right_b - right_a),
        lost=tuple(_change(a, b, i, texts) for i in ids if i in right_a - right_b),
        margin=margin,
        cluster_unit=" or ".join(sorted(units)),
        blind_sources=(a.blind.source, b.blind.source),
    )


def _check_same_questions(a: _Side, b: _Side) -> None:
    only_a, only_b = (len(x.predictions.keys() - y.predictions.keys()) for x, y in ((a, b), (b, a)))
    if only_a or only_b:
        raise BadInput(
            f"{a.path} answers {len(a.predictions)} questions, {b.path} {len(b.predictions)}: {only_a} are "
            f"only in the first, {only_b} only in the second; evaluate both with the same --data and --limit"
        )
    # A question whose image could not be read has no image digest to compare.
    changed = [
        i
        for i, digest in a.stored.question_digests.items()
        if digest != b.stored.question_digests[i] and not (a.predictions[i].error or b.predictions[i].error)
    ]
    if changed:
        raise BadInput(
            f"{a.path}, {b.path}: {len(changed)} questions have the same id and another text, choices, "
            f"answer or image, {changed[0]!r} first; evaluate both on the same data"
        )


def _groups(a: _Side, b: _Side, ids: Sequence[str], margin: float | None) -> Iterator[Contrast]:
    """By modality, question type and data set, unless an earlier scope cut the questions in the same way."""
    cuts: list[list[list[str]]] = []
    for scope, key in SCOPES.items():
        members: dict[str, list[str]] = {}
        for i in ids:
            members.setdefault(key(a.predictions[i]), []).append(i)
        cut = sorted(members.values())
        if len(members) > 1 and cut not in cuts:
            cuts.append(cut)
            for value in sorted(members):
                yield _contrast(a, b, members[value], scope, value, margin)


def _contrast(
    a: _Side, b: _Side, ids: Sequence[str], scope: str, value: str, margin: float | None
) -> Contrast:
    rows_a, rows_b = ([side.predictions[i] for i in ids] for side in (a, b))
    right_a, right_b = ([p.correct for p in rows] for rows in (rows_a, rows_b))
    clusters = [cluster_of(p if p.image_digest else q) for p, q in zip(rows_a, rows_b, strict=True)]
    table = mcnemar(right_a, right_b)
    interval = paired_cluster_bootstrap(right_a, right_b, clusters)
    effect = paired_design_effect(right_a, right_b, clusters)
    return Contrast(
        scope=scope,
        value=value,
        a=row_of(rows_a, scope, value, a.blind),
        b=row_of(rows_b, scope, value, b.blind),
        table=table,
        difference=(table.only_b - table.only_a) / len(ids),
        interval=interval,
        cluster_p=cluster_flip_test(right_a, right_b, clusters)[1],
        holm_p=float("nan"),  # known once every test of the family is
        design_effect=effect,
        detectable=minimal_detectable_difference(len(ids), table.discordant / len(ids), design_effect=effect),
        verdict=None if margin is None else non_inferiority(interval, margin),
    )


def _texts(side: _Side) -> dict[str, QuestionText]:
    path = side.path.parent.parent / "questions" / side.path.name
    return read_questions(path) if path.is_file() else {}


def _change(a: _Side, b: _Side, question_id: str, texts: Mapping[str, QuestionText]) -> Change:
    answers = a.predictions[question_id], b.predictions[question_id]
    return Change(
        question_id=question_id,
        text=texts[question_id].text if question_id in texts else "",
        answer=LETTERS[answers[0].answer_index],
        a=_shown(answers[0]),
        b=_shown(answers[1]),
        line_a=a.stored.line_numbers[question_id],
        line_b=b.stored.line_numbers[question_id],
    )


def _shown(prediction: Prediction) -> str:
    outcome = "error" if prediction.outcome is None else prediction.outcome.value
    index = prediction.extraction.index
    return outcome if index is None else f"{LETTERS[index]} {outcome}"


def in_order_of_hash(changes: Sequence[Change]) -> list[Change]:
    """An order that nobody chose, for showing the first few of many."""
    return sorted(changes, key=lambda change: hashlib.sha256(change.question_id.encode()).digest())


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain JSON values; nothing is left out."""
    return dataclasses.asdict(comparison)
