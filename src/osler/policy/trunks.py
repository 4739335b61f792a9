"""Prompts that begin alike: the trunk that neighbours share, and the tails with which they go on.

A trunk ends behind all images, so that tails are text, and each tail keeps at least its prompt's last token,
which predicts the first of the completion.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from osler.policy.inputs import PromptInputs

SAVED_TOKENS = 64  # what a prompt has to save for its keys and values to be put together from two places


@dataclass(frozen=True)
class Trunk:
    """Neighbouring prompts `first`, `first` + 1, ... and how many tokens of theirs are computed once."""

    first: int
    prompts: int
    tokens: int  # of a prompt alone, all


def find_trunks(ids: Sequence[Sequence[int]], images: Sequence[Hashable], image_token_id: int) -> list[Trunk]:
    """Every prompt in one trunk, in order; a prompt joins the trunk before it where that saves tokens.

    What a trunk of m prompts and n tokens saves is (m - 1) n; a prompt with less in common shortens it.
    `images` says of each prompt what it shows, equal where they are the same.
    """
    found: list[Trunk] = []
    for i, prompt in enumerate(ids):
        if found and images[i] == images[i - 1]:
            trunk = found[-1]
            common = _common(ids[trunk.first], prompt, trunk.tokens - (trunk.prompts == 1))
            saved = trunk.prompts * common - (trunk.prompts - 1) * trunk.tokens
            if saved >= SAVED_TOKENS and image_token_id not in prompt[common:]:
                found[-1] = replace(trunk, prompts=trunk.prompts + 1, tokens=common)
                continue
        found.append(Trunk(i, 1, len(prompt)))
    return found


def _common(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    """Tokens with which both begin, at most `limit` and all but the last of `other`."""
    limit = min(limit, len(other) - 1)
    return next((n for n in range(limit) if one[n] != other[n]), limit)


def split(
    prompts: Sequence[PromptInputs], image_token_id: int
) -> tuple[list[PromptInputs], list[list[PromptInputs]]]:
    """Trunks, and the tails of each; a prompt alone is a trunk without tails."""
    trunks: list[PromptInputs] = []
    tails: list[list[PromptInputs]] = []
    shown = [tuple((image.digest, image.grid_thw) for image in p.images) for p in prompts]
    for trunk in find_trunks([p.input_ids.tolist() for p in prompts], shown, image_token_id):
        members = prompts[trunk.first : trunk.first + trunk.prompts]
        if trunk.prompts == 1:
            trunks.append(members[0])
            tails.append([])
            continue
        n = trunk.tokens
        trunks.append(
            replace(
                members[0],
                input_ids=members[0].input_ids[:n],
                position_ids=members[0].position_ids[:, :n],
                next_position=int(members[0].position_ids[0, n]),
            )
        )
        tails.append(
            [
                replace(p, input_ids=p.input_ids[n:], position_ids=p.position_ids[:, n:], images=())
                for p in members
            ]
        )
    return trunks, tails
