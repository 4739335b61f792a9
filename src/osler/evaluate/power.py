"""How many questions a comparison takes, and what a comparison of a given size can see.

Both are for two models on the same questions, judged by McNemar's test. What matters beside the number of
questions is the discordant share: the fraction of questions that exactly one of the two answers right.
All fractions run from 0 to 1.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist

POWER = 0.8
LEVEL = 0.05  # two-sided


def paired_sample_size(
    difference: float,
    discordant_share: float,
    power: float = POWER,
    level: float = LEVEL,
    design_effect: float = 1.0,
) -> int:
    """Questions needed to find a true `difference` between two models with probability `power`.

    Connor's formula (Biometrics 43, 1987) for McNemar's two-sided test, times `design_effect` where images
    have several questions. Raises `ValueError` unless 0 < difference <= discordant_share <= 1.

    >>> paired_sample_size(0.05, 0.20)
    626
    """
    if not 0 < difference <= discordant_share <= 1:
        raise ValueError(
            f"difference {difference} at a discordant share of {discordant_share}: "
            "0 < difference <= discordant share <= 1 is needed"
        )
    z_level, z_power = _quantiles(power, level)
    spread = z_level * sqrt(discordant_share)
    spread += z_power * sqrt(discordant_share - difference**2)
    return ceil(_checked(design_effect) * (spread / difference) ** 2)


def minimal_detectable_difference(
    num_questions: int,
    discordant_share: float,
    power: float = POWER,
    level: float = LEVEL,
    design_effect: float = 1.0,
) -> float | None:
    """The smallest true difference that `num_questions` find with probability `power`.

    Connor's formula solved for the difference. None where no difference can be found that often: it would
    have to exceed the discordant share.

    >>> round(minimal_detectable_difference(626, 0.20), 3)
    0.05
    """
    if num_questions < 1 or not 0 <= discordant_share <= 1:
        raise ValueError(f"{num_questions} questions, discordant share {discordant_share}: n >= 1 and 0 to 1")
    z_level, z_power = _quantiles(power, level)
    n = num_questions / _checked(design_effect)
    inner = n + z_power**2 - z_level**2
    if inner < 0:
        return None
    reach = z_level * sqrt(n) + z_power * sqrt(inner)
    found = sqrt(discordant_share) * reach / (n + z_power**2)
    return found if 0 < found <= discordant_share else None


def _quantiles(power: float, level: float) -> tuple[float, float]:
    """Normal quantiles of the two-sided level and of the power."""
    if not (0 < level < 1 and 0.5 <= power < 1):
        raise ValueError(
            f"power {power}, level {level}: a power from 0.5 to 1 and a level from 0 to 1 are needed"
        )
    return NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)


def _checked(design_effect: float) -> float:
    if design_effect < 1:
        raise ValueError(f"design effect {design_effect}: at least 1 is needed")
    return design_effect
