"""How a model was trained, as far as asking it depends on that: template, image bounds, precision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from osler.config import TrainConfig, from_json
from osler.errors import BadInput
from osler.evaluate.server import SCHEME
from osler.policy.load import resolve_checkpoint

DEFAULT_TEMPLATE = "think"
DEFAULT_COMPLETION_TOKENS = 256
_AREAS = "Qwen2VL"  # image processors whose bounds are numbers of pixels
DEFAULT_PIXELS = (3136, 401408)  # bounds of both papers' scripts: 4 to 512 image tokens


@dataclass(frozen=True, kw_only=True)
class HowTrained:
    """The settings under which a model should be asked unless the user says otherwise."""

    template: str
    min_pixels: int
    max_pixels: int
    precision: str  # "fp32" or "bf16"
    max_completion_tokens: int
    run: Path | None  # the training run, None for a model that no run of ours made
    config: TrainConfig | None  # of that run

    @property
    def says(self) -> str:
        """Where the settings come from, in words."""
        return "the default" if self.run is None else f"as {self.run.name} was trained"


def how_trained(model: str) -> HowTrained:
    """Settings of a run folder, a checkpoint inside one, another checkpoint folder, a hub id or a server.

    A checkpoint folder that is no run of ours states its own pixel bounds; they are kept where they are
    tighter than the papers' (the hub's Qwen2-VL allows 16,384 tokens per image, which nobody trained with).
    Raises BadInput for a model that does not exist or a run whose configuration cannot be read.
    """
    if model.startswith(SCHEME):
        return _untrained(*DEFAULT_PIXELS)
    folder = Path(resolve_checkpoint(model))
    run = folder.parent.parent
    if folder.parent.name == "checkpoints" and (run / "config.json").is_file():
        try:
            values = json.loads((run / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{run / 'config.json'}: not JSON: {error}") from error
        config = from_json(values, where=str(run / "config.json"))
        return HowTrained(
            template=config.template,
            min_pixels=config.model.min_pixels,
            max_pixels=config.model.max_pixels,
            precision=config.model.precision,
            max_completion_tokens=config.grpo.max_completion_tokens,
            run=run,
            config=config,
        )
    return _untrained(*stored_pixel_bounds(folder))


def _untrained(min_pixels: int, max_pixels: int) -> HowTrained:
    return HowTrained(
        template=DEFAULT_TEMPLATE,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        precision="fp32",
        max_completion_tokens=DEFAULT_COMPLETION_TOKENS,
        run=None,
        config=None,
    )


def stored_pixel_bounds(folder: Path) -> tuple[int, int]:
    """Smallest and largest image (pixels) of a checkpoint folder, within the papers' bounds.

    Only the image processor of Qwen's families states areas; the sizes of others are lengths.
    """
    low, high = DEFAULT_PIXELS
    stored = folder / "preprocessor_config.json"
    if not stored.is_file():
        return low, high
    try:
        values = json.loads(stored.read_text(encoding="utf-8"))
        if not str(values.get("image_processor_type", _AREAS)).startswith(_AREAS):
            return low, high
        size = values.get("size") or {}
        largest = int(size.get("longest_edge") or values.get("max_pixels") or high)
        smallest = int(size.get("shortest_edge") or values.get("min_pixels") or low)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{stored}: cannot read the pixel bounds ({error!r})") from error
    return min(smallest, high), min(largest, high)
