"""The vision tower of Qwen2-VL and Qwen2.5-VL on all images at once, with the stock modules' weights.

The stock forward calls attention once per image and layer and reads lengths back from the device each
time; here every layer is one call on packed patches. The patch embedding is written as the matrix product
that a convolution with stride = kernel is.

Shapes: X patches of all images, C values of a patch, D hidden size, H heads, E head dimension, I image
tokens (X / merged patches).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from osler.policy.activations import gated_silu, quick_gelu
from osler.policy.attention import attention
from osler.policy.kernels import Part
from osler.policy.rotary import Rotation, rotate

Grid = tuple[int, int, int]  # patches of an image in time, height, width

# Activations of more patches than this leave a processor's cache: a fifth slower in one pass than in several.
CPU_PASS_PATCHES = 2**11


def image_features(
    tower: Any, pixels_XC: Tensor, grids: Sequence[Grid], *, recompute: bool = False
) -> Tensor:
    """Image tokens [I, D of the language model] of all images, one behind the other."""
    counts = [t * h * w for t, h, w in grids]
    passes = _passes(counts) if pixels_XC.device.type == "cpu" else [slice(0, len(grids))]
    pixels = pixels_XC.split([sum(counts[images]) for images in passes])
    features = [
        _features(tower, x_XC, grids[images], recompute) for x_XC, images in zip(pixels, passes, strict=True)
    ]
    return torch.cat(features) if len(features) > 1 else features[0]


def _passes(counts: Sequence[int]) -> list[slice]:
    """Neighbouring images whose patches fit into one pass; a larger image has a pass of its own."""
    starts, held = [0], 0
    for i, count in enumerate(counts):
        if held and held + count > CPU_PASS_PATCHES:
            starts.append(i)
            held = 0
        held += count
    return [slice(a, b) for a, b in pairwise([*starts, len(counts)])]


def _features(tower: Any, pixels_XC: Tensor, grids: Sequence[Grid], recompute: bool) -> Tensor:
    grid_thw = torch.tensor(grids)
    merge = tower.spatial_merge_size**2
    positions_X2 = get_vision_position_ids(grid_thw, tower.spatial_merge_size)
    frames = tuple(accumulate((h * w for t, h, w in grids for _ in range(t)), initial=0))
    whole, windows, order_I = Part(frames, frames), None, None
    if hasattr(tower, "fullatt_block_indexes"):  # Qwen2.5-VL: most layers see windows of the image
        order_I, starts = get_vision_window_index(
            grid_thw, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        windows = Part(*(tuple(starts.tolist()),) * 2)
        positions_X2 = positions_X2.view(-1, merge, 2)[order_I].view(-1, 2)
    device = pixels_XC.device
    inv_freq = tower.rotary_pos_emb.inv_freq.float()
    rotation = Rotation.of((positions_X2.to(device)[..., None] * inv_freq).flatten(1))
    x_XD = linear(pixels_XC, tower.patch_embed.proj.weight.flatten(1))
    if order_I is not None:
        order_I = order_I.to(device)
        x_XD = x_XD.view(-1, merge, x_XD.shape[1])[order_I].flatten(0, 1)
    for index, block in enumerate(tower.blocks):
        part = whole if windows is None or index in tower.fullatt_block_indexes else windows
        if recompute and torch.is_grad_enabled():
            x_XD = checkpoint(_block, block, x_XD, rotation, part, use_reentrant=False)
        else:
            x_XD = _block(block, x_XD, rotation, part)
    features_ID = tower.merger(x_XD)
    return features_ID if order_I is None else features_ID[torch.argsort(order_I)]


def _block(block: Any, x_XD: Tensor, rotation: Rotation, part: Part) -> Tensor:
    attn = block.attn
    qkv_X3HE = attn.qkv(block.norm1(x_XD)).view(x_XD.shape[0], 3, attn.num_heads, attn.head_dim)
    q_XHE, k_XHE, v_XHE = qkv_X3HE.unbind(1)
    seen = attention(rotate(q_XHE, rotation), rotate(k_XHE, rotation), v_XHE, ((part,),), attn.scaling)
    x_XD = x_XD + attn.proj(seen.flatten(1))
    return x_XD + _mlp(block.mlp, block.norm2(x_XD))


def _mlp(mlp: Any, h_XD: Tensor) -> Tensor:
    if hasattr(mlp, "gate_proj"):  # Qwen2.5-VL
        return mlp.down_proj(gated_silu(mlp.gate_proj(h_XD), mlp.up_proj(h_XD)))
    return mlp.fc2(quick_gelu(mlp.fc1(h_XD)))
