"""Keys and values of rows being decoded: every prompt once, every row its own tokens.

Memory is taken once; rows and prompts that stay move to the front when others leave. The rows of a prompt
are read against it together, so that it is neither copied nor read per row.

Shapes: L layers, B prompts, P prompt positions, N rows, W rows of one prompt, T own tokens of a row,
H query heads, K key/value heads, Q = H / K, E head dimension, S tokens of prompts behind one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from osler.policy.attention import merge
from osler.policy.kernels import biased_cpu_attention
from osler.policy.products import at_least_fp32, matmul_fp32

KeysValues = tuple[Tensor, Tensor]  # [S, K, E] each, keys rotated

# Where steps are captured, room for prompts grows coarsely: a slightly longer one captures nothing anew.
WIDTH_STEP = 128


@dataclass(frozen=True)
class CacheSize:
    """How much memory is taken; the longest prompt is not known beforehand and can grow."""

    layers: int
    kv_heads: int
    head_dim: int
    rows: int
    prompts: int
    tokens: int


class RowCache:
    """Decoding attention over everything stored; `put`, `keep` and `arrange` say what that is.

    `fused` takes the flash kernel of the CPU; otherwise products and a softmax, which any device can capture.
    """

    def __init__(self, size: CacheSize, dtype: torch.dtype, device: torch.device, fused: bool) -> None:
        self.fused = fused
        L, K, E, N, B, T = size.layers, size.kv_heads, size.head_dim, size.rows, size.prompts, size.tokens
        # Zeros, not empty: what lies behind a row's last token is masked, and a NaN would come through.
        self.prompt_kv = torch.zeros((L, 2, B, K, 0, E), dtype=dtype, device=device)
        self.own_kv = torch.zeros((L, 2, N, K, T, E), dtype=dtype, device=device)
        self.prompt_lengths_B = torch.ones(B, dtype=torch.long, device=device)
        self.cell_N = torch.zeros(N, dtype=torch.long, device=device)  # place in the [B, W] grid
        self.scale = E**-0.5
        self.shape = (0, 0, 0)  # N, B, W that are computed
        self.full_grid = False

    def put(self, layers: Sequence[KeysValues], boundaries: Sequence[int], first: int) -> None:
        """Store prompts in slots `first`, `first` + 1, ...; prompt i is rows b[i] to b[i + 1] of `layers`."""
        longest = max(b - a for a, b in pairwise(boundaries))
        self._reserve(longest if self.fused else -(-longest // WIDTH_STEP) * WIDTH_STEP)
        for layer, pair in enumerate(layers):
            for store_BKPE, x_SKE in zip(self.prompt_kv[layer], pair, strict=True):
                for i, (a, b) in enumerate(pairwise(boundaries)):
                    store_BKPE[first + i, :, : b - a] = x_SKE[a:b].transpose(0, 1)
        lengths = torch.tensor(boundaries).diff()
        self.prompt_lengths_B[first : first + len(lengths)] = lengths.to(self.prompt_lengths_B.device)

    def _reserve(self, width: int) -> None:
        missing = width - self.prompt_kv.shape[4]
        if missing > 0:
            extra = list(self.prompt_kv.shape)
            extra[4] = missing
            self.prompt_kv = torch.cat([self.prompt_kv, self.prompt_kv.new_zeros(extra)], dim=4)

    def keep(self, rows: Sequence[int], prompts: Sequence[int]) -> None:
        """Move these rows and prompts to the front, in this order."""
        device = self.own_kv.device
        for kept, store in ((rows, self.own_kv), (prompts, self.prompt_kv)):
            if list(kept) != list(range(len(kept))):
                index = torch.tensor(kept, device=device)
                for layer in store:  # layer by layer: the copy of one is all the extra memory
                    layer[:, : len(kept)] = layer[:, index]
        lengths = self.prompt_lengths_B[torch.tensor(prompts, dtype=torch.long, device=device)]
        self.prompt_lengths_B.fill_(1)[: len(prompts)] = lengths

    def arrange(self, prompt_of_row: Sequence[int], shape: tuple[int, int, int]) -> None:
        """Say which prompt each row belongs to, and how many N, B, W to compute: at least what there is.

        Rows beyond those given are computed against an empty slot and mean nothing.
        """
        N, B, W = self.shape = shape
        seen = [0] * B
        cells = []
        for prompt in prompt_of_row:
            cells.append(prompt * W + seen[prompt])
            seen[prompt] += 1
        spare = len(set(prompt_of_row)) * W
        self.full_grid = cells == list(range(B * W))
        self.cell_N[:N] = torch.tensor(cells + [spare] * (N - len(cells))).to(self.cell_N.device)

    def begin(self, filled_N: Tensor, prompt_width: int, own_width: int) -> None:
        """Start a step: row n has `filled_N[n]` tokens in its cache and is about to add one."""
        N, B, _ = self.shape
        self.widths = prompt_width, own_width
        self.rows_N, self.filled_N = torch.arange(N, device=filled_N.device), filled_N
        dtype = self.own_kv.dtype if self.fused else at_least_fp32(self.own_kv.dtype)
        self.prompt_bias = _bias(self.prompt_lengths_B[:B], prompt_width, dtype)
        self.own_bias = _bias(filled_N + 1, own_width, dtype)

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        """Attention of one new token per row, [N, H, E]; its key and value are stored."""
        N, B, _ = self.shape
        P, T = self.widths
        own, prompts = self.own_kv[layer, :, :N], self.prompt_kv[layer, :, :B, :, :P]
        own[0][self.rows_N, :, self.filled_N] = k_NKE
        own[1][self.rows_N, :, self.filled_N] = v_NKE
        q_NKQE = q_NHE.view(N, k_NKE.shape[1], -1, q_NHE.shape[2])
        attend = self._attend_fused if self.fused else self._attend_plain
        return attend(q_NKQE, prompts, own[:, :, :, :T]).reshape(q_NHE.shape)

    def _attend_fused(self, q_NKQE: Tensor, prompts: Tensor, own: Tensor) -> Tensor:
        out, lse = biased_cpu_attention(self._to_grid(q_NKQE), prompts, self.prompt_bias, self.scale)
        to_prompt = self._from_grid(out), self._from_grid(lse[..., None])[..., 0]
        return merge([to_prompt, biased_cpu_attention(q_NKQE, own, self.own_bias, self.scale)])[0]

    def _attend_plain(self, q_NKQE: Tensor, prompts: Tensor, own: Tensor) -> Tensor:
        on_prompt = self._scores(self._to_grid(q_NKQE), prompts[0], self.prompt_bias)
        on_own = self._scores(q_NKQE, own[0], self.own_bias)
        scores = torch.cat([self._from_grid(on_prompt), on_own], dim=-1)
        weights = scores.softmax(-1).to(q_NKQE.dtype)
        on_prompt, on_own = weights.split([on_prompt.shape[-1], on_own.shape[-1]], dim=-1)
        return self._from_grid(self._to_grid(on_prompt) @ prompts[1]) + on_own @ own[1]

    def _scores(self, q_XKCE: Tensor, k_XKME: Tensor, bias_X11M: Tensor) -> Tensor:
        return matmul_fp32(q_XKCE, k_XKME.transpose(-1, -2)).mul_(self.scale).add_(bias_X11M)

    def _to_grid(self, x_NKQX: Tensor) -> Tensor:
        """[N, K, Q, X] -> [B, K, W * Q, X]: the rows of a prompt as one set of queries."""
        _, B, W = self.shape
        _, K, Q, X = x_NKQX.shape
        if not self.full_grid:
            grid = x_NKQX.new_zeros(B * W, K, Q, X)
            grid[self.cell_N[: self.shape[0]]] = x_NKQX
            x_NKQX = grid
        return x_NKQX.reshape(B, W, K, Q, X).transpose(1, 2).reshape(B, K, W * Q, X)

    def _from_grid(self, x_BKCX: Tensor) -> Tensor:
        """[B, K, W * Q, X] -> [N, K, Q, X]."""
        N, B, W = self.shape
        _, K, C, X = x_BKCX.shape
        flat = x_BKCX.reshape(B, K, W, C // W, X).transpose(1, 2).reshape(B * W, K, C // W, X)
        return flat if self.full_grid else flat[self.cell_N[:N]]


def _bias(lengths_N: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[N, 1, 1, width]: 0 on the first `lengths_N[n]` places, -inf behind them."""
    behind = torch.arange(width, device=lengths_N.device) >= lengths_N[:, None, None, None]
    return torch.zeros(behind.shape, dtype=dtype, device=behind.device).masked_fill(behind, float("-inf"))
