"""The slow obvious version: the stock model, one sequence at a time, nothing shared."""

from __future__ import annotations

import torch
from torch import Tensor

from osler.policy.inputs import PromptInputs
from osler.policy.load import Policy


def hugging_face_inputs(policy: Policy, prompt: PromptInputs, completion: list[int] | None = None) -> dict:
    """What the stock model takes for one sequence."""
    ids = torch.cat([prompt.input_ids, torch.tensor(completion or [], dtype=torch.long)])[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == policy.model.config.image_token_id).int(),
    }
    if prompt.images:
        inputs["pixel_values"] = torch.cat([i.pixel_values for i in prompt.images])
        inputs["image_grid_thw"] = torch.tensor([i.grid_thw for i in prompt.images])
    return inputs


def naive_logprobs(policy: Policy, prompt: PromptInputs, completion: list[int], temperature: float) -> Tensor:
    """Log-probability of each completion token, from one plain forward of prompt and completion."""
    processor = policy.logits_processor(temperature)
    logits = policy.model(**hugging_face_inputs(policy, prompt, completion)).logits[0]
    logprobs = processor(logits).log_softmax(-1)
    start = prompt.input_ids.shape[0]
    rows = torch.arange(start - 1, start - 1 + len(completion))
    return logprobs[rows, torch.tensor(completion)]
