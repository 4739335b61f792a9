"""A model by its name, ready to be asked: a policy of ours, a checkpoint of another family, or a server."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from osler.errors import BadInput
from osler.evaluate.endpoint import Endpoint
from osler.evaluate.plain_generate import load_plain
from osler.evaluate.replies import AnsweringModel, EngineModel
from osler.evaluate.server import SCHEME, Address, EndpointOptions
from osler.policy.load import (
    SUPPORTED_FAMILIES,
    Policy,
    checkpoint_folder,
    load_policy,
    model_digest,
    model_family,
    resolve_checkpoint,
)
from osler.records import Prediction


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model that can be asked, and what a run folder records of it."""

    answering: AnsweringModel
    checkpoint: str  # what was loaded; of a server its address
    digest: str  # of the weights; of a server "unverifiable:" and its address
    settings: dict[str, Any]  # what changes an answer, beside the sampling
    device: str
    device_name: str
    policy: Policy | None = None  # where it is one of ours
    # What a server said and took, from its answers and the facts of earlier calls.
    facts: Callable[[Sequence[Prediction], Mapping[str, Any]], dict[str, Any]] | None = None

    def needs_policy(self, what: str) -> Policy:
        """The policy. Raises BadInput, naming what asked for it, where this is none of ours."""
        if self.policy is None:
            raise BadInput(
                f"{what}: looks inside the model, which works for checkpoints of "
                f"{' and '.join(SUPPORTED_FAMILIES)} only; {self.checkpoint} can be asked and nothing more"
            )
        return self.policy


def open_model(
    model: str,
    *,
    min_pixels: int,
    max_pixels: int,
    precision: str,
    endpoint: EndpointOptions | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Opened:
    """Load a checkpoint, or get ready to ask a server; a local one by the family that its config states.

    `endpoint` is how to ask a server, None for the defaults. Raises BadInput where a local model gets such
    options, or cannot be loaded.
    """
    if model.startswith(SCHEME):
        address = Address.parse(model)
        server = Endpoint(
            address, endpoint or EndpointOptions(), min_pixels=min_pixels, max_pixels=max_pixels, note=note
        )
        return Opened(
            answering=server,
            checkpoint=address.url,
            digest=address.digest,
            settings=server.settings,
            device="server",
            device_name=address.host,
            facts=server.facts,
        )
    if endpoint is not None:
        raise BadInput(f"model {model}: is no server; options of an endpoint go with {SCHEME}URL#name only")
    settings: dict[str, Any] = {
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "precision": precision,
    }
    if model_family(model) in SUPPORTED_FAMILIES:
        policy = load_policy(model, **settings)
        policy.keep_features()
        return _local(model, EngineModel(policy), policy.device, settings, policy)
    plain = load_plain(model, **settings, note=note)
    return _local(model, plain, plain.device, settings)


def _local(
    model: str,
    answering: AnsweringModel,
    device: torch.device,
    settings: dict[str, Any],
    policy: Policy | None = None,
) -> Opened:
    return Opened(
        answering=answering,
        checkpoint=resolve_checkpoint(model),
        digest=model_digest(checkpoint_folder(model)),
        settings=settings,
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        policy=policy,
    )
