"""The one forward that training calls: a group's log-probabilities against its shared prompt.

Image and prompt are computed once per question, with gradient, and the G completions against them; the
language-model head runs only where a completion token is predicted. Every parameter that trains is used
inside this one `nn.Module.forward`, so that data-parallel wrappers see all of them.

Shapes: B prompts, P prompt positions, G completions each, T completion tokens, M real completion tokens
of the batch, V vocabulary, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from osler.policy.attention import DecodeLayout, GroupLayout, PromptCache
from osler.policy.inputs import PromptBatch
from osler.policy.logits import LogitsProcessor

HEAD_CHUNK_ELEMENTS = 2**28  # logits held at once (1 GiB in fp32)


def prompt_embeddings(model: Any, batch: PromptBatch) -> Tensor:
    """[B, P, D]: token embeddings with the image features in their placeholders."""
    embeddings = model.get_input_embeddings()(batch.input_ids_BP)
    if batch.pixel_values is None:
        return embeddings
    features = model.model.get_image_features(batch.pixel_values, batch.image_grid_thw, return_dict=True)
    per_image = features.pooler_output
    shown = torch.cat([per_image[i] for i in batch.image_order]).to(embeddings.dtype)
    holders = (batch.input_ids_BP == model.config.image_token_id)[..., None].expand_as(embeddings)
    return embeddings.masked_scatter(holders, shown)


def run_layers(model: Any, embeddings: Tensor, positions: Tensor, layout: Any) -> Tensor:
    """[B, S, D] through the decoder layers and the final norm, with explicit positions [3, B, S]."""
    language_model = model.model.language_model
    # The layout replaces the mask; an empty mapping keeps the stock module from building one.
    masks = dict.fromkeys(("full_attention", "sliding_attention"))
    out = language_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        attention_mask=masks,
        use_cache=False,
        layout=layout,
    )
    return out.last_hidden_state


def prefill(model: Any, batch: PromptBatch) -> tuple[Tensor, PromptCache]:
    """Prompts alone: hidden state of the last position [B, D], and the cache the completions attend to."""
    cache = PromptCache(batch.lengths_B)
    hidden = run_layers(model, prompt_embeddings(model, batch), batch.position_ids_3BP, cache)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, batch.lengths_B - 1], cache


def decode(model: Any, token_ids_N: Tensor, positions_N: Tensor, layout: DecodeLayout) -> Tensor:
    """One more token for every row: hidden state [N, D]."""
    embeddings = model.get_input_embeddings()(token_ids_N[:, None])
    hidden = run_layers(model, embeddings, positions_N.view(1, -1, 1).expand(3, -1, 1), layout)
    layout.num_tokens += 1
    return hidden[:, 0]


class PolicyForward(nn.Module):
    """Log-probabilities and entropies of completions under a model."""

    def __init__(self, model: Any, processor: LogitsProcessor, precision: str = "fp32") -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.precision = precision

    def forward(
        self, batch: PromptBatch, completion_ids_BGT: Tensor, completion_mask_BGT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability (with gradient) and entropy (without) of every completion token, in nats.

        Both [B, G, T] in fp32, 0 where `completion_mask_BGT` (bool) is False.
        """
        device_type = completion_ids_BGT.device.type
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            hidden_MD = self._hidden(batch, completion_ids_BGT)[completion_mask_BGT]
            targets_M = completion_ids_BGT[completion_mask_BGT]
            logprobs_M, entropy_M = self._score(hidden_MD, targets_M)
        zeros = torch.zeros(completion_ids_BGT.shape, device=hidden_MD.device)
        logprobs = zeros.masked_scatter(completion_mask_BGT, logprobs_M)
        return logprobs, zeros.masked_scatter(completion_mask_BGT, entropy_M)

    def _hidden(self, batch: PromptBatch, completion_ids_BGT: Tensor) -> Tensor:
        """Hidden state that predicts each completion token: [B, G, T, D]."""
        B, G, T = completion_ids_BGT.shape
        P = batch.input_ids_BP.shape[1]
        # The last token of a completion predicts nothing, so it is never an input.
        inputs = completion_ids_BGT[:, :, :-1].reshape(B, G * (T - 1))
        embeddings = torch.cat(
            [prompt_embeddings(self.model, batch), self.model.get_input_embeddings()(inputs)], dim=1
        )
        steps = torch.arange(T - 1, device=inputs.device).repeat(G)
        following = (batch.next_position_B[:, None] + steps).expand(3, -1, -1)
        positions = torch.cat([batch.position_ids_3BP, following], dim=2)
        layout = GroupLayout(batch.lengths_B, P, G, T - 1)
        hidden = run_layers(self.model, embeddings, positions, layout)
        rows = torch.arange(B, device=hidden.device)
        last_prompt = hidden[rows, batch.lengths_B - 1][:, None, None].expand(B, G, 1, -1)
        return torch.cat([last_prompt, hidden[:, P:].view(B, G, T - 1, hidden.shape[-1])], dim=2)

    def _score(self, hidden_MD: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, HEAD_CHUNK_ELEMENTS // self.model.get_output_embeddings().weight.shape[0])
        if hidden_MD.shape[0] <= rows:
            return self._score_chunk(hidden_MD, targets_M)
        parts = [
            checkpoint(self._score_chunk, hidden, targets, use_reentrant=False)
            for hidden, targets in zip(hidden_MD.split(rows), targets_M.split(rows), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _score_chunk(self, hidden_MD: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
        logits_MV = self.processor(self.model.get_output_embeddings()(hidden_MD))
        logprobs_MV = logits_MV.log_softmax(-1)
        with torch.no_grad():
            entropy_M = torch.special.entr(logprobs_MV.exp()).sum(-1)
        return logprobs_MV.gather(-1, targets_M[:, None])[:, 0], entropy_M
