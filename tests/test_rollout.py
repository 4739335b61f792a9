"""The engine's scheduling: refill, fixed shapes, lower precision, letters of many questions at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from osler.policy.cache import WIDTH_STEP
from osler.policy.decoding import decoding_model
from osler.policy.load import Policy, load_policy
from osler.prompts import get_template
from osler.records import LETTERS, Completion, Question
from osler.rollout import engine
from osler.rollout.choices import choice_logprobs
from osler.rollout.continuation import opening, with_letters
from osler.rollout.engine import complete, generate
from osler.rollout.rows import RowsInFlight
from osler.rollout.sampling import Sampling
from stock_forward import hugging_face_inputs, naive_logprobs

TEMPLATE = get_template("think")
GROUP = 3


@pytest.fixture
def policy(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A model whose completions end at random lengths: many tokens end them."""
    loaded = load_policy(str(tiny_folder))
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", list(range(20, 60)))
    return loaded


@pytest.fixture(scope="module")
def questions(image_folder: Path) -> list[Question]:
    return [
        Question(
            id=f"q{i}",
            text="Which side is it?" + " Look again." * (i % 4),
            choices=("left", "right", "neither")[: 2 + i % 2],
            answer_index=0,
            images=(str(image_folder / f"{i % 4}.png"),) if i % 5 else (),
        )
        for i in range(7)
    ]


def rows_of(policy: Policy, questions: list[Question], sampling: Sampling, **options: object) -> tuple:
    prompts = [policy.prompt_inputs(q, TEMPLATE) for q in questions]
    keys = [(0, q.id) for q in questions]
    return generate(policy, prompts, keys, sampling, GROUP, **options)  # type: ignore[arg-type]


def assert_same_rows(one: tuple, other: tuple) -> None:
    assert one[0] == other[0]
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), atol=1e-5, rtol=0)


def naive_letters(policy: Policy, question: Question, text: str) -> list[float]:
    """Prompt, reasoning and letter through the stock model, letter by letter."""
    prompt = policy.prompt_inputs(question, TEMPLATE)
    before = text[: text.index("<answer>") + len("<answer>")]
    sums = []
    for letter in LETTERS[: len(question.choices)]:
        ids = policy.tokenizer(before + letter, add_special_tokens=False)["input_ids"]
        sums.append(naive_logprobs(policy, prompt, ids, 1.0).sum())
    return torch.stack(sums).log_softmax(-1).tolist()


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("rows_in_flight", [1, 4, 7, 12])
def test_refill_and_fixed_shapes_change_nothing(
    policy: Policy, questions: list[Question], rows_in_flight: int, fixed: bool
) -> None:
    """All rows from the start, against rows that leave one by one and new prompts in their place."""
    sampling = Sampling(30, 1.3, seed=1)
    plain = rows_of(policy, questions, sampling, rows_in_flight=1000)
    assert len({len(row) for row in plain[0]}) > 4, "no row ended early: the test shows nothing"
    assert_same_rows(plain, rows_of(policy, questions, sampling, rows_in_flight=rows_in_flight, fixed=fixed))


def test_new_prompts_start_before_the_old_ones_are_done(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted: list[tuple[int, int]] = []
    admit = RowsInFlight.admit

    def watched(self: RowsInFlight, *arguments: object) -> None:
        live = self.num_live
        admit(self, *arguments)  # type: ignore[arg-type]
        admitted.append((live, self.num_live))

    monkeypatch.setattr(RowsInFlight, "admit", watched)
    rows_of(policy, questions, Sampling(30, 1.3, seed=1), rows_in_flight=8)
    assert any(live > 0 for live, _ in admitted[2:])
    assert all(after <= 8 for _, after in admitted)


def test_fixed_shapes_are_few_and_rows_are_kept_between_calls(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes a captured step on CUDA: sizes are powers of two, the buffers the same ones again."""
    shapes: set[tuple[int, ...]] = set()
    step = RowsInFlight._step

    def watched(self: RowsInFlight) -> None:
        shapes.add(self.cache.shape)
        step(self)

    monkeypatch.setattr(RowsInFlight, "_step", watched)
    rows_of(policy, questions, Sampling(30, 1.3, seed=1), rows_in_flight=16, fixed=True)
    assert {n for n, _, _ in shapes} <= {1, 2, 4, 8, 16} and {w for _, _, w in shapes} == {GROUP}
    kept = policy.kept["rows"]
    assert {b for _, b, _ in shapes} <= {2, 4, 8, kept.max_prompts + 1}
    assert kept.cache.prompt_kv.shape[4] % WIDTH_STEP == 0
    rows_of(policy, questions, Sampling(30, 1.3, seed=2), rows_in_flight=16, fixed=True)
    assert policy.kept["rows"] is kept
    rows_of(policy, questions, Sampling(20, 1.3, seed=2), rows_in_flight=16, fixed=True)
    assert policy.kept["rows"] is not kept


class OpNames(TorchDispatchMode):
    """The names of all operations, and "mask index" where an index is a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masks = any(i is not None and i.dtype == torch.bool for i in indices)
        self.seen.add("mask index" if masks else name)
        return func(*args, **(kwargs or {}))


def test_a_step_of_fixed_shapes_never_waits_for_the_host_nor_the_host_for_it(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read back, nothing is sent, no shape hangs on values; the host looks every 16 tokens."""
    ops, looks, steps = OpNames(), 0, 0
    step, take_finished = RowsInFlight._step, RowsInFlight.take_finished

    def watched(self: RowsInFlight) -> None:
        nonlocal steps
        steps += 1
        with ops:
            step(self)

    def look(self: RowsInFlight) -> list[Any]:
        nonlocal looks
        looks += 1
        return take_finished(self)

    monkeypatch.setattr(RowsInFlight, "_step", watched)
    monkeypatch.setattr(RowsInFlight, "take_finished", look)
    rows_of(policy, questions, Sampling(48, 1.3, seed=1), fixed=True)
    waiting = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift_fresh"}
    assert "scatter_" in ops.seen and not ops.seen & {*waiting, "mask index"}
    assert steps == engine.STEPS_BETWEEN_LOOKS * (looks - 1)


def test_prompts_are_prefilled_a_few_at_a_time(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(12, 1.0, seed=3)
    whole = rows_of(policy, questions, sampling)
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 60)
    assert_same_rows(whole, rows_of(policy, questions, sampling))


def test_progress_counts_every_question_once(policy: Policy, questions: list[Question]) -> None:
    seen: list[int] = []
    complete(
        policy,
        questions,
        TEMPLATE,
        Sampling(20, 1.3, seed=1),
        group_size=2,
        progress=seen.append,
        rows_in_flight=5,
    )
    assert seen == [1] * len(questions)


def test_bf16_decoding_reads_weights_cast_once_and_follows_their_changes(
    tiny_folder: Path, questions: list[Question]
) -> None:
    policy = load_policy(str(tiny_folder), precision="bf16")
    first = rows_of(policy, questions, Sampling(6))
    twin = decoding_model(policy)
    layer, own = twin.language_model.layers[0], policy.model.model.language_model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.bfloat16 == twin.dtype
    assert own.mlp.up_proj.weight.dtype == torch.float32
    assert layer.input_layernorm.weight is own.input_layernorm.weight
    assert_same_rows(first, rows_of(policy, questions, Sampling(6)))
    with torch.no_grad():
        own.mlp.up_proj.weight.mul_(-2.0)
    changed = rows_of(policy, questions, Sampling(6))
    assert decoding_model(policy).language_model is twin.language_model
    assert changed[1] != first[1]
    fresh = load_policy(str(tiny_folder), precision="bf16")
    with torch.no_grad():
        fresh.model.model.language_model.layers[0].mlp.up_proj.weight.mul_(-2.0)
    assert_same_rows(changed, rows_of(fresh, questions, Sampling(6)))


def test_fp32_decoding_reads_the_weights_themselves(policy: Policy) -> None:
    assert decoding_model(policy).language_model is policy.model.model.language_model


def test_letters_of_many_questions_equal_one_by_one(
    policy: Policy, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions with two and three choices, answers behind reasoning of different length, one without."""
    texts = [f"<think>{'because ' * i}</think><answer>A</answer>" for i in range(len(questions) - 1)]
    completions = [
        Completion(text=text, token_ids=(1,), sampled_logprobs=(0.0,), finish_reason="stop")
        for text in [*texts, "no answer at all"]
    ]
    together = choice_logprobs(policy, questions, TEMPLATE, completions)
    assert together[-1] is None
    monkeypatch.setattr("osler.rollout.choices.PASS_TOKENS", 1)
    alone = choice_logprobs(policy, questions, TEMPLATE, completions)
    for question, one, other, text in zip(questions, together, alone, texts, strict=False):
        assert one is not None and other is not None and len(one) == len(question.choices)
        assert one == pytest.approx(other, abs=1e-5)
        assert one == pytest.approx(naive_letters(policy, question, text), abs=1e-4)


def test_a_begun_completion_goes_on_as_the_stock_model_would(
    tiny_folder: Path, questions: list[Question]
) -> None:
    """Prompt, image and given text in one sequence through the stock model's own greedy decoding."""
    policy = load_policy(str(tiny_folder))
    begun = [f"<think>It is {'dark ' * (i % 3)}here.</think><answer>" for i in range(len(questions))]
    found = complete(policy, questions, TEMPLATE, Sampling(12), begun=begun)
    for question, text, (completion,) in zip(questions, begun, found, strict=True):
        prompt = policy.prompt_inputs(question, TEMPLATE)
        given = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        inputs = hugging_face_inputs(policy, prompt, given)
        ids = policy.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
        new = ids[prompt.input_ids.shape[0] + len(given) :].tolist()
        assert list(completion.token_ids) == new
        ended = new[:-1] if new[-1] in policy.stop_ids else new
        assert completion.text == text + policy.tokenizer.decode(ended)
        expected = naive_logprobs(policy, prompt, given + new, 1.0)[len(given) :]
        torch.testing.assert_close(torch.tensor(completion.sampled_logprobs), expected, atol=1e-4, rtol=0)


def test_a_text_whose_end_could_merge_with_the_letter_is_left_open(
    tiny_folder: Path, questions: list[Question]
) -> None:
    """With a tokenizer that knows `>A`, decoding starts before `>`."""
    policy = load_policy(str(tiny_folder))
    text = "dark</think><answer>"
    merged = policy.tokenizer("x", add_special_tokens=False)["input_ids"]

    class Merging:
        def __call__(self, written: str, add_special_tokens: bool) -> dict[str, list[int]]:
            head, found, tail = written.partition("<answer>A")
            if not found:
                return {"input_ids": [*range(100, 100 + len(written))]}
            return {"input_ids": [*range(100, 100 + len(head) + len("<answer")), *merged, *range(len(tail))]}

    policy.tokenizer = Merging()
    found = opening(policy, text, with_letters(text, questions[1]))
    assert list(found.tokens) == list(range(100, 100 + len(text) - 1))
    assert [list(ids) for ids in found.rows[:2]] == [merged, [100 + len(text) - 1, 100 + len(text)]]
