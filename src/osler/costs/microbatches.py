"""Which groups go through the model together, by what they weigh.

Prompts and completions lie packed in one sequence, so a forward is as long as its tokens and nothing is
padded: any groups may share one. A group is never split, because its completions share one prompt; one that
alone is over the budget is a forward of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from osler.costs.flops import GroupWork

# What a patch of a trained tower weighs beside a token of the language model: about half in Qwen2-VL-2B, in
# operations and in the values kept for the backward pass alike.
PATCH_TOKENS = 0.5


def packed_tokens(work: GroupWork, tower: bool) -> int:
    """Tokens of one group in a packed forward; with `tower` the patches that a trained tower walks, too.

    >>> packed_tokens(GroupWork(296, (784,), (150,) * 8), tower=True)
    1880
    """
    patches = sum(work.image_patches) if tower else 0
    inputs = sum(n - 1 for n in work.completion_tokens)  # the last token of a completion predicts nothing
    return work.prompt_tokens + inputs + round(PATCH_TOKENS * patches)


def fill(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `sizes`, put together so that each list adds up to `budget` at most (or is one index).

    First fit, the largest first: no more than 11/9 of the fewest lists, rounded up (Johnson 1973), and the
    list that needs most memory early.

    >>> fill([3, 6, 2, 9, 4], budget=9)
    [[3], [0, 1], [2, 4]]
    """
    lists: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[index]
        at = next((n for n, left in enumerate(room) if size <= left), None)
        if at is None:
            lists.append([index])
            room.append(budget - size)
        else:
            lists[at].append(index)
            room[at] -= size
    return [sorted(indices) for indices in lists]
