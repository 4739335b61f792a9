"""Attention over a group's shared prompt: the prompt once, the completions against it.

Hugging Face decoder layers call an attention function by name. The one registered here reads a
`layout` keyword, which says how the rows of this forward hang together, and keeps projections, rotary
embedding, norms and MLP of the stock modules untouched. Without a `layout` it is the stock SDPA, so the
same module object still serves plain `generate`.

Going through the Hugging Face cache object instead would copy the prompt's keys and values G times
and is switched off by their activation checkpointing; neither happens here.

Shapes: B prompts, P prompt positions (right-padded), G completions of a prompt, T positions of a
completion, N rows being decoded, R rows of one prompt, H query heads, K key/value heads, Q = H / K,
E head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION_NAME = "osler_shared_prompt"


class Layout(Protocol):
    """How the rows of one forward hang together."""

    def attend(self, layer: int, q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, scaling: float) -> Tensor:
        """Attention output [B, H, S, E]."""
        ...


def layout_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Entry point for Hugging Face modules: [B, H, S, E] in, ([B, S, H, E], None) out."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    out = layout.attend(module.layer_idx, query, key, value, kwargs["scaling"])
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, layout_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def _causal(q_BHPE: Tensor, k_BKPE: Tensor, v_BKPE: Tensor, scaling: float) -> Tensor:
    # Prompts are padded on the right: no real position ever sees a padded one, so no mask is needed.
    return scaled_dot_product_attention(
        q_BHPE, k_BKPE, v_BKPE, is_causal=True, scale=scaling, enable_gqa=q_BHPE.shape[1] != k_BKPE.shape[1]
    )


def _padding_bias(lengths_B: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
    """[B, 1, 1, P] with -inf on padding, or None where nothing is padded."""
    padded_BP = torch.arange(width, device=lengths_B.device) >= lengths_B[:, None]
    if not bool(padded_BP.any()):
        return None
    zeros = torch.zeros(padded_BP.shape, dtype=dtype, device=lengths_B.device)
    return zeros.masked_fill(padded_BP, float("-inf"))[:, None, None, :]


@dataclass(frozen=True)
class GroupLayout:
    """Training: each row of the batch is one prompt followed by its G completions of T positions.

    Row b is [P prompt positions | T of completion 0 | T of completion 1 | ...]. Completions see their
    prompt and themselves, never each other.
    """

    prompt_lengths_B: Tensor
    prompt_width: int
    group_size: int
    completion_width: int

    def attend(self, layer: int, q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, scaling: float) -> Tensor:
        P = self.prompt_width
        prompt = _causal(q_BHSE[:, :, :P], k_BKSE[:, :, :P], v_BKSE[:, :, :P], scaling)
        if self.completion_width == 0:
            return prompt
        return torch.cat([prompt, self._completions(q_BHSE, k_BKSE, v_BKSE, scaling)], dim=2)

    def _completions(self, q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, scaling: float) -> Tensor:
        B, H, _, E = q_BHSE.shape
        K, P, G, T = k_BKSE.shape[1], self.prompt_width, self.group_size, self.completion_width
        Q = H // K
        q = (q_BHSE[:, :, P:] * scaling).reshape(B, K, Q, G, T, E)
        k_own = k_BKSE[:, :, P:].reshape(B, K, 1, G, T, E)
        v_own = v_BKSE[:, :, P:].reshape(B, K, 1, G, T, E)
        to_prompt = q.reshape(B, K, Q * G * T, E) @ k_BKSE[:, :, :P].transpose(-1, -2)
        bias = _padding_bias(self.prompt_lengths_B, P, q.dtype)
        if bias is not None:
            to_prompt = to_prompt + bias
        to_own = q @ k_own.transpose(-1, -2)
        future_TT = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
        to_own = to_own.masked_fill(future_TT, float("-inf"))
        scores = torch.cat([to_prompt.view(B, K, Q, G, T, P), to_own], dim=-1)
        weights = scores.float().softmax(-1).to(q.dtype)
        on_prompt, on_own = weights.split([P, T], dim=-1)
        out = (on_prompt.reshape(B, K, Q * G * T, P) @ v_BKSE[:, :, :P]).view(B, K, Q, G, T, E)
        return (out + on_own @ v_own).reshape(B, H, G * T, E)


@dataclass
class PromptCache:
    """Rollout, first pass: prompts alone; keeps every layer's keys and values, once per prompt."""

    prompt_lengths_B: Tensor
    keys: dict[int, Tensor] = field(default_factory=dict)  # layer -> [B, K, P, E]
    values: dict[int, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, q_BHSE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, scaling: float) -> Tensor:
        self.keys[layer], self.values[layer] = k_BKSE, v_BKSE
        return _causal(q_BHSE, k_BKSE, v_BKSE, scaling)


class DecodeLayout:
    """Rollout, token by token: N rows, each against its prompt's cache and its own tokens so far.

    Rows of one prompt are read against the prompt's keys together, so the prompt is neither copied nor
    read G times. `keep` drops finished rows, and prompts that no row needs any more.
    """

    def __init__(self, cache: PromptCache, rows_prompt_N: Tensor, max_tokens: int) -> None:
        self.prompt_keys, self.prompt_values = dict(cache.keys), dict(cache.values)
        self.prompt_lengths_B = cache.prompt_lengths_B
        self.max_tokens = max_tokens
        self.num_tokens = 0  # tokens already in the rows' own cache
        self.own_keys: dict[int, Tensor] = {}
        self.own_values: dict[int, Tensor] = {}
        self._index(rows_prompt_N)

    def _index(self, rows_prompt_N: Tensor) -> None:
        """Place every row in a [B, R] grid of its prompt; R is the largest number of rows of a prompt."""
        self.rows_prompt_N = rows_prompt_N
        B, N = self.prompt_lengths_B.shape[0], rows_prompt_N.shape[0]
        counts_B = torch.bincount(rows_prompt_N, minlength=B)
        first_B = counts_B.cumsum(0) - counts_B
        order_N = torch.argsort(rows_prompt_N, stable=True)
        rank_N = torch.empty_like(order_N)
        rank_N[order_N] = torch.arange(N, device=order_N.device) - first_B[rows_prompt_N[order_N]]
        self.grid_width = int(counts_B.max())
        self.place_N = rows_prompt_N * self.grid_width + rank_N  # row -> flat grid position
        in_order = torch.arange(N, device=order_N.device)
        self.is_full_grid = B * self.grid_width == N and bool((self.place_N == in_order).all())
        width = next(iter(self.prompt_keys.values())).shape[2]
        dtype = next(iter(self.prompt_keys.values())).dtype
        bias_B = _padding_bias(self.prompt_lengths_B, width, dtype)
        self.padding_bias_N = None if bias_B is None else bias_B[rows_prompt_N]

    def keep(self, rows: Tensor) -> None:
        """Keep these rows (indices into the current ones), in this order."""
        prompts, rows_prompt = torch.unique(self.rows_prompt_N[rows], return_inverse=True)
        if prompts.shape[0] < self.prompt_lengths_B.shape[0]:
            for layer in self.prompt_keys:
                self.prompt_keys[layer] = self.prompt_keys[layer][prompts]
                self.prompt_values[layer] = self.prompt_values[layer][prompts]
            self.prompt_lengths_B = self.prompt_lengths_B[prompts]
        for layer in self.own_keys:
            self.own_keys[layer] = self.own_keys[layer][rows]
            self.own_values[layer] = self.own_values[layer][rows]
        self._index(rows_prompt)

    def attend(self, layer: int, q_NH1E: Tensor, k_NK1E: Tensor, v_NK1E: Tensor, scaling: float) -> Tensor:
        N, H, _, E = q_NH1E.shape
        K, t = k_NK1E.shape[1], self.num_tokens
        if layer not in self.own_keys:
            self.own_keys[layer] = k_NK1E.new_zeros(N, K, self.max_tokens, E)
            self.own_values[layer] = v_NK1E.new_zeros(N, K, self.max_tokens, E)
        self.own_keys[layer][:, :, t] = k_NK1E[:, :, 0]
        self.own_values[layer][:, :, t] = v_NK1E[:, :, 0]
        q_NKQE = (q_NH1E * scaling).view(N, K, H // K, E)
        to_prompt = self._from_grid(self._to_grid(q_NKQE) @ self.prompt_keys[layer].transpose(-1, -2), N)
        if self.padding_bias_N is not None:
            to_prompt = to_prompt + self.padding_bias_N
        to_own = q_NKQE @ self.own_keys[layer][:, :, : t + 1].transpose(-1, -2)
        weights = torch.cat([to_prompt, to_own], dim=-1).float().softmax(-1).to(q_NKQE.dtype)
        on_prompt, on_own = weights.split([to_prompt.shape[-1], t + 1], dim=-1)
        out = self._from_grid(self._to_grid(on_prompt) @ self.prompt_values[layer], N)
        return (out + on_own @ self.own_values[layer][:, :, : t + 1]).reshape(N, H, 1, E)

    def _to_grid(self, x_NKQX: Tensor) -> Tensor:
        """[N, K, Q, X] -> [B, K, R * Q, X]."""
        _, K, Q, X = x_NKQX.shape
        B, R = self.prompt_lengths_B.shape[0], self.grid_width
        if not self.is_full_grid:
            grid = x_NKQX.new_zeros(B * R, K, Q, X)
            grid[self.place_N] = x_NKQX
            x_NKQX = grid
        return x_NKQX.view(B, R, K, Q, X).transpose(1, 2).reshape(B, K, R * Q, X)

    def _from_grid(self, x_BKSX: Tensor, N: int) -> Tensor:
        """[B, K, R * Q, X] -> [N, K, Q, X]."""
        B, K, S, X = x_BKSX.shape
        R = self.grid_width
        flat = x_BKSX.view(B, K, R, S // R, X).transpose(1, 2).reshape(B * R, K, S // R, X)
        return flat if self.is_full_grid else flat[self.place_N]
