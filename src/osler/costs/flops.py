"""Useful floating-point operations of a training step.

Useful means what the mathematics asks for: image and prompt once per question and pass, every completion
token once, the head only where a completion token is predicted, causal attention only over what it sees.
A multiplication and an addition are two operations. Only matrix products count: norms, rotations, softmax
and moving data are left out, as is usual for model FLOP utilisation (PaLM, arXiv 2204.02311, appendix B).
What is computed a second time to save memory is kept apart in `recompute` and is not useful.

Of a frozen tower a rollout counts one pass over its images, as in a step whose images are all new. A run
counts the walks themselves (`train/useful.py`).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from osler.config import TrainConfig
from osler.costs.shape import ModelShape, TowerShape


@dataclass(frozen=True)
class GroupWork:
    """What one question asks of the model: GroupWork(296, (784,), (150,) * 8)."""

    prompt_tokens: int  # image tokens included
    image_patches: tuple[int, ...]  # of each image; a patch is 14 x 14 pixels
    completion_tokens: tuple[int, ...]  # of each completion, end token included


@dataclass(frozen=True)
class Scheme:
    """What of the model trains, and which passes a step makes."""

    tower: bool = True  # trains
    lora_rank: int = 0  # 0 = the whole language model trains
    reference: bool = True
    recompute: bool = False  # activations are computed again in the backward pass
    old_logprobs: bool = False  # a pass of their own, because a rollout batch feeds several steps

    @classmethod
    def of(cls, config: TrainConfig) -> Scheme:
        grpo = config.grpo
        return cls(
            tower=not (config.model.freeze_vision_tower or config.model.lora_rank),
            lora_rank=config.model.lora_rank,
            reference=config.method == "grpo" and grpo.kl_coef > 0,
            recompute=config.model.gradient_checkpointing,
            old_logprobs=config.method == "grpo" and grpo.steps_per_rollout * grpo.updates_per_rollout > 1,
        )


@dataclass(frozen=True)
class ForwardFlops:
    """One forward pass over a question and its completions, split where the backward pass differs."""

    patches: int  # the tower's first product: its input needs no gradient
    tower: int  # the rest of the tower
    linear: int  # the decoder layers' matrices
    attention: int  # the decoder layers' attention
    head: int
    first_inputs: int  # of `linear`: the first layer's products with the embeddings

    @property
    def vision(self) -> int:
        return self.patches + self.tower

    @property
    def layers(self) -> int:
        return self.linear + self.attention

    @property
    def total(self) -> int:
        return self.vision + self.layers + self.head


@dataclass(frozen=True)
class StepFlops:
    """Operations of one optimizer step by part; `useful` is what model FLOP utilisation counts."""

    rollout: int = 0
    reference: int = 0
    loss: int = 0
    backward: int = 0
    recompute: int = 0

    @property
    def useful(self) -> int:
        return self.rollout + self.reference + self.loss + self.backward

    @property
    def executed(self) -> int:
        return self.useful + self.recompute

    def times(self, count: int) -> StepFlops:
        return StepFlops(*(count * part for part in astuple(self)))

    def __add__(self, other: StepFlops) -> StepFlops:
        return StepFlops(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def tower_flops(tower: TowerShape, patches: int) -> tuple[int, int]:
    """(first product, the rest) for one image of so many patches, merger included."""
    whole = patches * patches
    windowed = patches * min(patches, tower.window_patches) if tower.window_patches else whole
    full_layers = tower.full_layers if tower.window_patches else tower.depth
    pairs = full_layers * whole + (tower.depth - full_layers) * windowed
    blocks = tower.depth * 2 * patches * tower.block_matrix_parameters + 4 * pairs * tower.width
    merger = 2 * (patches // tower.merge) * tower.merger_matrix_parameters
    return 2 * patches * tower.patch_values * tower.width, blocks + merger


def decoder_flops(shape: ModelShape, positions: int, pairs: int) -> tuple[int, int]:
    """(linear, attention) of all layers for `positions` that see `pairs` keys between them."""
    linear = 2 * shape.layers * positions * shape.layer_matrix_parameters
    return linear, 4 * shape.layers * pairs * shape.queries


def head_flops(shape: ModelShape, positions: int) -> int:
    return 2 * positions * shape.width * shape.vocabulary


def causal_pairs(positions: int, before: int = 0) -> int:
    """(query, key) pairs of `positions` tokens that see each other causally, and `before` more tokens."""
    return positions * before + positions * (positions + 1) // 2


def forward_flops(shape: ModelShape, work: GroupWork) -> ForwardFlops:
    """One pass over image, prompt and all completions. The last token of a completion predicts nothing."""
    vision = [tower_flops(shape.tower, n) for n in work.image_patches]
    inputs = [n - 1 for n in work.completion_tokens]
    prompt = work.prompt_tokens
    positions = prompt + sum(inputs)
    pairs = causal_pairs(prompt) + sum(causal_pairs(n, before=prompt) for n in inputs)
    linear, attention = decoder_flops(shape, positions, pairs)
    return ForwardFlops(
        patches=sum(first for first, _ in vision),
        tower=sum(rest for _, rest in vision),
        linear=linear,
        attention=attention,
        head=head_flops(shape, sum(work.completion_tokens)),
        first_inputs=2 * positions * shape.width * (shape.queries + 2 * shape.keys),
    )


def rollout_flops(shape: ModelShape, work: GroupWork, scheme: Scheme) -> StepFlops:
    """Sampling one group: image and prompt once, then token by token the same products as one forward.

    The pass for old log-probabilities, where there is one, follows at once and counts as loss.
    """
    one, adapters = forward_flops(shape, work), _adapter_flops(shape, work, scheme)
    old = _scoring(one, scheme) + adapters if scheme.old_logprobs else 0
    return StepFlops(rollout=one.total + adapters, loss=old)


def update_flops(shape: ModelShape, work: GroupWork, scheme: Scheme) -> StepFlops:
    """One group's share of an optimizer step, after sampling."""
    one, adapters = forward_flops(shape, work), _adapter_flops(shape, work, scheme)
    # A matrix that trains costs two products in the backward pass, a frozen one only that with its input's
    # gradient; attention always two.
    if scheme.lora_rank:
        backward = one.linear - one.first_inputs + 2 * one.attention + one.head + 2 * adapters
    else:
        backward = 2 * (one.layers + one.head)
    if scheme.tower:
        backward += one.patches + 2 * one.tower
    layers_again = _scoring(one, scheme) - one.head + adapters if scheme.recompute else 0
    return StepFlops(
        reference=_scoring(one, scheme) if scheme.reference else 0,
        loss=_scoring(one, scheme) + adapters,
        backward=backward,
        recompute=one.head + layers_again,  # the head keeps no logits, whatever the layers keep
    )


def _scoring(one: ForwardFlops, scheme: Scheme) -> int:
    """A pass over what the rollout sampled; a frozen tower has given its features to the rollout already."""
    return one.layers + one.head + (one.vision if scheme.tower else 0)


def _adapter_flops(shape: ModelShape, work: GroupWork, scheme: Scheme) -> int:
    positions = work.prompt_tokens + sum(n - 1 for n in work.completion_tokens)
    return 2 * positions * shape.lora_parameters(scheme.lora_rank)
