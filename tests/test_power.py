from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, norm

from osler.evaluate.power import minimal_detectable_difference, paired_sample_size


@pytest.mark.parametrize(("difference", "n"), [(0.05, 626), (0.02, 3923), (0.01, 15_696)])
def test_sample_sizes_at_a_fifth_discordant(difference: float, n: int) -> None:
    """Connor's formula by hand, 80 % power at 5 %: z 1.95996 and 0.84162."""
    z_level, z_power = norm.isf(0.025), norm.isf(0.2)
    by_hand = ((z_level * 0.2**0.5 + z_power * (0.2 - difference**2) ** 0.5) / difference) ** 2
    assert paired_sample_size(difference, 0.2) == n == int(np.ceil(by_hand))


def power_of_mid_p(n: int, difference: float, discordant: float) -> float:
    """The probability that mid-p McNemar is below 0.05, summed over every table that can occur."""
    share = (discordant + difference) / (2 * discordant)
    total = 0.0
    for m in range(1, n + 1):
        weight = binom.pmf(m, n, discordant)
        if weight < 1e-12:
            continue
        k = np.arange(m + 1)
        smaller = np.minimum(k, m - k)
        mid = 2 * binom.cdf(smaller, m, 0.5) - binom.pmf(smaller, m, 0.5)
        total += weight * binom.pmf(k, m, share)[mid < 0.05].sum()
    return total


@pytest.mark.parametrize(("difference", "discordant"), [(0.05, 0.20), (0.10, 0.30), (0.04, 0.10)])
def test_the_test_has_the_power_that_the_formula_promises(difference: float, discordant: float) -> None:
    n = paired_sample_size(difference, discordant)
    assert power_of_mid_p(n, difference, discordant) == pytest.approx(0.8, abs=0.02)


@given(st.integers(20, 20_000), st.floats(0.02, 1), st.floats(0.5, 0.95), st.floats(1, 3))
def test_detectable_difference_solves_the_same_equation(
    n: int, share: float, power: float, design_effect: float
) -> None:
    found = minimal_detectable_difference(n, share, power, design_effect=design_effect)
    z_level, z_power = norm.isf(0.025), norm.isf(1 - power)

    def lacking(d: float) -> float:
        return n / design_effect * d**2 - (z_level * share**0.5 + z_power * (share - d**2) ** 0.5) ** 2

    if lacking(share) < 0:
        assert found is None
        return
    assert found == pytest.approx(brentq(lacking, 1e-12, share), rel=1e-6)
    assert paired_sample_size(found, share, power, design_effect=design_effect) in (n, n + 1)


def test_nothing_is_detectable_where_the_models_hardly_differ() -> None:
    assert minimal_detectable_difference(500, 0.0) is None
    assert minimal_detectable_difference(10, 0.2) is None
    assert minimal_detectable_difference(1, 0.5) is None


def test_clusters_cost_questions() -> None:
    assert paired_sample_size(0.05, 0.2, design_effect=2.2) == pytest.approx(2.2 * 625.5, abs=1)
    alone, clustered = (minimal_detectable_difference(2000, 0.2, design_effect=e) for e in (1.0, 2.2))
    assert alone is not None and clustered is not None
    assert clustered / alone == pytest.approx(2.2**0.5, rel=0.01)


@pytest.mark.parametrize(("difference", "share"), [(0, 0.2), (-0.1, 0.2), (0.3, 0.2), (0.3, 1.2)])
def test_impossible_requests_are_refused(difference: float, share: float) -> None:
    with pytest.raises(ValueError, match="discordant"):
        paired_sample_size(difference, share)
    with pytest.raises(ValueError, match="design effect"):
        paired_sample_size(0.05, 0.2, design_effect=0.5)
    with pytest.raises(ValueError, match="power"):
        paired_sample_size(0.05, 0.2, power=1.0)
    with pytest.raises(ValueError, match="n >= 1"):
        minimal_detectable_difference(0, 0.2)
