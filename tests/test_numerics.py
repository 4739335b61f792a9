"""The engine and the shared-prompt forward against the stock model: tokens, log-probabilities, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from osler.policy import tower
from osler.policy.forward import PolicyForward
from osler.policy.inputs import collate, pad_completions
from osler.policy.load import Policy, load_policy
from osler.prompts import get_template
from osler.records import Question
from osler.rollout.engine import complete, generate
from osler.rollout.sampling import Sampling
from stock_forward import hugging_face_inputs, naive_logprobs
from tiny_model import write_tiny_model

TEMPLATE = get_template("think")


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = write_tiny_model(tmp_path_factory.mktemp(request.param), family=request.param)
    return load_policy(str(folder))


@pytest.fixture(scope="module")
def questions(image_folder: Path) -> list[Question]:
    """Prompts of different length and image size, two images, and none."""
    shown = [("0.png",), ("1.png",), ("2.png",), ("1.png", "3.png"), ()]
    texts = ["Which?", "Which one is it, looking at the left side?", "Left or right?", "Same?", "No image?"]
    return [
        Question(
            id=f"q{i}",
            text=text,
            choices=("left", "right", "neither")[: 2 + i % 2],
            answer_index=0,
            images=tuple(str(image_folder / name) for name in names),
        )
        for i, (text, names) in enumerate(zip(texts, shown, strict=True))
    ]


def random_completions(lengths: list[list[int]], seed: int = 0) -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randint(20, 300, (n,), generator=generator).tolist() for n in row] for row in lengths]


def shared(
    policy: Policy,
    questions: list[Question],
    rows: list[list[list[int]]],
    temperature: float,
    recompute: bool = False,
) -> Tensor:
    prompts = [policy.prompt_inputs(q, TEMPLATE) for q in questions]
    ids, mask = pad_completions(rows, policy.pad_id, "cpu")
    forward = PolicyForward(policy.model, policy.logits_processor(temperature), recompute=recompute)
    return forward(collate(prompts), ids, mask)[0]


def test_positions_equal_hugging_face(policy: Policy, questions: list[Question]) -> None:
    for question in questions[:4]:
        prompt = policy.prompt_inputs(question, TEMPLATE)
        inputs = hugging_face_inputs(policy, prompt)
        positions, delta = policy.model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
        )
        assert torch.equal(prompt.position_ids, positions[:, 0])
        assert prompt.next_position == len(prompt.input_ids) + int(delta)


def test_greedy_equals_generate_token_for_token(policy: Policy, questions: list[Question]) -> None:
    """Test 1, and 2 for generation: a batch of mixed image sizes against `generate` one by one."""
    policy.mask_placeholders = False
    try:
        completions = complete(policy, questions, TEMPLATE, Sampling(12))
    finally:
        policy.mask_placeholders = True
    for question, (completion,) in zip(questions, completions, strict=True):
        inputs = hugging_face_inputs(policy, policy.prompt_inputs(question, TEMPLATE))
        out = policy.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert list(completion.token_ids) == out[0, inputs["input_ids"].shape[1] :].tolist()


def test_shared_prompt_equals_naive_in_logprobs_and_gradients(
    policy: Policy, questions: list[Question]
) -> None:
    """Tests 2 and 4: fp32, 1e-5 for log-probabilities, 1e-4 relative for gradients."""
    rows = random_completions([[5, 1, 9], [3, 3, 3], [7, 2, 4], [1, 1, 1], [6, 8, 2]])
    logprobs = shared(policy, questions, rows, 1.0)
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(1))
    policy.model.zero_grad()
    (logprobs * weights).sum().backward()
    fast = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    for b, question in enumerate(questions):
        prompt = policy.prompt_inputs(question, TEMPLATE)
        for g, completion in enumerate(rows[b]):
            slow = naive_logprobs(policy, prompt, completion, 1.0)
            torch.testing.assert_close(logprobs[b, g, : len(completion)], slow, atol=1e-5, rtol=0)
            assert not logprobs[b, g, len(completion) :].any()
            (slow * weights[b, g, : len(completion)]).sum().backward()
    for name, parameter in policy.model.named_parameters():
        difference = (fast[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert difference < 1e-4, f"{name}: {difference}"
    assert any("visual" in name for name in fast)


def test_gradient_checkpointing_keeps_the_structure(policy: Policy, questions: list[Question]) -> None:
    rows = random_completions([[4, 6]] * len(questions))
    gradients = []
    for recompute in (False, True):
        policy.model.zero_grad()
        shared(policy, questions, rows, 1.0, recompute).sum().backward()
        gradients.append([p.grad.clone() for p in policy.model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patches", [1, 60, 10_000])
def test_tower_in_passes_equals_the_stock_tower(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch, patches: int
) -> None:
    monkeypatch.setattr(tower, "CPU_PASS_PATCHES", patches)
    batch = collate([policy.prompt_inputs(q, TEMPLATE) for q in questions])
    assert batch.pixels_XC is not None and len(batch.grids) > 2
    visual = policy.model.model.visual
    found = tower.image_features(visual, batch.pixels_XC, batch.grids)
    stock = visual(batch.pixels_XC, grid_thw=torch.tensor(batch.grids)).pooler_output
    torch.testing.assert_close(found, stock, rtol=1e-5, atol=1e-6)


def test_passes_hold_neighbouring_images_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tower, "CPU_PASS_PATCHES", 10)
    assert tower._passes([4, 6, 1, 30, 2, 8, 1]) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
        slice(4, 6),
        slice(6, 7),
    ]


def test_batch_of_two_image_sizes_equals_two_batches(policy: Policy, questions: list[Question]) -> None:
    """Test 2 for log-probabilities: neighbours of another size change nothing."""
    rows = random_completions([[4, 6], [5, 2]])
    together = shared(policy, questions[1:3], rows, 1.0)
    for b in range(2):
        alone = shared(policy, questions[1 + b : 2 + b], rows[b : b + 1], 1.0)[0]
        torch.testing.assert_close(together[b, :, : alone.shape[1]], alone, atol=1e-5, rtol=0)


def test_training_forward_after_generation_is_unchanged(policy: Policy, questions: list[Question]) -> None:
    """Test 3: nothing of a generation stays on the module."""
    rows = random_completions([[4, 6]] * len(questions))
    before = shared(policy, questions, rows, 1.0)
    complete(policy, questions, TEMPLATE, Sampling(6, temperature=1.0), group_size=2)
    assert torch.equal(before, shared(policy, questions, rows, 1.0))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampled_logprobs_equal_trainer_logprobs(
    policy: Policy, questions: list[Question], temperature: float
) -> None:
    """Test 5: ratio 1 within 1e-4 at temperatures other than 1, with the mask on."""
    prompts = [policy.prompt_inputs(q, TEMPLATE) for q in questions]
    keys = [(3, q.id) for q in questions]
    tokens, sampled = generate(policy, prompts, keys, Sampling(24, temperature, seed=5), 3)
    rows = [tokens[i : i + 3] for i in range(0, len(tokens), 3)]
    trained = shared(policy, questions, rows, temperature)
    for n, (ids, logprobs) in enumerate(zip(tokens, sampled, strict=True)):
        ratio = (trained[n // 3, n % 3, : len(ids)] - torch.tensor(logprobs)).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
        assert not set(ids) & set(policy.placeholder_ids)


def test_rows_that_finish_leave_and_the_others_do_not_notice(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling some rows to an early end must not change the rows that go on."""
    monkeypatch.setattr(policy.model.generation_config, "eos_token_id", list(range(20, 60)))
    long = complete(policy, questions, TEMPLATE, Sampling(40, 1.3, seed=1), group_size=4)
    lengths = {len(c.token_ids) for group in long for c in group}
    assert len(lengths) > 4, "no row ended early: the test shows nothing"
    for question, group in zip(questions, long, strict=True):
        alone = complete(policy, [question], TEMPLATE, Sampling(40, 1.3, seed=1), group_size=4)[0]
        assert [c.token_ids for c in alone] == [c.token_ids for c in group]


def test_samples_do_not_depend_on_batch_or_order(policy: Policy, questions: list[Question]) -> None:
    sampling = Sampling(8, 1.0, seed=2)
    whole = complete(policy, questions, TEMPLATE, sampling, group_size=2, step=4)
    turned = complete(policy, questions[::-1], TEMPLATE, sampling, group_size=2, step=4, rows_in_flight=2)
    assert [[c.token_ids for c in g] for g in whole] == [[c.token_ids for c in g] for g in turned[::-1]]
    other_step = complete(policy, questions, TEMPLATE, sampling, group_size=2, step=5)
    assert [c.token_ids for g in whole for c in g] != [c.token_ids for g in other_step for c in g]


def test_bf16_stays_near_fp32(policy: Policy, questions: list[Question]) -> None:
    rows = random_completions([[6, 6]] * len(questions))
    exact = shared(policy, questions, rows, 1.0)
    ids, mask = pad_completions(rows, policy.pad_id, "cpu")
    batch = collate([policy.prompt_inputs(q, TEMPLATE) for q in questions])
    rounded, _ = PolicyForward(policy.model, policy.logits_processor(1.0), "bf16")(batch, ids, mask)
    # bf16 keeps 8 bits of mantissa; over a two-layer model that is a few per cent of a nat.
    assert (exact - rounded).abs().max() < 0.3
    assert (exact - rounded).abs().mean() < 0.03


def test_completions_of_one_token(policy: Policy, questions: list[Question]) -> None:
    rows = random_completions([[1, 1]] * len(questions))
    logprobs = shared(policy, questions, rows, 1.0)
    for b, question in enumerate(questions):
        prompt = policy.prompt_inputs(question, TEMPLATE)
        slow = torch.cat([naive_logprobs(policy, prompt, row, 1.0) for row in rows[b]])
        torch.testing.assert_close(logprobs[b, :, 0], slow, atol=1e-5, rtol=0)
