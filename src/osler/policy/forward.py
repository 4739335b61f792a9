"""The one forward that training calls: a group's log-probabilities against its shared prompt.

Image and prompt are computed once per question, with gradient, and the G completions against them; the
language-model head runs only where a completion token is predicted. Every parameter that trains is used
inside this one `nn.Module.forward`, so that data-parallel wrappers see all of them.

Shapes: B prompts, G completions each, T completion tokens, M real completion tokens of the batch, S packed
tokens, V vocabulary, D hidden size, K key/value heads, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from osler.policy.attention import attention
from osler.policy.cache import KeysValues
from osler.policy.decoder import mrope_rotation, run_layers
from osler.policy.features import FeatureCache
from osler.policy.head import token_logprobs
from osler.policy.inputs import PromptBatch, PromptInputs, to_device
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
    model: Any,
    batch: PromptBatch,
    tails_BG: Sequence[Sequence[PromptInputs]] = (),
    features: FeatureCache | None = None,
) -> tuple[Tensor, list[KeysValues]]:
    """Prompts alone: hidden state of each one's last token, and every layer's keys and values.

    `batch` holds the trunks and `tails_BG` what the prompts of each go on with (`osler.policy.trunks`): a
    trunk is computed once, and the tails against it as completions are against their prompt. A trunk
    without tails is a prompt. Keys and values are those of whole prompts, one behind the other.
    """
    kept: list[KeysValues] = []
    packing = Packing(batch.lengths, [[len(tail.input_ids) for tail in tails] for tails in tails_BG])
    flat = [tail for tails in tails_BG for tail in tails]
    if not flat:
        x_SD = prompt_embeddings(model, batch, features)
        return run_packed(model, x_SD, batch.position_ids_3S, packing, kept=kept), kept
    device = batch.input_ids_S.device
    ids_M = to_device(torch.cat([tail.input_ids for tail in flat]), device)
    positions_3M = to_device(torch.cat([tail.position_ids for tail in flat], dim=1), device)
    x_SD, positions_3S = _with_following(model, batch, ids_M, positions_3M, features)
    hidden_RD = run_packed(model, x_SD, positions_3S, packing, kept=kept)
    rows, last = (to_device(torch.tensor(n), device) for n in _rows_of_prompts(packing, tails_BG))
    for layer, (k_SKE, v_SKE) in enumerate(kept):  # one by one: the packed ones of a layer go at once
        kept[layer] = k_SKE[rows], v_SKE[rows]
    return hidden_RD[last], kept


def _rows_of_prompts(
    packing: Packing, tails_BG: Sequence[Sequence[PromptInputs]]
) -> tuple[list[int], list[int]]:
    """Packed rows of whole prompts, one behind the other; and each one's last among the rows read."""
    rows: list[int] = []
    last: list[int] = []
    spans = pairwise(packing.completions)
    for b, ((start, end), tails) in enumerate(zip(pairwise(packing.prompts), tails_BG, strict=True)):
        if not tails:
            rows += range(start, end)
            last.append(b)
        for first, behind in islice(spans, len(tails)):
            rows += [*range(start, end), *range(first, behind)]
            last.append(packing.num_prompts + behind - 1 - packing.prompts[-1])
    return rows, last


def _with_following(
    model: Any,
    batch: PromptBatch,
    ids_M: Tensor,
    positions_3M: Tensor,
    features: FeatureCache | None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Embeddings [S, D] and positions [3, S] of the batch with text behind it."""
    x_SD = torch.cat(
        [prompt_embeddings(model, batch, features, recompute), model.get_input_embeddings()(ids_M)]
    )
    return x_SD, torch.cat([batch.position_ids_3S, positions_3M], dim=1)


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
        following = torch.cat(positions).to(device).expand(3, -1)
        x_SD, positions_3S = _with_following(
            self.model, batch, torch.cat(rows), following, self.features, self.recompute
        )
        return run_packed(self.model, x_SD, positions_3S, packing, recompute=self.recompute)


def _predicting_rows(packing: Packing, mask_BGT: Tensor) -> Tensor:
    """Row of the hidden states that predicts each token of the mask, [M]."""
    B, G, T = mask_BGT.shape
    first_BG1 = torch.tensor(packing.completions[:-1]).view(B, G, 1) - packing.prompts[-1] + B
    rows_BGT = first_BG1 + torch.arange(-1, T - 1)
    rows_BGT[:, :, 0] = torch.arange(B)[:, None]
    return rows_BGT.to(mask_BGT.device)[mask_BGT]
