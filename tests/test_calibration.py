"""Calibration against scikit-learn, closed forms, grids and slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from osler.evaluate.calibration import (
    TEMPERATURES,
    Platt,
    auroc,
    brier,
    calibration_error,
    calibration_error_interval,
    equal_mass_bins,
    error_if_calibrated,
    fit_platt,
    fit_temperature,
    log_loss,
    log_odds,
    padded,
    reliability,
    with_platt,
    with_temperature,
)


def drawn(n: int, seed: int = 0, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences (of few levels where asked) and outcomes that are right a little less often."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 2, n)
    if levels:
        confidence = np.round(confidence * levels) / levels
    return confidence, (rng.random(n) < 0.9 * confidence).astype(int)


def distributions(n: int, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of 2 to 4 choices, and answers drawn from them before they were sharpened."""
    rng = np.random.default_rng(seed)
    rows, answers = [], []
    for _ in range(n):
        logits = rng.normal(0, 1.5, rng.integers(2, 5))
        p = np.exp(logits) / np.exp(logits).sum()
        answers.append(int(rng.choice(len(p), p=p)))
        rows.append((sharpness * logits - np.log(np.exp(sharpness * logits).sum())).tolist())
    return padded(rows), np.array(answers)


def test_bins_hold_equally_many_answers_in_order() -> None:
    confidence, _ = drawn(400)
    bins = equal_mass_bins(confidence, 10)
    assert np.bincount(bins).tolist() == [40] * 10
    assert (np.diff(bins[np.argsort(confidence)]) >= 0).all()


def test_ties_stay_together_and_order_changes_nothing() -> None:
    confidence, correct = drawn(500, levels=5)
    bins = equal_mass_bins(confidence, 10)
    assert all(len(set(bins[confidence == value])) == 1 for value in set(confidence))
    shuffled = np.random.default_rng(1).permutation(500)
    again = calibration_error(confidence[shuffled], correct[shuffled])
    assert again == pytest.approx(calibration_error(confidence, correct))
    assert set(bins) == set(range(bins.max() + 1))
    assert equal_mass_bins([0.5] * 20).tolist() == [0] * 20


def test_calibration_error_is_the_slow_loop() -> None:
    confidence, correct = drawn(430)
    order = np.argsort(confidence)
    slow = 0.0
    for part in np.array_split(order, 10):  # 43 answers in each
        slow += len(part) / 430 * abs(correct[part].mean() - confidence[part].mean())
    assert calibration_error(confidence, correct)[0] == pytest.approx(slow)


def test_weights_stand_for_repeated_answers() -> None:
    confidence, correct = drawn(60, levels=7)
    rng = np.random.default_rng(3)
    weights = rng.integers(0, 3, (5, 60)).astype(float)
    for row, value in zip(weights, auroc(confidence, correct, weights), strict=True):
        taken = np.repeat(np.arange(60), row.astype(int))
        assert value == pytest.approx(roc_auc_score(correct[taken], confidence[taken]))
        assert brier(confidence, correct, row[None])[0] == pytest.approx(
            brier_score_loss(correct[taken], confidence[taken])
        )
        bins = equal_mass_bins(confidence)  # those of the answers themselves
        error = sum(abs(np.sum((row * (correct - confidence))[bins == b])) for b in set(bins)) / row.sum()
        assert calibration_error(confidence, correct, row[None])[0] == pytest.approx(error)


@pytest.mark.parametrize("levels", [0, 4])
def test_brier_and_auroc_are_those_of_scikit_learn(levels: int) -> None:
    confidence, correct = drawn(700, levels=levels)
    assert brier(confidence, correct)[0] == pytest.approx(brier_score_loss(correct, confidence))
    assert auroc(confidence, correct)[0] == pytest.approx(roc_auc_score(correct, confidence))


def test_auroc_of_one_kind_of_answer_does_not_exist() -> None:
    assert np.isnan(auroc([0.2, 0.4], [1, 1])).all() and np.isnan(auroc([0.2, 0.4], [0, 0])).all()


def test_reliability_bins_add_up_to_the_error() -> None:
    confidence, correct = drawn(350)
    bins = reliability(confidence, correct)
    assert sum(b.n for b in bins) == 350 and sum(b.num_correct for b in bins) == correct.sum()
    assert all(b.low <= b.confidence <= b.high for b in bins)
    error = sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / 350
    assert error == pytest.approx(calibration_error(confidence, correct)[0])


def test_error_of_a_calibrated_model_against_its_closed_form() -> None:
    # One confidence of 1/2 for all: one bin, and the mean distance of a fair coin's share from 1/2.
    n = 300
    exact = sum(math.comb(n, k) / 2**n * abs(k / n - 0.5) for k in range(n + 1))
    mean, high = error_if_calibrated([0.5] * n, draws=20_000)
    assert mean == pytest.approx(exact, rel=0.02)
    assert 1.8 * exact < high < 2.8 * exact  # of |N(0, 1)|: 1.96 / 0.798 = 2.46
    assert error_if_calibrated([1.0] * n) == (0.0, 0.0)


@pytest.mark.parametrize(("slope", "least"), [(1.0, 0.88), (1.5, 0.88)])
def test_interval_of_the_error_holds_the_truth(slope: float, least: float) -> None:
    """Calibrated (slope 1) and overconfident models, where the percentile interval holds it in 0 and 45 %."""
    rng = np.random.default_rng(0)

    def answers(n: int) -> tuple[np.ndarray, np.ndarray]:
        z = rng.normal(0.5, 1.2, n)
        return 1 / (1 + np.exp(-slope * z)), 1 / (1 + np.exp(-z))

    confidence, p = answers(200_000)
    bins = equal_mass_bins(confidence)
    truth = sum(abs(np.sum((p - confidence)[bins == b])) for b in range(10)) / len(p)
    held = 0
    for seed in range(100):
        confidence, p = answers(300)
        correct = (rng.random(300) < p).astype(int)
        found = calibration_error_interval(confidence, correct, range(300), resamples=200, seed=seed)
        held += found.low <= truth <= found.high
    assert held >= least * 100


def test_padding_and_log_loss() -> None:
    logprobs, answers = distributions(200)
    assert logprobs.shape == (200, 4) and np.exp(logprobs).sum(axis=1) == pytest.approx(np.ones(200))
    four = np.isfinite(logprobs).all(axis=1)
    expected = sklearn_log_loss(answers[four], np.exp(logprobs[four]), labels=range(4))
    assert log_loss(logprobs[four], answers[four]) == pytest.approx(expected)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_temperature_undoes_sharpening_and_no_grid_point_is_better(sharpness: float) -> None:
    logprobs, answers = distributions(4000, sharpness=sharpness)
    found = fit_temperature(logprobs, answers)
    assert found == pytest.approx(sharpness, rel=0.08)
    best = log_loss(with_temperature(logprobs, found), answers)
    grid = np.geomspace(*TEMPERATURES, 400)
    assert best <= min(log_loss(with_temperature(logprobs, t), answers) for t in grid) + 1e-12
    assert np.exp(with_temperature(logprobs, found)).sum(axis=1) == pytest.approx(np.ones(4000))


def test_temperature_meets_its_bounds_where_the_loss_has_no_minimum() -> None:
    logprobs = padded([[math.log(0.7), math.log(0.3)]] * 10)
    assert fit_temperature(logprobs, [0] * 10) < 0.05
    assert fit_temperature(logprobs, [1] * 10) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    # 7 of 10 right at 0.7: nothing to change.
    assert fit_temperature(logprobs, [0] * 7 + [1] * 3) == pytest.approx(1.0, rel=1e-4)


def test_log_odds_keep_what_a_probability_near_one_loses() -> None:
    logprobs = padded([[-1e-30, -69.0], [math.log(0.25), math.log(0.75)]])
    assert log_odds(logprobs, [0, 1]) == pytest.approx([69.0, math.log(3)])


def test_platt_is_logistic_regression_on_platt_s_targets() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, 500)
    y = (rng.random(500) < 1 / (1 + np.exp(-(0.6 * x - 0.4)))).astype(int)
    high, low = (y.sum() + 1) / (y.sum() + 2), 1 / (500 - y.sum() + 2)
    targets = np.where(y == 1, high, low)
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        np.tile(x, 2)[:, None], np.repeat([1, 0], 500), sample_weight=np.append(targets, 1 - targets)
    )
    found = fit_platt(x, y)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert found.offset == pytest.approx(oracle.intercept_[0], rel=1e-4)


def test_platt_stays_finite_where_all_are_right_or_confidence_separates() -> None:
    assert all(
        map(math.isfinite, (fit_platt([1.0, 2.0, 3.0], [1, 1, 1]).slope, fit_platt([1, 2], [1, 1]).offset))
    )
    apart = fit_platt([-2, -1, 1, 2], [0, 0, 1, 1])
    assert math.isfinite(apart.slope) and apart.slope > 0


def test_platt_moves_the_stated_choice_and_the_rest_in_proportion() -> None:
    logprobs = padded([[math.log(p) for p in row] for row in ([0.5, 0.3, 0.2], [0.9, 0.1])])
    found = np.exp(with_platt(logprobs, [0, 1], Platt(2.0, -0.5)))
    for row, stated, p in ((0, 0, 0.5), (1, 1, 0.1)):
        z = 2.0 * math.log(p / (1 - p)) - 0.5
        assert found[row, stated] == pytest.approx(1 / (1 + math.exp(-z)))
    assert found.sum(axis=1) == pytest.approx([1, 1])
    assert found[0, 1] / found[0, 2] == pytest.approx(1.5)
    assert np.exp(with_platt(logprobs, [0, 0], Platt(1.0, 0.0))) == pytest.approx(np.exp(logprobs))


def test_bad_values_are_refused() -> None:
    for confidence, correct in (([], []), ([0.5], [1, 0]), ([math.nan], [1]), ([0.5], [2])):
        with pytest.raises(ValueError, match=r"needed|must be"):
            brier(confidence, correct)
