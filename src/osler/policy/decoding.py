"""The weights that decoding reads: the policy's own, or a copy of them in the precision of the products."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from osler.policy.load import Policy


@dataclass(frozen=True)
class DecodingModel:
    """What one decoding step calls."""

    embeddings: Any
    language_model: Any
    head: Any
    dtype: torch.dtype  # of keys and values


def decoding_model(policy: Policy) -> DecodingModel:
    """The weights as they are now.

    Autocast would cast fp32 matrices again for every token. Where it is on, they are cast once per call,
    into the same memory each time; norms, embeddings and the tower are shared with the policy.
    """
    model = policy.model
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    parts = (model.model.language_model, head)
    dtype = embeddings.weight.dtype
    if policy.precision == "bf16" and dtype != torch.bfloat16:
        parts, dtype = _cast(policy, parts), torch.bfloat16
    return DecodingModel(embeddings, *parts, dtype)


def _cast(policy: Policy, parts: tuple[Any, Any]) -> tuple[Any, Any]:
    linear = [m for part in parts for m in part.modules() if isinstance(m, nn.Linear)]
    originals = list({id(p): p for m in linear for p in m.parameters(recurse=False)}.values())
    held = policy.kept.get("cast")
    if held is not None and [id(p) for p in held[0]] == [id(p) for p in originals]:
        for copied, original in zip(held[1], originals, strict=True):
            copied.copy_(original)
        return held[2]
    copies = [nn.Parameter(p.detach().to(torch.bfloat16), requires_grad=False) for p in originals]
    shared = {id(p): p for part in parts for p in part.parameters()}
    replaced = {id(p): c for p, c in zip(originals, copies, strict=True)}
    twin = copy.deepcopy(parts, {**shared, **replaced})
    policy.kept["cast"] = (originals, copies, twin)
    return twin
