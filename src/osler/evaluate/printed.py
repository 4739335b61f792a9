"""Numbers and texts as tables and pages print them. Fractions of 1 come in, percentages go out."""

from __future__ import annotations

from osler.evaluate.stats import Interval

NONE = "–"


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal; a dash where there is none."""
    return NONE if value is None else f"{100 * value:.1f}"


def percent_range(interval: Interval | None) -> str:
    """
    >>> percent_range(Interval(0.52, 0.598, "Wilson"))
    '52.0–59.8'
    """
    return NONE if interval is None else f"{percent(interval.low)}–{percent(interval.high)}"


def points(value: float | None) -> str:
    """A difference of two fractions in percentage points, with its sign.

    >>> points(-0.031)
    '−3.1'
    """
    return NONE if value is None else f"{100 * value:+.1f}".replace("-", "−")


def points_range(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def p_value(p: float) -> str:
    """
    >>> p_value(0.0391), p_value(0.2), p_value(0.00002)
    ('0.039', '0.20', '<0.0001')
    """
    if p < 0.0001:
        return "<0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def printable(text: str) -> str:
    """Text that cannot drive a terminal: control characters other than new lines are written out.

    >>> printable("ok\\x1b[31m")
    'ok[U+001B][31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else f"[U+{ord(c):04X}]" for c in text)
