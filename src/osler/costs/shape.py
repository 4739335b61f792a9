"""The sizes of a Qwen2-VL or Qwen2.5-VL, read from its `config.json`, and its parameter counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osler.errors import BadInput

FAMILIES = ("qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True)
class TowerShape:
    """The vision tower; sizes in values, a patch is its input unit."""

    depth: int
    width: int
    mlp_width: int
    mlp_matrices: int  # 2, or 3 where the MLP is gated
    heads: int
    patch_size: int  # pixels
    patch_values: int  # numbers of one patch
    merge: int  # patches per image token
    out_width: int
    window_patches: int = 0  # patches of an attention window; 0 = every layer sees the whole image
    full_layers: int = 0  # layers that see the whole image where the others see windows

    @property
    def block_matrix_parameters(self) -> int:
        return 4 * self.width**2 + self.mlp_matrices * self.width * self.mlp_width

    @property
    def merger_matrix_parameters(self) -> int:
        merged = self.merge * self.width
        return merged * (merged + self.out_width)

    @property
    def parameters(self) -> int:
        norm = self.width if self.mlp_matrices == 3 else 2 * self.width  # RMSNorm, else LayerNorm
        biases = 4 * self.width + (self.mlp_matrices - 1) * self.mlp_width + self.width
        block = self.block_matrix_parameters + biases + 2 * norm
        merger = self.merger_matrix_parameters + self.merge * self.width + self.out_width + norm
        return self.patch_values * self.width + self.depth * block + merger


@dataclass(frozen=True)
class ModelShape:
    """A whole model; `queries` and `keys` are heads times head size."""

    tower: TowerShape
    layers: int
    width: int
    queries: int
    keys: int
    heads: int
    mlp_width: int
    vocabulary: int
    tied: bool  # the head is the embedding matrix

    @property
    def layer_matrix_parameters(self) -> int:
        return self.width * (2 * self.queries + 2 * self.keys + 3 * self.mlp_width)

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding matrix, and of the head where it is one of its own."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def matrix_parameters(self) -> int:
        """Weights of the layers' matrix products, in language model and tower; embedding and head apart."""
        tower = self.tower
        return (
            self.layers * self.layer_matrix_parameters
            + tower.depth * tower.block_matrix_parameters
            + tower.merger_matrix_parameters
            + tower.patch_values * tower.width
        )

    @property
    def language_model_parameters(self) -> int:
        layer = self.layer_matrix_parameters + self.queries + 2 * self.keys + 2 * self.width
        return self.layers * layer + self.width + self.embedding_parameters

    @property
    def parameters(self) -> int:
        return self.language_model_parameters + self.tower.parameters

    def lora_parameters(self, rank: int) -> int:
        """Of an adapter on every linear layer of the language model's layers."""
        inputs = 3 * self.width + self.queries + 2 * self.width + self.mlp_width
        outputs = self.queries + 2 * self.keys + self.width + 2 * self.mlp_width + self.width
        return self.layers * rank * (inputs + outputs)


QWEN2_VL_2B = ModelShape(
    tower=TowerShape(
        depth=32,
        width=1280,
        mlp_width=5120,
        mlp_matrices=2,
        heads=16,
        patch_size=14,
        patch_values=1176,
        merge=4,
        out_width=1536,
    ),
    layers=28,
    width=1536,
    queries=1536,
    keys=256,
    heads=12,
    mlp_width=8960,
    vocabulary=151_936,
    tied=True,
)


def model_shape(config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
    """From the contents of a checkpoint's `config.json`, nested or flat as the hub's older files are.

    Raises BadInput for a family that is not known here, or where a size is missing.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise BadInput(f"{where}: family {family} is not supported here; supported: {', '.join(FAMILIES)}")
    text = config.get("text_config") or config
    try:
        head = text["hidden_size"] // text["num_attention_heads"]
        return ModelShape(
            tower=_tower(config["vision_config"], family),
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            queries=text["num_attention_heads"] * head,
            keys=text["num_key_value_heads"] * head,
            heads=text["num_attention_heads"],
            mlp_width=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        )
    except KeyError as error:
        raise BadInput(f"{where}: {error.args[0]} is missing") from error


def _tower(vision: Mapping[str, Any], family: str) -> TowerShape:
    patch, merge = vision.get("patch_size", 14), vision.get("spatial_merge_size", 2)
    channels = vision.get("in_channels") or vision.get("in_chans") or 3
    values = channels * vision.get("temporal_patch_size", 2) * patch**2
    depth, heads = vision["depth"], vision["num_heads"]
    if family == "qwen2_vl":
        width = vision["embed_dim"]
        return TowerShape(
            depth=depth,
            width=width,
            mlp_width=int(width * vision.get("mlp_ratio", 4)),
            mlp_matrices=2,
            heads=heads,
            patch_size=patch,
            patch_values=values,
            merge=merge**2,
            out_width=vision["hidden_size"],
        )
    return TowerShape(
        depth=depth,
        width=vision["hidden_size"],
        mlp_width=vision["intermediate_size"],
        mlp_matrices=3,
        heads=heads,
        patch_size=patch,
        patch_values=values,
        merge=merge**2,
        out_width=vision["out_hidden_size"],
        window_patches=(vision["window_size"] // patch) ** 2,
        full_layers=len(vision["fullatt_block_indexes"]),
    )
