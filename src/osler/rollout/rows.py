"""Rows in flight: completions being decoded, admitted prompt by prompt, finished in any order.

A step is a fixed sequence of device operations on tensors that stay where they are. On CUDA it is captured
once per size and replayed, and nothing is read back between two looks for finished rows; on a CPU the same
step runs on exactly the rows there are.

Shapes: N rows, T tokens of a row, D hidden size, V vocabulary, B prompts, G rows of each, P positions of
the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from osler.policy.cache import CacheSize, KeysValues, RowCache
from osler.policy.decoder import run_layers, text_rotation
from osler.policy.decoding import DecodingModel
from osler.policy.logits import LogitsProcessor
from osler.rollout.sampling import draw


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn, for all rows alike."""

    processor: LogitsProcessor
    stop_ids: tuple[int, ...]
    max_tokens: int
    greedy: bool


@dataclass(frozen=True)
class Finished:
    """One completion: whose it is, its tokens (end token included), their log-probabilities in nats."""

    owner: int
    tokens: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Prefilled:
    """Prompts ready to be decoded, in the order of their rows' owners."""

    hidden_BD: Tensor  # of each prompt's last token
    layers: Sequence[KeysValues]
    boundaries: Sequence[int]  # of the prompts in `layers`
    next_positions: Sequence[int]


@dataclass
class _State:
    """One entry per row, on the device."""

    token_N: Tensor  # drawn last, not yet in the cache
    start_N: Tensor  # position of the row's first token
    count_N: Tensor  # tokens drawn
    done_N: Tensor
    tokens_NT: Tensor  # one column more than a row can fill
    logprobs_NT: Tensor
    uniforms_NT: Tensor

    @classmethod
    def empty(cls, num_rows: int, max_tokens: int, device: torch.device) -> _State:
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros((num_rows, *shape), dtype=dtype, device=device)

        return cls(
            token_N=zeros(),
            start_N=zeros(),
            count_N=zeros() + 1,
            done_N=zeros(dtype=torch.bool),
            tokens_NT=zeros(max_tokens + 1),
            logprobs_NT=zeros(max_tokens + 1, dtype=torch.float32),
            uniforms_NT=zeros(max_tokens, dtype=torch.float64),
        )

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.token_N.device)
        for f in fields(self):
            tensor = getattr(self, f.name)
            tensor[: len(rows)] = tensor[index]


class RowsInFlight:
    """At most `max_rows` completions at a time, `group_size` of each prompt.

    With `fixed` shapes a step computes a power of two of rows and full widths, so that few sizes occur;
    that is what a captured graph needs, and on CUDA each size becomes one.
    """

    def __init__(
        self, model: DecodingModel, drawing: Drawing, group_size: int, max_rows: int, fixed: bool
    ) -> None:
        self.model, self.drawing, self.group_size, self.fixed = model, drawing, group_size, fixed
        self.max_rows = max(max_rows, group_size)
        # A prompt may be down to one row while others start; beyond twice the usual number, new ones wait.
        self.max_prompts = min(self.max_rows, 2 * self.max_rows // group_size)
        text, device = model.language_model.config, model.embeddings.weight.device
        size = CacheSize(
            layers=text.num_hidden_layers,
            kv_heads=text.num_key_value_heads,
            head_dim=text.hidden_size // text.num_attention_heads,
            rows=self.max_rows,
            prompts=self.max_prompts + 1,  # one stays empty: see `RowCache.arrange`
            tokens=drawing.max_tokens,
        )
        self.cache = RowCache(size, model.dtype, device, fused=device.type == "cpu" and not fixed)
        self.state = _State.empty(self.max_rows, drawing.max_tokens, device)
        self.stop_ids = torch.tensor(drawing.stop_ids, device=device)
        self.owner_of_row: list[int | None] = []  # None once it has been taken out
        self.prompt_of_row: list[int] = []
        self.drawn_of_row: list[int] = []  # tokens drawn, as if it had not stopped
        self.prompt_widths: list[int] = []
        self.graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph | None] = {}
        # One memory pool for all: they run one after the other, and their results lie in `state`.
        self.graph_pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def fits(self, model: DecodingModel, drawing: Drawing, group_size: int, max_rows: int) -> bool:
        """Whether these rows, all finished, can serve such a call."""
        same = self.model == model and self.drawing == drawing and self.group_size == group_size
        return same and max_rows <= self.max_rows <= 2 * max_rows

    @property
    def num_live(self) -> int:
        return sum(owner is not None for owner in self.owner_of_row)

    @property
    def room(self) -> int:
        """Prompts that can be admitted now."""
        rows = (self.max_rows - len(self.owner_of_row)) // self.group_size
        return min(rows, self.max_prompts - len(self.prompt_widths))

    def admit(self, prompts: Prefilled, uniforms_NT: Tensor | None, owners: Sequence[int]) -> None:
        """Add the rows of new prompts and draw their first tokens; `uniforms_NT` is None where greedy."""
        first, count = len(self.owner_of_row), len(owners)
        rows, state = slice(first, first + count), self.state
        self.cache.put(prompts.layers, prompts.boundaries, len(self.prompt_widths))
        repeat = torch.arange(count) // self.group_size
        state.start_N[rows] = torch.tensor(prompts.next_positions)[repeat].to(state.start_N.device)
        if uniforms_NT is not None:
            state.uniforms_NT[rows] = uniforms_NT.to(state.uniforms_NT.device)
        state.count_N[rows], state.done_N[rows] = 0, False
        self._record(rows, prompts.hidden_BD.repeat_interleave(self.group_size, 0))
        widths = [b - a for a, b in zip(prompts.boundaries, prompts.boundaries[1:], strict=False)]
        self.prompt_of_row += (repeat + len(self.prompt_widths)).tolist()
        self.prompt_widths += widths
        self.owner_of_row += owners
        self.drawn_of_row += [1] * count
        self._arrange()

    def step(self) -> None:
        """One more token for every row."""
        if self.cache.own_kv.is_cuda and self.fixed:
            self._replay()
        else:
            self._step()
        self.drawn_of_row = [n + 1 for n in self.drawn_of_row]

    def take_finished(self) -> list[Finished]:
        """Rows that ended since the last look."""
        done = self.state.done_N[: len(self.owner_of_row)].tolist()
        rows = [r for r, owner in enumerate(self.owner_of_row) if done[r] and owner is not None]
        if not rows:
            return []
        counts = self.state.count_N[rows].tolist()
        tokens, logprobs = self.state.tokens_NT[rows].tolist(), self.state.logprobs_NT[rows].tolist()
        taken = []
        for row, count, ids, values in zip(rows, counts, tokens, logprobs, strict=True):
            owner = self.owner_of_row[row]
            assert owner is not None
            taken.append(Finished(owner, ids[:count], values[:count]))
            self.owner_of_row[row] = None
        return taken

    def drop_finished(self) -> None:
        """Move the live rows, and the prompts they need, to the front."""
        rows = [r for r, owner in enumerate(self.owner_of_row) if owner is not None]
        prompts = sorted({self.prompt_of_row[r] for r in rows})
        self.cache.keep(rows, prompts)
        self.state.keep(rows)
        moved = {prompt: i for i, prompt in enumerate(prompts)}
        self.owner_of_row = [self.owner_of_row[r] for r in rows]
        self.prompt_of_row = [moved[self.prompt_of_row[r]] for r in rows]
        self.drawn_of_row = [self.drawn_of_row[r] for r in rows]
        self.prompt_widths = [self.prompt_widths[p] for p in prompts]
        self._arrange()

    def _arrange(self) -> None:
        rows, prompts = len(self.owner_of_row), len(self.prompt_widths)
        shape = (rows, prompts, max(map(self.prompt_of_row.count, range(prompts)), default=0))
        if self.fixed:
            width = _power_of_two(rows)
            slots = min(_power_of_two(prompts + 1), self.max_prompts + 1)
            shape = (min(width, self.max_rows), slots, self.group_size)
            self.state.done_N[rows:width] = True
            self.state.count_N[rows:width] = 1
        self.cache.arrange(self.prompt_of_row, shape)

    def _step(self) -> None:
        N, state = self.cache.shape[0], self.state
        filled_N = state.count_N[:N] - 1
        if self.fixed:
            widths = self.cache.prompt_kv.shape[4], self.drawing.max_tokens
        else:
            widths = max(self.prompt_widths), min(max(self.drawn_of_row), self.drawing.max_tokens)
        self.cache.begin(filled_N, *widths)
        x_ND = self.model.embeddings(state.token_N[:N])
        rotation = text_rotation(self.model.language_model, state.start_N[:N] + filled_N)
        self._record(slice(0, N), run_layers(self.model.language_model, x_ND, rotation, self.cache.attend))

    def _record(self, rows: slice, hidden_ND: Tensor) -> None:
        """Draw the next token of these rows and write it down; rows that are done stay as they are."""
        state, last = self.state, self.drawing.max_tokens - 1
        count_N, at_N1 = state.count_N[rows], state.count_N[rows, None]
        logits_NV = self.drawing.processor(self.model.head(hidden_ND))
        if self.drawing.greedy:
            token_N = logits_NV.argmax(-1)
        else:
            uniforms_N = state.uniforms_NT[rows].gather(1, at_N1.clamp(max=last))[:, 0]
            token_N = draw(logits_NV, uniforms_N)
        logprob_N = logits_NV.log_softmax(-1).gather(-1, token_N[:, None])[:, 0]
        state.token_N[rows] = token_N
        # Behind a finished row's last token lies a column that nobody reads.
        state.tokens_NT[rows].scatter_(1, at_N1, token_N[:, None])
        state.logprobs_NT[rows].scatter_(1, at_N1, logprob_N[:, None])
        going_N = ~state.done_N[rows]
        count_N += going_N
        stopped_N = (token_N[:, None] == self.stop_ids).any(1)
        state.done_N[rows] |= stopped_N | (count_N > last)

    def _replay(self) -> None:
        key = (*self.cache.shape, self.cache.prompt_kv.shape[4])
        if key not in self.graphs:
            # The first step of a size runs as it is, which also sets up what must not happen in a capture.
            if any(held[3] != key[3] for held in self.graphs):
                # What they read has moved. A pool that has lost all its graphs does not take new ones.
                self.graphs, self.graph_pool = {}, torch.cuda.graph_pool_handle()
            self.graphs[key] = None
            self._step()
            return
        graph = self.graphs[key]
        if graph is None:
            graph = self.graphs[key] = torch.cuda.CUDAGraph()
            # Another thread, which prepares the next prompts, may go on meanwhile.
            with torch.cuda.graph(graph, pool=self.graph_pool, capture_error_mode="thread_local"):
                self._step()
        graph.replay()


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
