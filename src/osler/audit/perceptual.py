"""Recognising the same picture after it was resized or encoded anew: a hash of its low frequencies.

The DCT hash of C. Zauner, "Implementation and benchmarking of perceptual image hash functions" (thesis,
2010), section 3.2, with 256 instead of 64 bits: the picture in grey at 64 x 64 pixels, its two-dimensional
DCT-II, and of the 16 x 16 lowest frequencies one bit each, set where the coefficient lies above their median.
Copies at another size or JPEG quality differ in a few bits, other pictures mostly in a hundred; how
`NEAR_BITS` was set between them stands in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64  # pixels that the picture is reduced to
FREQUENCIES = 16  # lowest frequencies kept in each direction
NUM_BITS = FREQUENCIES * FREQUENCIES
NEAR_BITS = 16  # pictures that differ in at most this many bits count as copies
_ROWS_AT_A_TIME = 64


def perceptual_hash(image: Image.Image) -> NDArray[np.uint64]:
    """The hash of one picture, [NUM_BITS / 64]; the lowest frequency is the highest bit of the first word."""
    from scipy.fft import dctn

    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(small, dtype=np.float64))[:FREQUENCIES, :FREQUENCIES]
    return np.packbits(low > np.median(low)).view(">u8").astype(np.uint64)


def near_pairs(
    first: Sequence[NDArray[np.uint64]], second: Sequence[NDArray[np.uint64]], bits: int = NEAR_BITS
) -> list[tuple[int, int, int]]:
    """Every (position in `first`, its nearest in `second`, bits that differ) with at most `bits` of them."""
    if not first or not second:
        return []
    one, other = np.stack(first), np.stack(second)
    found = []
    for start in range(0, len(one), _ROWS_AT_A_TIME):
        rows = one[start : start + _ROWS_AT_A_TIME]
        differing = np.bitwise_count(rows[:, None, :] ^ other[None, :, :]).sum(axis=2, dtype=np.int64)
        nearest = differing.argmin(axis=1)
        smallest = differing[np.arange(len(rows)), nearest]
        found += [
            (start + int(i), int(nearest[i]), int(smallest[i])) for i in np.flatnonzero(smallest <= bits)
        ]
    return found
