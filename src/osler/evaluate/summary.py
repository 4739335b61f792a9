"""From predictions to numbers: no accuracy without its interval, n, chance level and blind baseline.

Everything here works on stored predictions; no model and no image is needed.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from osler.audit.blind import cross_validated_blind, fit_blind
from osler.errors import BadInput
from osler.evaluate.predictions import Header
from osler.evaluate.stats import CLUSTER_BOOTSTRAP, Interval, accuracy_interval, chance_level
from osler.records import Prediction, Question
from osler.tracking import write_json

NUM_FOLDS = 5
NOT_FITTED = "not fitted, give --blind-from"
MACRO_RESAMPLES = 10_000
_SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindBaseline:
    """What a text model that never saw an image answers, question by question."""

    source: str  # what it was fitted on; begins with "not fitted" where there was nothing to fit on
    correct: Mapping[str, bool] = field(default_factory=dict)  # question id -> whether it was right


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The numbers of one group of questions. Accuracies, rates and bounds are fractions of 1.

    `accuracy` counts everything that is not correct as wrong: unparsed, truncated, refused, failed.
    """

    scope: str  # "overall", "modality", "question_type" or "dataset"
    value: str  # "mri"; "" overall
    n: int
    num_correct: int
    accuracy: float
    interval: Interval  # 95 %
    num_parsed: int
    parsed_accuracy: float | None  # among parsed completions; None where there are none
    parsed_interval: Interval | None
    outcomes: Mapping[str, int]  # Outcome value or "error" -> count
    num_truncated: int  # a flag beside the outcome: some truncated completions did answer
    chance: float  # mean of 1 / number of choices
    blind_n: int  # questions of this group that the blind baseline answered
    blind_accuracy: float | None
    blind_interval: Interval | None

    @property
    def parse_rate(self) -> float:
        return self.num_parsed / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro:
    """The unweighted mean over the groups of one scope."""

    scope: str
    num_groups: int
    accuracy: float
    interval: Interval
    chance: float
    blind_accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All numbers of one predictions file; stored in `summary.json`."""

    header: Header
    overall: Row
    groups: tuple[Row, ...]  # modality, question type, data set; only scopes with two values or more
    macro: tuple[Macro, ...]
    blind_source: str
    cluster_unit: str  # "image", "subject", "question", or several joined by "or"
    errors: Mapping[str, str]  # question id -> technical failure; counted in n as not correct


SCOPES: dict[str, Callable[[Prediction], str]] = {
    "modality": lambda p: p.modality.value,
    "question_type": lambda p: p.question_type.value,
    "dataset": lambda p: p.dataset or "unnamed",
}


def blind_baseline(
    questions: Sequence[Question],
    clusters: Mapping[str, str],
    fit_on: Sequence[Question] | None = None,
    fit_name: str = "",
) -> BlindBaseline:
    """Blind answers to `questions`, fitted on `fit_on`, else by 5-fold cross-validation among themselves.

    `clusters` maps each question id to its image or subject, which is never on both sides of a fold.
    Where there are fewer than 5 clusters to fold, the baseline is marked as not fitted.
    """
    answers = np.array([q.answer_index for q in questions])
    if fit_on is not None:
        if not fit_on:
            raise BadInput(f"blind baseline: no questions to fit on in {fit_name or 'the given data'}")
        chosen = fit_blind(fit_on).predict(questions)
        source = f"fitted on {fit_name} ({len(fit_on)} questions)"
    else:
        keys = [clusters[q.id] for q in questions]
        if len(set(keys)) < NUM_FOLDS:
            return BlindBaseline(
                source=f"{NOT_FITTED} (fewer than {NUM_FOLDS} images here to cross-validate on)"
            )
        chosen = cross_validated_blind(questions, keys, folds=NUM_FOLDS)
        source = f"{NUM_FOLDS}-fold cross-validation by image within this test set"
    hits = np.asarray(chosen) == answers
    return BlindBaseline(source=source, correct={q.id: bool(h) for q, h in zip(questions, hits, strict=True)})


def cluster_of(prediction: Prediction) -> str:
    """The unit of sampling: the subject where it is known, else the image, else the question itself."""
    if prediction.subject_id:
        return f"subject:{prediction.dataset}:{prediction.subject_id}"
    if prediction.image_digest:
        return f"image:{prediction.image_digest}"
    return f"question:{prediction.question_id}"


def summarize(predictions: Sequence[Prediction], header: Header, blind: BlindBaseline) -> Summary:
    """Every number of one test set, as README, "How numbers are reported", defines them.

    Raises BadInput where there are no predictions.
    """
    if not predictions:
        raise BadInput(f"{header.name}: no predictions to summarise")
    groups: list[Row] = []
    macro: list[Macro] = []
    for scope, key in SCOPES.items():
        values = sorted({key(p) for p in predictions})
        if len(values) < 2:
            continue
        rows = [row_of([p for p in predictions if key(p) == v], scope, v, blind) for v in values]
        groups.extend(rows)
        macro.append(_macro(predictions, [key(p) for p in predictions], scope, rows))
    return Summary(
        header=header,
        overall=row_of(predictions, "overall", "", blind),
        groups=tuple(groups),
        macro=tuple(macro),
        blind_source=blind.source,
        cluster_unit=" or ".join(sorted({cluster_of(p).partition(":")[0] for p in predictions})),
        errors={p.question_id: p.error for p in predictions if p.error},
    )


def row_of(predictions: Sequence[Prediction], scope: str, value: str, blind: BlindBaseline) -> Row:
    """The numbers of one group of questions, which is called `value` within `scope`."""
    correct = [p.correct for p in predictions]
    parsed = [p for p in predictions if p.extraction.index is not None]
    parsed_correct = [p.correct for p in parsed]
    seen_blind = [p for p in predictions if p.question_id in blind.correct]
    blind_correct = [blind.correct[p.question_id] for p in seen_blind]
    return Row(
        scope=scope,
        value=value,
        n=len(predictions),
        num_correct=sum(correct),
        accuracy=sum(correct) / len(correct),
        interval=_interval(correct, predictions),
        num_parsed=len(parsed),
        parsed_accuracy=sum(parsed_correct) / len(parsed) if parsed else None,
        parsed_interval=_interval(parsed_correct, parsed) if parsed else None,
        outcomes=dict(Counter(p.outcome.value if p.outcome else "error" for p in predictions)),
        num_truncated=sum(p.truncated for p in predictions),
        chance=chance_level([p.num_choices for p in predictions]),
        blind_n=len(seen_blind),
        blind_accuracy=sum(blind_correct) / len(seen_blind) if seen_blind else None,
        blind_interval=_interval(blind_correct, seen_blind) if seen_blind else None,
    )


def _interval(correct: Sequence[bool], predictions: Sequence[Prediction]) -> Interval:
    return accuracy_interval(correct, [cluster_of(p) for p in predictions])


def _macro(
    predictions: Sequence[Prediction], labels: Sequence[str], scope: str, rows: Sequence[Row]
) -> Macro:
    accuracies = [row.accuracy for row in rows]
    blinds = [row.blind_accuracy for row in rows if row.blind_accuracy is not None]
    return Macro(
        scope=scope,
        num_groups=len(rows),
        accuracy=float(np.mean(accuracies)),
        interval=macro_interval(
            [p.correct for p in predictions], labels, [cluster_of(p) for p in predictions]
        ),
        chance=float(np.mean([row.chance for row in rows])),
        blind_accuracy=float(np.mean(blinds)) if len(blinds) == len(rows) else None,
    )


def macro_interval(
    correct: Sequence[bool],
    labels: Sequence[str],
    clusters: Sequence[str],
    resamples: int = MACRO_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % percentile bootstrap of the mean of group means, clusters redrawn whole.

    `correct`, `labels` and `clusters` are [n]; the groups are the distinct labels. A cluster may hold
    questions of several groups (one image, several question types) and is drawn with all of them. A group
    that a resample misses is left out of that resample's mean. Where every resample gives the same (all
    answers right, say) the interval is that of the plain accuracy, which has another method for this.
    """
    _, cluster_index = np.unique(np.asarray(clusters), return_inverse=True)
    group_names, group_index = np.unique(np.asarray(labels), return_inverse=True)
    num_clusters, num_groups = int(cluster_index.max()) + 1, len(group_names)
    hits_CG = np.zeros((num_clusters, num_groups), dtype=np.int64)
    sizes_CG = np.zeros_like(hits_CG)
    np.add.at(hits_CG, (cluster_index, group_index), np.asarray(correct, dtype=np.int64))
    np.add.at(sizes_CG, (cluster_index, group_index), 1)
    # Clusters with the same counts are one kind; drawing kinds gives the same distribution, much faster.
    kinds, counts = np.unique(np.hstack([hits_CG, sizes_CG]), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_clusters, counts / num_clusters, size=resamples) @ kinds
    hits, sizes = drawn[:, :num_groups], drawn[:, num_groups:]
    group_means = np.where(sizes > 0, hits / np.maximum(sizes, 1), 0.0)
    means = group_means.sum(axis=1) / (sizes > 0).sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    if low == high:
        return accuracy_interval(correct, clusters)
    return Interval(float(low), float(high), CLUSTER_BOOTSTRAP)


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """Plain JSON values; `summary_from_json` is the inverse."""
    return dataclasses.asdict(summary)


def summary_from_json(values: Mapping[str, Any]) -> Summary:
    """Inverse of `summary_to_json`. Raises KeyError or TypeError for foreign values."""

    return Summary(
        header=Header(**values["header"]),
        overall=row_from_json(values["overall"]),
        groups=tuple(row_from_json(v) for v in values["groups"]),
        macro=tuple(Macro(**{**v, "interval": Interval(**v["interval"])}) for v in values["macro"]),
        blind_source=values["blind_source"],
        cluster_unit=values["cluster_unit"],
        errors=values["errors"],
    )


def row_from_json(values: Mapping[str, Any]) -> Row:
    """A `Row` from its plain JSON values. Raises KeyError or TypeError for foreign ones."""

    def interval(v: Mapping[str, Any] | None) -> Interval | None:
        return None if v is None else Interval(**v)

    bounds = {k: interval(values[k]) for k in ("interval", "parsed_interval", "blind_interval")}
    return Row(**{**values, **bounds})


def write_summary(run_dir: str | Path, summary: Summary) -> Path:
    """Put one test set's numbers into `summary.json`, beside those of the run's other test sets."""
    return write_finding(run_dir, "evaluations", summary.header.name, summary_to_json(summary))


def write_finding(run_dir: str | Path, kind: str, test_set: str, values: Mapping[str, Any]) -> Path:
    """Put what a pass found about one test set into `summary.json` under its kind; the rest of it stays."""
    path = Path(run_dir) / _SUMMARY_FILE
    stored = _read_json(path) if path.exists() else {}
    stored.setdefault(kind, {})[test_set] = values
    write_json(path, stored)
    return path


def read_findings(run_dir: str | Path, kind: str) -> dict[str, Any]:
    """Test set -> what the pass of this kind found, as plain JSON values; empty where there was none."""
    path = Path(run_dir) / _SUMMARY_FILE
    found = _read_json(path).get(kind, {}) if path.exists() else {}
    if not isinstance(found, dict):
        raise BadInput(f"{path}: {kind!r} is not an object; evaluate again")
    return found


def read_summaries(run_dir: str | Path) -> tuple[Summary, ...]:
    """The summaries of a run folder, in the order of their first writing; empty where none was written."""
    path = Path(run_dir) / _SUMMARY_FILE
    if not path.exists():
        return ()
    evaluations: Iterable[Any] = _read_json(path).get("evaluations", {}).values()
    try:
        return tuple(summary_from_json(v) for v in evaluations)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: not a summary this version can read ({error!r}); evaluate again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot read: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}: not a JSON object")
    return values
