"""Risk, coverage and thresholds against slow loops, closed forms and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from osler.evaluate.selective import (
    NO_CONFIDENCE,
    accuracy_at_coverage,
    aurc,
    choose_threshold,
    oracle_aurc,
    risk_curve,
    upper_risk,
)


def slow_risks(confidence: list[float], correct: list[int]) -> np.ndarray:
    """Risk after 1, 2, … n answered questions, the mean over every order of equal confidences."""
    n = len(correct)
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order))
    ]
    risks = [[sum(1 - correct[i] for i in order[:k]) / k for k in range(1, n + 1)] for order in orders]
    return np.mean(risks, axis=0)


CASES = [
    ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 0, 1, 0]),
    ([0.9, 0.9, 0.9, 0.4, 0.4], [1, 0, 1, 0, 1]),
    ([0.5] * 6, [1, 0, 0, 1, 1, 0]),
    ([0.9, 0.3, NO_CONFIDENCE, NO_CONFIDENCE, 0.3], [1, 1, 0, 0, 0]),
]


@pytest.mark.parametrize(("confidence", "correct"), CASES)
def test_area_and_accuracies_are_the_mean_over_all_orders(
    confidence: list[float], correct: list[int]
) -> None:
    risks = slow_risks(confidence, correct)
    assert aurc(confidence, correct)[0] == pytest.approx(risks.mean())
    for k in range(1, len(correct) + 1):
        found = accuracy_at_coverage(k / len(correct), confidence, correct)[0]
        assert found == pytest.approx(1 - risks[k - 1])


def test_coverage_is_rounded_up_to_whole_questions() -> None:
    confidence, correct = list(np.linspace(1, 0, 10)), [1] * 8 + [0, 1]
    assert accuracy_at_coverage(0.8, confidence, correct)[0] == 1
    assert accuracy_at_coverage(0.81, confidence, correct)[0] == pytest.approx(8 / 9)
    assert accuracy_at_coverage(1.0, confidence, correct)[0] == pytest.approx(0.9)


def test_area_is_the_slow_loop_on_many_and_weights_are_repetitions() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(300), rng.integers(0, 2, 300)
    ordered = correct[np.argsort(-confidence)]
    slow = np.mean([np.mean(1 - ordered[:k]) for k in range(1, 301)])
    assert aurc(confidence, correct)[0] == pytest.approx(slow)
    weights = rng.integers(0, 3, (4, 300)).astype(float)
    for row, area, at in zip(
        weights,
        aurc(confidence, correct, weights),
        accuracy_at_coverage(0.9, confidence, correct, weights),
        strict=True,
    ):
        taken = np.repeat(np.arange(300), row.astype(int))
        assert area == pytest.approx(aurc(confidence[taken], correct[taken])[0])
        assert at == pytest.approx(accuracy_at_coverage(0.9, confidence[taken], correct[taken])[0])


def test_closed_forms_of_the_oracle_and_of_no_information() -> None:
    correct = [1] * 70 + [0] * 30
    expected = sum((k - 70) / k for k in range(71, 101)) / 100
    assert oracle_aurc(correct) == pytest.approx(expected)
    assert aurc([0.5] * 100, correct)[0] == pytest.approx(0.3)
    worst = aurc([-c for c in correct], correct)[0]
    assert worst == pytest.approx((30 + sum(30 / k for k in range(31, 101))) / 100)


def test_curve_ends_at_the_accuracy_that_is_reported_elsewhere() -> None:
    coverage, risk = risk_curve([0.9, 0.9, 0.5, NO_CONFIDENCE], [1, 0, 1, 0])
    assert coverage.tolist() == [0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0.5, 1 / 3, 0.5])


def test_upper_bound_is_clopper_pearson_and_clusters_widen_it() -> None:
    wrong = np.array([1] * 12 + [0] * 88)
    alone = upper_risk(wrong, range(100), 0.975)
    assert alone == pytest.approx(binomtest(12, 100).proportion_ci(0.95).high, rel=1e-6)
    none_wrong = upper_risk(np.zeros(50, dtype=int), range(50), 0.95)
    assert none_wrong == pytest.approx(1 - 0.05 ** (1 / 50))
    # Two equal answers per image say as much as one: half as many questions.
    twice = upper_risk(np.repeat(wrong, 2), np.repeat(np.arange(100), 2).tolist(), 0.975)
    assert twice == pytest.approx(alone, rel=1e-6)
    assert upper_risk(np.zeros(50, dtype=int), [0] * 25 + [1] * 25, 0.95) == pytest.approx(
        1 - math.sqrt(0.05)
    )
    assert upper_risk(np.ones(5, dtype=int), range(5), 0.95) == 1.0


def test_threshold_keeps_its_promise_on_new_questions() -> None:
    """The true risk above the chosen threshold exceeds 0.2 in at most 5 % of fits."""
    rng = np.random.default_rng(0)

    def questions(n: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = rng.uniform(0.3, 1.0, n)
        return confidence, (rng.random(n) < confidence).astype(int)

    broken, answered = 0, []
    for _ in range(200):
        found = choose_threshold(*questions(400), range(400), 0.2)
        if found.least_confidence is None:
            continue
        answered.append(found.coverage)
        true_risk = 1 - (found.least_confidence + 1) / 2  # mean of a uniform confidence above the threshold
        broken += true_risk > 0.2
    assert broken <= 10
    assert len(answered) > 150 and 0.2 < np.mean(answered) < 0.58  # 57 % is the coverage of risk 0.2


def test_threshold_is_the_widest_coverage_that_is_shown() -> None:
    confidence = np.linspace(1, 0.01, 1000)
    correct = np.array([1] * 700 + [0] * 300)
    found = choose_threshold(confidence, correct, range(1000), 0.05)
    assert found.coverage == pytest.approx(0.7) and found.risk == 0.0
    assert found.upper_bound == pytest.approx(1 - 0.03 ** (1 / 700))
    wider = choose_threshold(confidence, correct, range(1000), 0.2)
    assert wider.coverage == pytest.approx(0.8) and wider.risk == pytest.approx(1 / 8)


def test_no_threshold_is_said_and_unread_answers_are_never_answered() -> None:
    found = choose_threshold([0.9] * 20, [1, 0] * 10, range(20), 0.1)
    assert found.least_confidence is None and found.coverage == 0 and found.risk is None
    half = choose_threshold([0.9] * 200 + [NO_CONFIDENCE] * 200, [1] * 200 + [0] * 200, range(400), 0.05)
    assert half.coverage == pytest.approx(0.5) and half.least_confidence == 0.9
    with pytest.raises(ValueError, match="wanted risk"):
        choose_threshold([0.5], [1], ["a"], 1.0)
