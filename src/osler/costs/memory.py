"""Bytes that training holds: what stays from step to step, and what each phase of a step adds.

Weights, gradients, optimizer state, reference and caches are exact; what autograd keeps for the backward
pass is counted tensor by tensor, as on a CPU (on CUDA the norms keep less). What a phase needs only in
passing (products of one layer, chunks of logits) is estimated.

`residual` and `product` are the bytes of a number in the residual stream and in a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

from osler.config import TrainConfig
from osler.costs.flops import GroupWork, Scheme
from osler.costs.shape import ModelShape, TowerShape
from osler.costs.workload import Workload

FP32, BF16 = 4, 2
ROW_NUMBER = 8  # bytes
# What the code that this counts for holds at a time; a test compares them with it.
HEAD_CHUNK_ELEMENTS = 2**24
ROWS_IN_FLIGHT = 128
PREFILL_TOKENS = 2**14
ROUNDING_CHUNK_ELEMENTS = 2**23
HEAD_CHUNKS_ALIVE = 3  # logits, their exponentials, and one of them in the products' type
ROUNDING_TENSORS = 8  # weights, gradient, two moments, random bits, results


@dataclass(frozen=True)
class Layout:
    """How the weights are held and which of them train."""

    shape: ModelShape
    tower_trains: bool
    lora_rank: int
    residual: int
    product: int
    recompute: bool
    reference: bool
    offload_reference: bool

    @classmethod
    def of(cls, config: TrainConfig, shape: ModelShape) -> Layout:
        scheme, model = Scheme.of(config), config.model
        return cls(
            shape=shape,
            tower_trains=scheme.tower,
            lora_rank=model.lora_rank,
            residual=FP32 if model.master_weights else BF16,
            product=BF16 if model.precision == "bf16" else FP32,
            recompute=scheme.recompute,
            reference=scheme.reference,
            offload_reference=config.grpo.offload_reference,
        )

    @property
    def casts(self) -> bool:
        """Whether weights are cast for products: then copies of them are alive, too."""
        return self.product != self.residual

    @property
    def trained(self) -> int:
        """Numbers that train."""
        if self.lora_rank:
            return self.shape.lora_parameters(self.lora_rank)
        return self.shape.parameters if self.tower_trains else self.shape.language_model_parameters

    @property
    def trained_width(self) -> int:
        return FP32 if self.lora_rank else self.residual


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    reference: int  # on the device all the time
    visiting_reference: int  # on the device while it is asked
    decoding_copy: int
    cache: int  # keys and values of rows in flight
    saved: int  # for the backward pass of one micro-batch
    update: int  # in passing, while a micro-batch goes back
    rollout: int  # in passing
    scoring: int  # in passing, under the reference
    stepping: int  # in passing, while the optimizer steps

    @property
    def held(self) -> int:
        return (
            self.weights + self.optimizer + self.reference + self.decoding_copy + self.cache
        )  # rows in flight are kept for the next rollout

    def phases(self) -> dict[str, int]:
        """The peak of each phase of a step."""
        return {
            "rollout": self.held + self.rollout,
            "reference": self.held + self.visiting_reference + self.scoring,
            "loss": self.held + self.gradients + self.saved + self.update,
            "optimizer": self.held + self.gradients + self.stepping,
        }

    @property
    def peak(self) -> int:
        return max(self.phases().values())


def predict_memory(config: TrainConfig, shape: ModelShape, load: Workload) -> Memory:
    """Of a step after the first, when the optimizer has its state."""
    layout = Layout.of(config, shape)
    works = (load.work,) * load.microbatch
    reference = reference_bytes(layout)
    is_grpo = config.method == "grpo"
    rows = min(ROWS_IN_FLIGHT, load.rollout_questions * len(load.work.completion_tokens))
    passing = passing_bytes(layout, works)
    return Memory(
        weights=weight_bytes(layout),
        gradients=layout.trained * layout.trained_width,
        optimizer=2 * layout.trained * layout.trained_width,
        reference=0 if layout.offload_reference else reference,
        visiting_reference=reference if layout.offload_reference else 0,
        decoding_copy=decoding_copy_bytes(layout) if is_grpo else 0,
        cache=cache_bytes(layout, load.work, rows) if is_grpo else 0,
        saved=saved_bytes(layout, works),
        update=passing + head_gradient_bytes(layout, works),
        rollout=prefill_bytes(layout, load.work, rows) if is_grpo else 0,
        scoring=passing if layout.reference else 0,
        stepping=stepping_bytes(layout),
    )


# ---- what stays -------------------------------------------------------------------------------------


def weight_bytes(layout: Layout) -> int:
    return layout.shape.parameters * layout.residual + layout.shape.lora_parameters(layout.lora_rank) * FP32


def reference_bytes(layout: Layout) -> int:
    """A frozen copy; of fp32 weights under bf16 products, matrices that only products read are in bf16."""
    if not layout.reference or layout.lora_rank:
        return 0
    whole = layout.shape.parameters * layout.residual
    if not layout.casts:
        return whole
    shape = layout.shape
    matrices = shape.matrix_parameters + (0 if shape.tied else shape.vocabulary * shape.width)
    return whole - matrices * (layout.residual - layout.product)


def decoding_copy_bytes(layout: Layout) -> int:
    """Linear layers of the language model and the head, biases included, in the products' type."""
    if not layout.casts:
        return 0
    shape = layout.shape
    biases = shape.layers * (shape.queries + 2 * shape.keys)
    adapters = shape.lora_parameters(layout.lora_rank)
    linear = shape.layers * shape.layer_matrix_parameters + biases + shape.vocabulary * shape.width + adapters
    return linear * layout.product


def cache_bytes(layout: Layout, work: GroupWork, rows: int) -> int:
    """Keys and values of every row in flight, and of as many prompts as `rollout.rows` has room for."""
    rows = max(rows, len(work.completion_tokens))
    prompts = min(rows, 2 * rows // len(work.completion_tokens)) + 1
    positions = rows * max(work.completion_tokens) + prompts * work.prompt_tokens
    return 2 * layout.shape.layers * layout.shape.keys * positions * layout.product


# ---- kept for the backward pass ---------------------------------------------------------------------


def saved_bytes(layout: Layout, works: tuple[GroupWork, ...]) -> int:
    """What autograd keeps between the forward and the backward of groups that go through together."""
    prompts = sum(w.prompt_tokens for w in works)
    inputs = sum(n - 1 for w in works for n in w.completion_tokens)
    scored = sum(n for w in works for n in w.completion_tokens)
    positions, read = prompts + inputs, len(works) + inputs
    shape, r = layout.shape, layout.residual
    if layout.recompute:
        layers = shape.layers * positions * shape.width * r
    else:
        layers = (shape.layers - 1) * _layer_bytes(layout, positions, positions)
        layers += _layer_bytes(layout, positions, read)
    # The last layer's row numbers, the last norm, and the rows that the head reads.
    final = read * ROW_NUMBER + read * shape.width * _norm_bytes(layout) + scored * shape.width * r
    tower = 0
    if layout.tower_trains:
        tower = _tower_bytes(layout, sum(n for w in works for n in w.image_patches))
    return layers + final + tower + _cast_weight_bytes(layout)


def _cast_weight_bytes(layout: Layout) -> int:
    """Matrices that were cast for the forward and wait for the backward; recomputed layers cast anew."""
    if not layout.casts:
        return 0
    shape, tower = layout.shape, layout.shape.tower
    layers = 0 if layout.recompute else shape.layers * shape.layer_matrix_parameters
    if layout.tower_trains:
        blocks = 0 if layout.recompute else tower.depth * tower.block_matrix_parameters
        layers += blocks + tower.merger_matrix_parameters
    return layers * layout.product


def _layer_bytes(layout: Layout, positions: int, read: int) -> int:
    """Of one decoder layer: `positions` give keys and values, `read` of them have queries and go on."""
    shape, p = layout.shape, layout.product
    # Adapters are fp32: where products are not, each keeps its own cast of its input.
    casts = layout.lora_rank > 0 and p != FP32
    uses = 2 if casts else 1
    norms = _norm_bytes(layout)
    keys_side = shape.width * norms + shape.width * p * uses + 2 * shape.keys * p
    query_input = 0 if read == positions and not casts else shape.width * p
    mlp = 3 * shape.mlp_width * p + shape.width * norms + shape.width * p * uses
    attention = 2 * shape.queries * p + shape.heads * FP32
    adapters = 7 * layout.lora_rank * p
    if casts:
        adapters += shape.queries * p
    return positions * keys_side + read * (query_input + mlp + attention + adapters)


def _norm_bytes(layout: Layout) -> int:
    """A norm keeps its input in fp32, and what it scaled where the scale trains."""
    return FP32 if layout.lora_rank else 2 * FP32


def _tower_bytes(layout: Layout, patches: int) -> int:
    tower, p = layout.shape.tower, layout.product
    block_input = tower.width * p
    merger = patches * (tower.width * p + 3 * tower.width * p)
    pixels = patches * tower.patch_values * p
    if layout.recompute:
        return pixels + merger + tower.depth * patches * block_input
    return pixels + merger + tower.depth * patches * _block_values(tower, p)


def _block_values(tower: TowerShape, p: int) -> int:
    """Bytes per patch: two norms' inputs and outputs, queries, keys, the products that values are a view
    of, attention's output, and the MLP's."""
    statistics = FP32 * tower.heads + 4 * p
    mlp = tower.mlp_matrices * tower.mlp_width  # what enters and leaves its activation, gated or not
    return (4 * tower.width + 2 * tower.width + 3 * tower.width + tower.width + mlp) * p + statistics


# ---- in passing -------------------------------------------------------------------------------------


def passing_bytes(layout: Layout, works: tuple[GroupWork, ...]) -> int:
    """The widest layer's products on the way, a layer computed again where that is so, chunks of logits."""
    positions = sum(w.prompt_tokens + sum(n - 1 for n in w.completion_tokens) for w in works)
    patches = sum(n for w in works for n in w.image_patches)
    shape, tower = layout.shape, layout.shape.tower
    gradients = positions * (4 * shape.mlp_width + 4 * shape.width) * layout.product
    again = _layer_bytes(layout, positions, positions) if layout.recompute else 0
    in_tower = 0
    if layout.tower_trains:
        in_tower = patches * (3 * tower.mlp_width + 4 * tower.width) * layout.product
        in_tower += patches * _block_values(tower, layout.product) if layout.recompute else 0
    scored = sum(n for w in works for n in w.completion_tokens)
    chunk = HEAD_CHUNKS_ALIVE * FP32 * min(HEAD_CHUNK_ELEMENTS, scored * shape.vocabulary)
    casts = shape.matrix_parameters * layout.product if layout.casts and layout.recompute else 0
    return max(gradients + again, in_tower, chunk) + casts


def head_gradient_bytes(layout: Layout, works: tuple[GroupWork, ...]) -> int:
    """The head's gradient is added up in fp32, and so is that of its input."""
    scored = sum(n for w in works for n in w.completion_tokens)
    weight = 0 if layout.lora_rank else layout.shape.vocabulary * layout.shape.width * FP32
    return weight + scored * layout.shape.width * FP32


def prefill_bytes(layout: Layout, work: GroupWork, rows: int) -> int:
    """Keys and values of the prompts in one pass, its widest products, the logits of a decoding step."""
    shape, tower = layout.shape, layout.shape.tower
    prompts = -(-rows // len(work.completion_tokens))
    together = min(prompts, -(-PREFILL_TOKENS // work.prompt_tokens))
    positions = together * work.prompt_tokens
    cached = 2 * shape.layers * shape.keys * positions * layout.product
    layer = positions * (3 * shape.mlp_width + 2 * shape.width) * layout.product
    patches = together * sum(work.image_patches)
    in_tower = patches * (tower.patch_values + 3 * tower.mlp_width) * layout.product
    logits = 3 * rows * shape.vocabulary * FP32
    return cached + max(layer, in_tower, logits)


def stepping_bytes(layout: Layout) -> int:
    """AdamW's temporaries: of all weights at once in fp32, of a chunk where bf16 weights are rounded."""
    if layout.trained_width == BF16:
        return ROUNDING_TENSORS * ROUNDING_CHUNK_ELEMENTS * FP32
    return layout.trained * FP32
