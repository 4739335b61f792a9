"""Prompts that begin alike: trunks by hand, and what is computed once against what is computed each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from osler.evaluate.variants import rotate_choices
from osler.policy import forward
from osler.policy.inputs import PromptInputs
from osler.policy.load import Policy, load_policy
from osler.policy.trunks import SAVED_TOKENS, Trunk, find_trunks, split
from osler.prompts import get_template
from osler.records import Question
from osler.rollout.engine import complete
from osler.rollout.sampling import Sampling
from stock_forward import hugging_face_inputs, naive_logprobs
from tiny_model import write_tiny_model

TEMPLATE = get_template("nothink")
IMAGE = 7
HEAD = [1, *[IMAGE] * 80]  # what prompts with one image begin with


def trunks(ids: Sequence[Sequence[int]], images: Sequence[str] | None = None) -> list[tuple[int, int, int]]:
    found = find_trunks(ids, images or ["a"] * len(ids), IMAGE)
    return [(t.first, t.prompts, t.tokens) for t in found]


@pytest.mark.parametrize(
    ("ids", "images", "expected"),
    [
        ([HEAD], None, [(0, 1, 81)]),
        ([[1, 2, 3], [4, 5, 6]], None, [(0, 1, 3), (1, 1, 3)]),
        ([[*HEAD, 2, 3], [*HEAD, 2, 4], [*HEAD, 2, 5]], None, [(0, 3, 82)]),
        # All equal: each keeps its last token.
        ([[*HEAD, 2, 3]] * 3, None, [(0, 3, 82)]),
        # One the beginning of the other, in either order.
        ([[*HEAD, 2], [*HEAD, 2, 3, 4]], None, [(0, 2, 81)]),
        ([[*HEAD, 2, 3, 4], [*HEAD, 2]], None, [(0, 2, 81)]),
        ([[*HEAD, 2, 3], [*HEAD, 2, 4]], ["a", "b"], [(0, 1, 83), (1, 1, 83)]),
        # A beginning within the images is none.
        ([[*HEAD, 2, IMAGE, IMAGE, 3], [*HEAD, 4, IMAGE, IMAGE, 3]], None, [(0, 1, 85), (1, 1, 85)]),
        # Two groups in a row, of two images.
        (
            [[*HEAD, 2, 3], [*HEAD, 2, 4], [*HEAD, 5, 3], [*HEAD, 5, 4]],
            ["a", "a", "b", "b"],
            [(0, 2, 82), (2, 2, 82)],
        ),
        # One image, two long stems: joining them would save less than it costs.
        (
            [HEAD + [2] * 200 + [n] for n in (3, 4, 5)] + [HEAD + [6] * 200 + [n] for n in (3, 4)],
            None,
            [(0, 3, 281), (3, 2, 281)],
        ),
        # One image, two short stems: the image alone is shared.
        ([[*HEAD, 2, 3], [*HEAD, 2, 4], [*HEAD, 5, 3]], None, [(0, 3, 81)]),
        # Too little in common.
        ([[1] * (SAVED_TOKENS - 1) + [2], [1] * (SAVED_TOKENS - 1) + [3]], None, [(0, 1, 64), (1, 1, 64)]),
        ([[1] * SAVED_TOKENS + [2], [1] * SAVED_TOKENS + [3]], None, [(0, 2, 64)]),
    ],
)
def test_trunks_by_hand(
    ids: list[list[int]], images: list[str] | None, expected: list[tuple[int, int, int]]
) -> None:
    assert trunks(ids, images) == expected


def test_every_prompt_is_in_one_trunk_and_none_costs_more_than_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        ids = [
            [1] * int(torch.randint(20, 150, (), generator=generator))
            + torch.randint(2, 4, (5,), generator=generator).tolist()
            for _ in range(6)
        ]
        found = find_trunks(ids, ["a"] * 6, IMAGE)
        assert [n for t in found for n in range(t.first, t.first + t.prompts)] == list(range(6))
        for trunk in found:
            members = ids[trunk.first : trunk.first + trunk.prompts]
            assert all(m[: trunk.tokens] == members[0][: trunk.tokens] for m in members)
            assert trunk.prompts == 1 or all(len(m) > trunk.tokens for m in members)
        computed = sum(map(len, ids)) - sum((t.prompts - 1) * t.tokens for t in found)
        joined = sum(t.prompts - 1 for t in found)
        assert computed <= sum(map(len, ids)) - SAVED_TOKENS * joined


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = write_tiny_model(tmp_path_factory.mktemp(request.param), family=request.param)
    return load_policy(str(folder))


@pytest.fixture(scope="module")
def rotations(image_folder: Path) -> list[Question]:
    """Every rotation of questions with one image, two and none, and a question alone between them."""
    stem = "Which one of these is it, looking at the left side of the picture and then at the right side?"
    shown = [("0.png",), ("3.png",), ("1.png", "3.png"), ()]
    asked = [
        Question(
            id=f"q{i}",
            text=f"{stem} {stem} {stem}",
            choices=("left", "right", "neither of them"),
            answer_index=0,
            images=tuple(str(image_folder / name) for name in names),
        )
        for i, names in enumerate(shown)
    ]
    turned = [[rotate_choices(q, by) for by in range(3)] for q in asked]
    alone = replace(asked[0], id="alone", images=(str(image_folder / "2.png"),))
    return [*turned[0], alone, *chain(*turned[1:])]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Packed tokens that the language model sees in every prefill from now on."""
    seen: list[int] = []
    run_packed = forward.run_packed

    def counting(model: Any, x_SD: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(len(x_SD))
        return run_packed(model, x_SD, *arguments, **options)

    monkeypatch.setattr(forward, "run_packed", counting)
    return seen


def test_prompts_that_share_equal_generate_token_for_token(
    policy: Policy, rotations: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy tokens and their log-probabilities against the stock model, one prompt at a time."""
    monkeypatch.setattr(policy, "mask_placeholders", False)
    seen = watched(monkeypatch)
    completions = complete(policy, rotations, TEMPLATE, Sampling(12))
    prompts = [policy.prompt_inputs(q, TEMPLATE) for q in rotations]
    for prompt, (completion,) in zip(prompts, completions, strict=True):
        inputs = hugging_face_inputs(policy, prompt)
        out = policy.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert list(completion.token_ids) == out[0, len(prompt.input_ids) :].tolist()
        with torch.no_grad():
            expected = naive_logprobs(policy, prompt, list(completion.token_ids), 1.0)
        found = torch.tensor(completion.sampled_logprobs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    found_trunks, tails = split(prompts, policy.model.config.image_token_id)
    assert [len(t) for t in tails] == [3, 0, 3, 3, 3]
    whole = sum(len(p.input_ids) for p in prompts)
    shared = sum(len(t.input_ids) for t in (*found_trunks, *chain(*tails)))
    assert seen == [shared]
    assert whole - shared == 2 * sum(
        len(t.input_ids) for t, behind in zip(found_trunks, tails, strict=True) if behind
    )


def test_letters_of_prompts_that_share_equal_the_stock_model(
    policy: Policy, rotations: list[Question]
) -> None:
    """The distribution over a completion's first token, which is what a bare letter is read from."""
    prompts = [policy.prompt_inputs(q, TEMPLATE) for q in rotations]
    trunk_inputs, tails = split(prompts, policy.model.config.image_token_id)
    with torch.no_grad():
        hidden_BD, layers = forward.prefill(policy.model, policy.batch(trunk_inputs), tails)
        found_BV = policy.model.get_output_embeddings()(hidden_BD).log_softmax(-1)
        for prompt, found_V in zip(prompts, found_BV, strict=True):
            expected_V = policy.model(**hugging_face_inputs(policy, prompt)).logits[0, -1].log_softmax(-1)
            torch.testing.assert_close(found_V, expected_V, atol=1e-5, rtol=0)
        alone_hidden, alone_layers = forward.prefill(policy.model, policy.batch(prompts))
    torch.testing.assert_close(hidden_BD, alone_hidden, atol=1e-5, rtol=0)
    for pair, alone in zip(layers, alone_layers, strict=True):
        torch.testing.assert_close(pair, alone, atol=1e-5, rtol=0)


def test_prompts_without_neighbours_stay_as_they_are(policy: Policy, rotations: list[Question]) -> None:
    prompts: list[PromptInputs] = [policy.prompt_inputs(q, TEMPLATE) for q in rotations[2:5]]
    trunk_inputs, tails = split(prompts, policy.model.config.image_token_id)
    assert all(a is b for a, b in zip(trunk_inputs, prompts, strict=True)) and tails == [[], [], []]
    assert find_trunks([], [], IMAGE) == [] and Trunk(0, 1, 3).tokens == 3
