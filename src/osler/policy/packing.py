"""How prompts and completions lie in one packed sequence, and which rows attend to which.

All prompts come first, one behind the other, then all completions, those of a prompt next to each other.
Nothing is padded. The last token of a completion predicts nothing and is not among the inputs.

Shapes: B prompts, G completions of a prompt, S packed tokens, R rows that predict something.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

from osler.policy.kernels import Part

Blocks = tuple[tuple[Part, ...], ...]  # the parts of a block share its query rows


class Packing:
    """`inputs_BG[b][g]` is the number of input tokens of completion g of prompt b."""

    def __init__(self, prompt_lengths: Sequence[int], inputs_BG: Sequence[Sequence[int]] = ()) -> None:
        self.prompts = _boundaries(prompt_lengths)
        self.groups = _boundaries([sum(row) for row in inputs_BG], self.prompts[-1])
        self.completions = _boundaries([n for row in inputs_BG for n in row], self.prompts[-1])

    @property
    def num_prompts(self) -> int:
        return len(self.prompts) - 1

    @cached_property
    def blocks(self) -> Blocks:
        """Prompts see themselves; completions see their prompt and themselves, never each other."""
        prompts = (Part(self.prompts, self.prompts, causal=True),)
        return (prompts, *self._completion_blocks(0))

    @cached_property
    def last_blocks(self) -> Blocks:
        """The same for the last layer, where the rows of `read_rows` alone have a query."""
        last_tokens = (Part(tuple(range(self.num_prompts + 1)), self.prompts),)
        return (last_tokens, *self._completion_blocks(self.num_prompts - self.prompts[-1]))

    @cached_property
    def read_rows(self) -> list[int]:
        """Rows that predict something: the last token of every prompt, then all completion inputs."""
        return [end - 1 for end in self.prompts[1:]] + list(range(self.prompts[-1], self.completions[-1]))

    def _completion_blocks(self, shift: int) -> Blocks:
        if self.completions[-1] == self.prompts[-1]:
            return ()
        to_prompt = Part(tuple(b + shift for b in self.groups), self.prompts)
        to_own = Part(tuple(b + shift for b in self.completions), self.completions, causal=True)
        return ((to_prompt, to_own),)


def _boundaries(lengths: Sequence[int], start: int = 0) -> tuple[int, ...]:
    return tuple(accumulate(lengths, initial=start))
