"""The one forward that training calls: a group's log-probabilities against its shared prompt.

Image and prompt are computed once per question, with gradient, and the G completions against them; the
language-model head runs only where a completion token is predicted. Every parameter that trains is used
inside this one `nn.Module.forward`, so that data-parallel wrappers see all of them.

Shapes: B prompts, G completions each, T completion tokens, M real completion tokens of the batch, S packed
tokens, V vocabulary, D hidden size, K key/value heads, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from osler.policy.attention import attention
from osler.policy.cache import KeysValues
from osler.policy.decoder import mrope_rotation, run_layers
from osler.policy.features import FeatureCache
from osler.policy.head import token_logprobs
from osler.policy.inputs import PromptBatch, to_device
from osler.policy.logits import LogitsProcessor
from osler.policy.packing import Packing
from osler.policy.tower import image_features


def prompt_embeddings(
    model: Any, batch: PromptBatch, kept: FeatureCache | None = None, recompute: bool = False
) -> Tensor:
    """[S, D]: token embeddings with the image features, `kept` ones where given, in their placeholders."""
    x_SD = model.get_input_embeddings()(batch.input_ids_S)
    if not batch.images:
        return x_SD
    if kept is not None:
        per_image = kept.features(batch.images)
        shown = to_device(torch.cat([per_image[i] for i in batch.shown]), x_SD.device)
    else:
        assert batch.pixels_XC is not None, "a batch without pixels is for a tower whose features are kept"
        tower = model.model.visual
        features = image_features(tower, batch.pixels_XC, batch.grids, recompute=recompute)
        merged = [t * h * w // tower.spatial_merge_size**2 for t, h, w in batch.grids]
        per_image = list(features.split(merged))
        shown = torch.cat([per_image[i] for i in batch.shown])
    image_SD = (batch.input_ids_S == model.config.image_token_id)[:, None]
    return x_SD.masked_scatter(image_SD, shown.to(x_SD.dtype))


def prefill(
    model: Any, batch: PromptBatch, features: FeatureCache | None = None
) -> tuple[Tensor, list[KeysValues]]:
    """Prompts alone: hidden state of the last position [B, D], and every layer's keys and values."""
    kept: list[KeysValues] = []
    x_SD = prompt_embeddings(model, batch, features)
    return run_packed(model, x_SD, batch.position_ids_3S, Packing(batch.lengths), kept=kept), kept


def run_packed(
    model: Any,
    x_SD: Tensor,
    positions_3S: Tensor,
    packing: Packing,
    *,
    recompute: bool = False,
    kept: list[KeysValues] | None = None,
) -> Tensor:
    """Hidden states [R, D] of the rows that predict something; `kept` collects keys and values."""
    language_model = model.model.language_model
    last = len(language_model.layers) - 1

    def attend(layer: int, q_RHE: Tensor, k_SKE: Tensor, v_SKE: Tensor) -> Tensor:
        if kept is not None:
            kept.append((k_SKE, v_SKE))
        blocks = packing.last_blocks if layer == last else packing.blocks
        return attention(q_RHE, k_SKE, v_SKE, blocks, q_RHE.shape[2] ** -0.5)

    rotation = mrope_rotation(language_model, positions_3S)
    return run_layers(
        language_model, x_SD, rotation, attend, read_rows=packing.read_rows, recompute=recompute
    )


class PolicyForward(nn.Module):
    """Log-probabilities and entropies of completions under a model.

    `recompute` keeps the inputs of each layer alone and computes the rest again in the backward. With
    `features` of a frozen tower the model's own is not asked, and need not be there.
    """

    def __init__(
        self,
        model: Any,
        processor: LogitsProcessor,
        precision: str = "fp32",
        recompute: bool = False,
        features: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.precision = precision
        self.recompute = recompute
        self.features = features

    def forward(
        self,
        batch: PromptBatch,
        completion_ids_BGT: Tensor,
        completion_mask_BGT: Tensor,
        with_entropy: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability (with gradient) and entropy (without) of every completion token, in nats.

        Both [B, G, T] in fp32, 0 where `completion_mask_BGT` (bool) is False, and the entropy 0 everywhere
        unless it is asked for. Tokens behind the last one of the mask are never looked at.
        """
        T = completion_ids_BGT.shape[2]
        counts_T = torch.arange(1, T + 1, device=completion_ids_BGT.device)
        lengths_BG = (completion_mask_BGT * counts_T).amax(2).tolist()
        inputs_BG = [[max(0, n - 1) for n in row] for row in lengths_BG]
        device_type = completion_ids_BGT.device.type
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            packing = Packing(batch.lengths, inputs_BG)
            hidden_RD = self._hidden(batch, completion_ids_BGT, packing)
            logprobs_M, entropy_M = token_logprobs(
                hidden_RD[_predicting_rows(packing, completion_mask_BGT)],
                self.model.get_output_embeddings().weight,
                completion_ids_BGT[completion_mask_BGT],
                self.processor,
                with_entropy,
            )
        zeros = torch.zeros(completion_ids_BGT.shape, device=hidden_RD.device)
        logprobs = zeros.masked_scatter(completion_mask_BGT, logprobs_M)
        return logprobs, zeros.masked_scatter(completion_mask_BGT, entropy_M)

    def _hidden(self, batch: PromptBatch, completion_ids_BGT: Tensor, packing: Packing) -> Tensor:
        """Hidden states [R, D] of the last prompt tokens and the completions' input tokens."""
        device = completion_ids_BGT.device
        rows, positions = [], []
        ids_NT = completion_ids_BGT.flatten(0, 1)
        G = completion_ids_BGT.shape[1]
        for n in range(ids_NT.shape[0]):
            count = packing.completions[n + 1] - packing.completions[n]
            rows.append(ids_NT[n, :count])
            positions.append(batch.next_positions[n // G] + torch.arange(count))
        x_SD = torch.cat(
            [
                prompt_embeddings(self.model, batch, self.features, self.recompute),
                self.model.get_input_embeddings()(torch.cat(rows)),
            ]
        )
        following = torch.cat(positions).to(device).expand(3, -1)
        positions_3S = torch.cat([batch.position_ids_3S, following], dim=1)
        return run_packed(self.model, x_SD, positions_3S, packing, recompute=self.recompute)


def _predicting_rows(packing: Packing, mask_BGT: Tensor) -> Tensor:
    """Row of the hidden states that predicts each token of the mask, [M]."""
    B, G, T = mask_BGT.shape
    first_BG1 = torch.tensor(packing.completions[:-1]).view(B, G, 1) - packing.prompts[-1] + B
    rows_BGT = first_BG1 + torch.arange(-1, T - 1)
    rows_BGT[:, :, 0] = torch.arange(B)[:, None]
    return rows_BGT.to(mask_BGT.device)[mask_BGT]
