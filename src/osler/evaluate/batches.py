"""Which questions stand in the next batch, where several predictions files are filled side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from osler.records import Question


def next_batch(waiting: Sequence[deque[Question]], count: int) -> list[tuple[int, Question]]:
    """Take at most `count` questions, each with the number of its queue; those of one id are neighbours.

    Every queue keeps its order. The longest leads: the others have fewer questions, or are further on.
    Those of one id stay in one batch where it can hold them.
    """
    batch: list[tuple[int, Question]] = []
    while any(waiting):
        leading = max(waiting, key=len)[0].id
        same = [n for n, queue in enumerate(waiting) if queue and queue[0].id == leading]
        room = count - len(batch)
        if batch and len(same) > room:
            break
        batch += [(n, waiting[n].popleft()) for n in same[:room]]
    return batch
