from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_oracle
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from osler.evaluate.stats import (
    CLUSTER_BOOTSTRAP,
    WILSON,
    WILSON_OVER_CLUSTERS,
    Interval,
    NonInferiority,
    accuracy_interval,
    chance_level,
    cluster_bootstrap_interval,
    cluster_flip_test,
    holm,
    margin_p,
    mcnemar,
    non_inferiority,
    paired_cluster_bootstrap,
    paired_design_effect,
    wilson_interval,
)


@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_equals_statsmodels_and_scipy(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    found = wilson_interval(k, n, confidence)
    low, high = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    scipy = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((scipy.low, scipy.high), abs=1e-9)
    assert 0 <= found.low <= k / n <= found.high <= 1
    assert found.method == WILSON


@pytest.mark.parametrize(
    ("k", "low", "high"),
    [(286, 92.3, 97.2), (282, 90.7, 96.2), (211, 64.9, 75.2), (207, 63.6, 74.0)],
)
def test_wilson_at_300_questions(k: int, low: float, high: float) -> None:
    """95.33, 94.00, 70.33 and 69.00 % of 300: accuracies of MedVLM-R1, arXiv 2502.19634 [RECALLED]."""
    found = wilson_interval(k, 300)
    assert (round(100 * found.low, 1), round(100 * found.high, 1)) == (low, high)


@pytest.mark.parametrize(("n", "half_width"), [(300, 4.7), (900, 2.7), (17_000, 0.6)])
def test_wilson_is_the_normal_interval_where_n_is_large(n: int, half_width: float) -> None:
    """At an accuracy of 78 %: 1.96 sqrt(p (1 - p) / n), to a tenth of a point."""
    found = wilson_interval(round(0.78 * n), n)
    assert round(50 * (found.high - found.low), 1) == half_width
    assert round(196 * sqrt(0.78 * 0.22 / n), 1) == half_width


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3), (1, -2)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson_interval(k, n)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 3, confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        cluster_bootstrap_interval([1, 0], [0, 1], 10, 0, confidence)


def clustered(seed: int, num_clusters: int, spread: float = 0.3) -> tuple[np.ndarray, list[str]]:
    """Right-or-wrong answers whose rate differs from cluster to cluster; 1 to 5 answers each."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, num_clusters)
    rates = np.clip(0.6 + spread * rng.standard_normal(num_clusters), 0, 1)
    correct = np.concatenate([rng.random(m) < r for m, r in zip(sizes, rates, strict=True)])
    return correct.astype(int), [f"image {c}" for c, m in enumerate(sizes) for _ in range(m)]


def slow_bootstrap(values: np.ndarray, clusters: list[str], resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(np.array(clusters) == name) for name in sorted(set(clusters))]
    means = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(members), len(members))
        means.append(values[np.concatenate([members[c] for c in drawn])].mean())
    return tuple(np.percentile(means, [2.5, 97.5]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cluster_bootstrap_equals_drawing_clusters_one_by_one(seed: int) -> None:
    correct, clusters = clustered(seed, 80)
    found = cluster_bootstrap_interval(correct, clusters, seed=seed)
    low, high = slow_bootstrap(correct, clusters, 10_000, seed + 100)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert found.method == CLUSTER_BOOTSTRAP


def test_cluster_bootstrap_equals_the_normal_interval_of_the_ratio_for_many_clusters() -> None:
    """Large-sample oracle: ratio estimator with the linearised clustered standard error."""
    correct, clusters = clustered(3, 4000)
    names = np.unique(clusters, return_inverse=True)[1]
    sums, sizes = np.bincount(names, weights=correct), np.bincount(names)
    mean = correct.mean()
    error = np.sqrt(np.sum((sums - mean * sizes) ** 2)) / sizes.sum()
    found = cluster_bootstrap_interval(correct, clusters)
    assert (found.low, found.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=5e-4)


def test_cluster_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = np.mean(np.clip(0.6 + 0.3 * np.random.default_rng(9).standard_normal(400_000), 0, 1))
    hits = 0
    for seed in range(200):
        found = cluster_bootstrap_interval(*clustered(seed, 120), resamples=600)
        hits += found.low <= truth <= found.high
    assert binomtest(hits, 200, 0.95).pvalue > 0.001


def test_the_interval_widens_with_copied_answers() -> None:
    """Each answer five times, as five questions on one image that always agree: width times sqrt(5)."""
    once = (np.random.default_rng(0).random(200) < 0.7).astype(int)
    copied, clusters = np.repeat(once, 5), np.repeat(np.arange(200), 5).tolist()
    wide, naive = accuracy_interval(copied, clusters), wilson_interval(int(copied.sum()), 1000)
    assert (wide.high - wide.low) / (naive.high - naive.low) == pytest.approx(np.sqrt(5), rel=0.05)


def test_the_method_is_chosen_by_the_clusters_and_named() -> None:
    correct = [1, 0, 1, 1]
    assert accuracy_interval(correct, list("abcd")) == wilson_interval(3, 4)
    assert accuracy_interval(correct, list("aabc")).method == CLUSTER_BOOTSTRAP
    everything = accuracy_interval([1] * 20, [n // 2 for n in range(20)])
    assert everything.method == WILSON_OVER_CLUSTERS
    assert (everything.low, everything.high) == (wilson_interval(10, 10).low, 1.0)
    uneven = accuracy_interval([1] * 7, list("aabcccc"))
    assert (uneven.method, uneven.low) == (WILSON_OVER_CLUSTERS, wilson_interval(3, 3).low)
    halves = accuracy_interval([1, 0] * 10, [n // 2 for n in range(20)])
    assert (halves.method, halves.low < 0.5 < halves.high) == (WILSON_OVER_CLUSTERS, True)


def test_intervals_are_reproducible_and_ignore_order_and_names() -> None:
    correct, clusters = clustered(5, 60)
    order = np.random.default_rng(0).permutation(len(correct))
    shuffled = accuracy_interval(correct[order], [clusters[i] for i in order])
    renamed = accuracy_interval(correct, [name[::-1] for name in clusters])
    assert accuracy_interval(correct, clusters) == shuffled == renamed
    assert accuracy_interval(correct, clusters, seed=1) != shuffled
    assert accuracy_interval(correct.astype(bool), clusters) == shuffled


def test_intervals_of_a_whole_benchmark_agree_with_the_linearised_standard_error() -> None:
    """17,000 answers about 6,000 images; SE^2 = sum over clusters of (sum of residuals)^2, over n^2."""
    rng = np.random.default_rng(0)
    a, b = (rng.random(17_000) < 0.7).astype(int), (rng.random(17_000) < 0.75).astype(int)
    clusters = rng.integers(0, 6_000, 17_000)
    for values, found in (
        (a, accuracy_interval(a, clusters.tolist())),
        (b - a, paired_cluster_bootstrap(a, b, clusters.tolist())),
    ):
        sums = np.bincount(clusters, weights=values - values.mean())
        half_width = 1.96 * sqrt(float((sums**2).sum())) / 17_000
        assert found.high - found.low == pytest.approx(2 * half_width, rel=0.05)
        assert (found.low + found.high) / 2 == pytest.approx(values.mean(), abs=0.1 * half_width)


@pytest.mark.parametrize("bad", [[], [0, 2], [0.5, 1], [[1, 0]], [np.nan, 1]])
def test_answers_are_zeros_and_ones(bad: list) -> None:
    with pytest.raises(ValueError, match=r"right \(1\) and wrong \(0\)"):
        accuracy_interval(bad, list(range(len(bad))))
    with pytest.raises(ValueError, match=r"right \(1\) and wrong \(0\)"):
        mcnemar(bad, [1, 0])


def test_lengths_have_to_agree() -> None:
    with pytest.raises(ValueError, match="2 answers but 3 cluster names"):
        cluster_bootstrap_interval([1, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="2 and 3 answers"):
        mcnemar([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="resamples"):
        cluster_bootstrap_interval([1, 0], [1, 2], resamples=0)


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


@given(st.integers(0, 40), st.integers(0, 60), st.integers(0, 60), st.integers(0, 40))
def test_mcnemar_equals_statsmodels_and_scipy(both: int, only_a: int, only_b: int, neither: int) -> None:
    if both + only_a + only_b + neither == 0:
        return
    found = mcnemar(*table(both, only_a, only_b, neither))
    assert (found.both, found.only_a, found.only_b, found.neither) == (both, only_a, only_b, neither)
    n, smaller = only_a + only_b, min(only_a, only_b)
    oracle = mcnemar_oracle([[both, only_a], [only_b, neither]], exact=True).pvalue if n else 1.0
    assert found.exact_p == pytest.approx(oracle, rel=1e-9)
    assert found.exact_p == pytest.approx(binomtest(smaller, n).pvalue if n else 1.0, rel=1e-9)
    mid = 2 * binom.cdf(smaller, n, 0.5) - binom.pmf(smaller, n, 0.5) if n else 1.0
    assert found.mid_p == pytest.approx(min(1.0, mid), rel=1e-9)
    assert found.mid_p <= found.exact_p <= 1


def test_mcnemar_worked_examples() -> None:
    """Fagerland, Lydersen and Laake (2013), airway hyper-responsiveness before and after transplantation.

    Their table is 1, 1, 7, 12: exact conditional p 0.0703, mid-p 0.0391.
    """
    found = mcnemar(*table(1, 1, 7, 12))
    assert (round(found.exact_p, 4), round(found.mid_p, 4)) == (0.0703, 0.0391)
    assert found.discordant == 8
    swapped = mcnemar(*reversed(table(1, 1, 7, 12)))
    assert (swapped.only_a, swapped.exact_p, swapped.mid_p) == (7, found.exact_p, found.mid_p)


def test_mcnemar_stays_exact_for_large_tables() -> None:
    found = mcnemar(*table(9000, 2000, 2300, 3700))
    assert found.exact_p == pytest.approx(binomtest(2000, 4300).pvalue, rel=1e-9)
    extreme = mcnemar(*table(0, 0, 5000, 0))
    assert 0 <= extreme.exact_p < 1e-300


@pytest.mark.parametrize("seed", [0, 1])
def test_paired_bootstrap_equals_drawing_clusters_one_by_one(seed: int) -> None:
    a, clusters = clustered(seed, 80)
    b = np.where(np.random.default_rng(seed).random(len(a)) < 0.3, 1, a)
    found = paired_cluster_bootstrap(a, b, clusters)
    low, high = slow_bootstrap(b - a, clusters, 10_000, seed + 50)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert found.low <= np.mean(b - a) <= found.high
    mirrored = paired_cluster_bootstrap(b, a, clusters)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=0.003)


def test_pairing_uses_that_the_questions_are_the_same() -> None:
    a, clusters = clustered(7, 300)
    b = a.copy()
    b[:10] = 1 - b[:10]
    paired = paired_cluster_bootstrap(a, b, clusters)
    alone = accuracy_interval(a, clusters)
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)


def test_models_that_never_disagree_have_an_interval_all_the_same() -> None:
    a, clusters = clustered(1, 50)
    found = paired_cluster_bootstrap(a, a, clusters)
    assert found.method == WILSON_OVER_CLUSTERS
    assert found.high == -found.low == wilson_interval(0, 50).high
    better = paired_cluster_bootstrap([0] * 50, [1] * 50, list(range(50)))
    assert (better.low, better.high) == (1 - wilson_interval(0, 50).high, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_intervals_stay_inside_zero_and_one_and_hold_the_accuracy(rows: list[tuple[int, int]]) -> None:
    correct, clusters = [r[0] for r in rows], [r[1] for r in rows]
    found = accuracy_interval(correct, clusters, resamples=2_000)
    assert 0 <= found.low <= found.high <= 1
    if len(set(clusters)) > 3:
        assert found.low - 1e-9 <= np.mean(correct) <= found.high + 1e-9


def test_chance_level_uses_the_real_choice_counts() -> None:
    """63 of the 300 CT questions in MedVLM-R1 @2eee421 MRI_CT_XRAY_300each_dataset.json have two choices."""
    assert chance_level([4, 4, 4]) == 0.25
    assert chance_level([2] * 63 + [4] * 237) == pytest.approx(0.3025)
    assert chance_level([2, 4]) == 0.375
    for bad in ([], [0], [4, -1]):
        with pytest.raises(ValueError, match="at least one"):
            chance_level(bad)


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
def test_flipping_clusters_of_one_question_is_mcnemar(a: int, b: int, c: int, d: int) -> None:
    if a + b + c + d == 0:
        return
    pair = table(a, b, c, d)
    plain = mcnemar(*pair)
    found = cluster_flip_test(*pair, list(range(len(pair[0]))))
    assert found == pytest.approx((plain.exact_p, plain.mid_p), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_flipping_clusters_equals_writing_every_sign_down(seed: int) -> None:
    a, clusters = clustered(seed, 11)
    b = np.where(np.random.default_rng(seed).random(len(a)) < 0.5, 1, a)
    names = sorted(set(clusters))
    sums = [int(sum(b[i] - a[i] for i, c in enumerate(clusters) if c == name)) for name in names]
    totals = [abs(sum(s * abs(v) for s, v in zip(signs, sums, strict=True)))
              for signs in product((1, -1), repeat=len(sums))]  # fmt: skip
    beyond = sum(t >= abs(sum(sums)) for t in totals) / len(totals)
    level = sum(t == abs(sum(sums)) for t in totals) / len(totals)
    wanted = (beyond, beyond - level / 2) if sum(sums) else (1.0, 1 - level / 2)
    exact, mid = cluster_flip_test(a, b, clusters)
    assert exact == pytest.approx(wanted[0])
    assert mid == pytest.approx(wanted[1] if sum(sums) else 1.0)


def test_copied_answers_are_no_evidence_to_the_clustered_test() -> None:
    """Ten questions decided 9 to 1, then each asked four times about its one image."""
    a, b = table(0, 1, 9, 0)
    once = mcnemar(a, b)
    a4, b4, clusters = np.repeat(a, 4), np.repeat(b, 4), np.repeat(np.arange(10), 4).tolist()
    assert cluster_flip_test(a4, b4, clusters) == pytest.approx((once.exact_p, once.mid_p))
    assert mcnemar(a4, b4).exact_p < once.exact_p / 100


def test_the_clustered_test_keeps_its_level_where_mcnemar_does_not() -> None:
    rng = np.random.default_rng(4)
    rejected = {"clustered": 0, "mcnemar": 0}
    clusters = np.repeat(np.arange(60), 5)
    for _ in range(300):
        better = rng.random(60) < 0.5  # which model an image suits; none is better on the whole
        a = np.repeat(better, 5) & (rng.random(300) < 0.6)
        b = np.repeat(~better, 5) & (rng.random(300) < 0.6)
        rejected["clustered"] += cluster_flip_test(a, b, clusters.tolist())[0] < 0.05
        rejected["mcnemar"] += mcnemar(a, b).exact_p < 0.05
    assert binomtest(rejected["clustered"], 300, 0.05, alternative="greater").pvalue > 0.001
    assert rejected["mcnemar"] > 60


def test_flipping_clusters_of_a_whole_benchmark_agrees_with_the_normal_test() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.random(17_000) < 0.7).astype(int), (rng.random(17_000) < 0.71).astype(int)
    clusters = rng.integers(0, 6_000, 17_000)
    sums = np.bincount(clusters, weights=b - a)
    expected = 2 * norm.sf(abs(sums.sum()) / sqrt((sums**2).sum()))
    assert cluster_flip_test(a, b, clusters.tolist())[1] == pytest.approx(expected, rel=0.02)


def test_holm_worked_example() -> None:
    """Holm (1979) by hand: 0.005 x 4, 0.01 x 3, then 0.03 x 2, which 0.04 x 1 may not undercut."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_holm_equals_statsmodels(n: int) -> None:
    p = np.random.default_rng(n).random(n) ** 4
    p[: n // 3] = np.round(p[: n // 3], 1)  # ties, and zeros among them
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_holm_over_a_matrix_keeps_its_shape_and_its_empty_cells() -> None:
    p = np.random.default_rng(0).random((8, 8)) ** 3
    np.fill_diagonal(p, np.nan)
    found = holm(p)
    off = ~np.isnan(p)
    assert found.shape == (8, 8) and np.isnan(found[~off]).all()
    assert found[off] == pytest.approx(multipletests(p[off], method="holm")[1])
    assert holm([np.nan]).tolist() == pytest.approx([np.nan], nan_ok=True)
    with pytest.raises(ValueError, match="0 to 1"):
        holm([0.5, 1.5])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.019, 0.03, NonInferiority.PASS),
        (0.01, 0.03, NonInferiority.PASS),
        (-0.02, 0.03, NonInferiority.NOT_SHOWN),  # the bound itself is not excluded
        (-0.05, -0.01, NonInferiority.NOT_SHOWN),  # worse, but perhaps by less than the margin
        (-0.05, -0.02, NonInferiority.NOT_SHOWN),
        (-0.05, -0.021, NonInferiority.FAIL),
    ],
)
def test_non_inferiority_at_a_margin_of_two_points(low: float, high: float, verdict: str) -> None:
    """The cases of figure 1 in Piaggio et al., JAMA 308 (2012)."""
    assert non_inferiority(Interval(low, high, CLUSTER_BOOTSTRAP), 0.02) is verdict


@pytest.mark.parametrize("margin", [0, -0.02, 2])
def test_a_margin_is_a_positive_fraction(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(Interval(-0.01, 0.01, WILSON), margin)


def test_non_inferiority_agrees_with_the_one_sided_normal_test() -> None:
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a = rng.random(1500) < 0.7
        b = np.where(rng.random(1500) < 0.15, rng.random(1500) < 0.62, a)
        d = b.astype(int) - a.astype(int)
        z = (d.mean() + 0.02) / (d.std() / sqrt(1500))
        if abs(abs(z) - 1.96) < 0.1:  # the bootstrap's own noise decides here
            continue
        interval = paired_cluster_bootstrap(a, b, list(range(1500)))
        assert margin_p(d.mean(), interval, 0.02) == pytest.approx(2 * norm.sf(abs(z)), rel=0.35, abs=1e-4)
        verdict = non_inferiority(interval, 0.02)
        seen.add(verdict)
        assert verdict == ("pass" if z > 1.96 else "fail" if z < -1.96 else "not shown")
    assert len(seen) > 1


def test_paired_design_effect_by_hand_and_by_formula() -> None:
    a, b = table(3, 2, 5, 4)
    assert paired_design_effect(a, b, list(range(14))) == 1.0
    wide = paired_design_effect(np.repeat(a, 5), np.repeat(b, 5), np.repeat(np.arange(14), 5).tolist())
    assert wide == pytest.approx(5)
    assert paired_design_effect(a, a, [0] * 14) == 1.0
    # Kish: 1 + (m - 1) rho. Five questions on an image, rho 0.3: 2.2, or 1.48 on the standard error.
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.random((60_000, 1)) < 0.5, 5, axis=1)
    own = rng.random((60_000, 5)) < 0.5
    b = np.where(np.repeat(rng.random((60_000, 1)) < sqrt(0.3), 5, axis=1), shared, own)
    rho = np.corrcoef(b[:, 0], b[:, 1])[0, 1]
    found = paired_design_effect(np.zeros(300_000), b.ravel(), np.repeat(np.arange(60_000), 5).tolist())
    assert found == pytest.approx(1 + 4 * rho, rel=0.02)
