"""The language model of Qwen2-VL and Qwen2.5-VL, layer by layer, with the stock modules' weights.

The stock modules hold the weights (under LoRA the adapters too) and are called for every product; the
order of operations is written out here, so that training, prefill and decoding share it, attention is
whatever the caller needs, and the last layer leaves out what nobody reads.

Shapes: S tokens, R rows of the last layer that are read, D hidden size, H query heads, K key/value heads,
E head dimension, F = E / 2 frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm
from torch.utils.checkpoint import checkpoint

from osler.policy.activations import gated_silu
from osler.policy.inputs import to_device
from osler.policy.rotary import Rotation, rotate

# (layer, queries [R, H, E], keys [S, K, E], values [S, K, E]) -> [R, H, E]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def mrope_rotation(language_model: Any, positions_3S: Tensor) -> Rotation:
    """Each frequency turns with one of the axes time, height, width (arXiv 2409.12191, section 2.1)."""
    rotary = language_model.rotary_emb
    axis_F = [axis for axis, n in enumerate(rotary.mrope_section) for _ in range(n)]
    return Rotation.of(positions_3S[axis_F].T * rotary.inv_freq.float(), rotary.attention_scaling)


def text_rotation(language_model: Any, positions_S: Tensor) -> Rotation:
    """The same for text, whose three positions are equal."""
    rotary = language_model.rotary_emb
    return Rotation.of(positions_S[:, None] * rotary.inv_freq.float(), rotary.attention_scaling)


def run_layers(
    language_model: Any,
    x_SD: Tensor,
    rotation: Rotation,
    attend: Attend,
    *,
    read_rows: Sequence[int] | None = None,
    recompute: bool = False,
) -> Tensor:
    """Final hidden states [R, D] of `read_rows`, or of all rows.

    Only these rows have a query in the last layer. `recompute` keeps each layer's input alone and computes
    the layer again in the backward.
    """
    last = len(language_model.layers) - 1
    read = None if read_rows is None else to_device(torch.tensor(read_rows), x_SD.device)
    for index, layer in enumerate(language_model.layers):
        rows = read if index == last else None
        if recompute and torch.is_grad_enabled():
            x_SD = checkpoint(_layer, index, layer, x_SD, rotation, attend, rows, use_reentrant=False)
        else:
            x_SD = _layer(index, layer, x_SD, rotation, attend, rows)
    return _norm(language_model.norm, x_SD)


def _layer(
    index: int,
    layer: Any,
    x_SD: Tensor,
    rotation: Rotation,
    attend: Attend,
    rows: Tensor | None,
) -> Tensor:
    attn, mlp = layer.self_attn, layer.mlp
    h_SD = _cast(_norm(layer.input_layernorm, x_SD))
    k_SKE = rotate(_heads(attn.k_proj(h_SD), attn), rotation)
    v_SKE = _heads(attn.v_proj(h_SD), attn)
    if rows is not None:
        x_SD, h_SD = x_SD[rows], h_SD[rows]
        rotation = Rotation(rotation.cos[rows], rotation.sin[rows])
    q_RHE = rotate(_heads(attn.q_proj(h_SD), attn), rotation)
    x_RD = x_SD + attn.o_proj(attend(index, q_RHE, k_SKE, v_SKE).flatten(1))
    h_RD = _cast(_norm(layer.post_attention_layernorm, x_RD))
    return x_RD + mlp.down_proj(gated_silu(mlp.gate_proj(h_RD), mlp.up_proj(h_RD)))


def _norm(norm: Any, x: Tensor) -> Tensor:
    return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _cast(h: Tensor) -> Tensor:
    """The products' type. Under autocast each product would cast its input for itself, and keep it."""
    device = h.device.type
    return h.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else h


def _heads(x_SD: Tensor, attn: Any) -> Tensor:
    return x_SD.view(x_SD.shape[0], -1, attn.head_dim)
