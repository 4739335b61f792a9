"""When to ask a server again: exponential back-off with jitter, and whatever the server asks for itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

FIRST_WAIT_SECONDS = 1.0
LONGEST_BACK_OFF_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request brought no answer.

    >>> Fault("HTTP 429: slow down", again=True, retry_after_seconds=20.0).again
    True
    """

    reason: str
    again: bool  # whether the same request may succeed later
    retry_after_seconds: float | None = None  # as the server asked for
    is_down: bool = False  # whether it is the server that failed, not this request


def back_off_seconds(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the failure of `attempt` (from 1), between half of 1, 2, 4, … 60 and all of it.

    The jitter keeps requests that failed together from coming back together.
    """
    longest = min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_BACK_OFF_SECONDS)
    return longest * rng.uniform(0.5, 1.0)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date against `now` (Unix seconds).

    None where there is no header or it is neither (RFC 9110, section 10.2.3). Never negative.

    >>> parse_retry_after("120", 0.0), parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10.0)
    (120.0, 20.0)
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - now)
