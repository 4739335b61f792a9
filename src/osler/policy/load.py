"""Load a policy: model, tokenizer and image processor of a checkpoint folder or hub id.

Safetensors only, remote code never. Every key of the checkpoint must land in the model: a partial load
is refused, because continuing from half-random weights looks like training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import cached_file

from osler.data.images import image_digest, open_image
from osler.data.views import View
from osler.errors import BadInput
from osler.policy.bounded import BoundedCache
from osler.policy.features import FeatureCache
from osler.policy.inputs import ImageInputs, PromptBatch, PromptInputs, collate, mrope_positions
from osler.policy.logits import LogitsProcessor
from osler.prompts import Template, messages
from osler.records import Question

SUPPORTED_FAMILIES = {"qwen2_vl": "quick_gelu", "qwen2_5_vl": "silu"}  # and the activation of their towers
PHANTOM_BASE = Path(__file__).parents[1] / "phantom_base" / "weights"
IMAGE_CACHE_BYTES = 2 * 2**30  # 220 images of 512 tokens, 1,200 MRI slices of OmniMedVQA


@dataclass
class Policy:
    """A loaded model with everything that turns questions into its inputs."""

    model: Any  # Qwen2VLForConditionalGeneration or Qwen2_5_VLForConditionalGeneration
    tokenizer: Any
    image_processor: Any
    path: str  # as given
    folder: Path | None  # where its files lie, None for a hub id
    mask_placeholders: bool = True
    precision: str = "fp32"
    is_merged: bool = False  # an adapter was merged into its base: these weights lie in no file
    kept: dict[str, Any] = field(default_factory=dict)  # what decoding keeps from call to call
    view: View | None = None  # what is shown instead of each image
    features: FeatureCache | None = None  # image tokens already computed: see `keep_features`
    images: BoundedCache[ImageInputs] = field(
        default_factory=lambda: BoundedCache(IMAGE_CACHE_BYTES, lambda image: image.pixel_values.nbytes)
    )
    _special_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        added = self.tokenizer.added_tokens_decoder.values()
        self._special_tokens = tuple(t.content for t in added if t.special)

    @property
    def device(self) -> torch.device:
        return self.model.model.language_model.norm.weight.device

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.stop_ids[0])

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end a completion."""
        eos = self.model.generation_config.eos_token_id
        if eos is None:
            eos = self.tokenizer.eos_token_id
        return tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)

    @property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Vision tokens: they belong to prompts and must never be sampled."""
        config = self.model.config
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        ids = {getattr(config, name, None) for name in (*names, "vision_token_id")}
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        return tuple(sorted(i for i in ids if isinstance(i, int) and i < vocabulary))

    def logits_processor(self, temperature: float) -> LogitsProcessor:
        masked = self.placeholder_ids if self.mask_placeholders else ()
        return LogitsProcessor(masked_ids=masked, temperature=temperature)

    def prompt_inputs(self, question: Question, template: Template) -> PromptInputs:
        """Chat-format, tokenize and preprocess one question.

        Raises BadInput where the text contains the model's control tokens or an image cannot be read.
        """
        chat = messages(question, template)
        self._refuse_control_tokens(question, template)
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        images = tuple(self.image_inputs(path) for path in question.images)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        image_id = self.model.config.image_token_id
        merge = self.model.config.vision_config.spatial_merge_size
        counts = iter([i.grid_thw[0] * i.grid_thw[1] * i.grid_thw[2] // merge**2 for i in images])
        expanded: list[int] = []
        for token in ids:
            expanded += [image_id] * next(counts) if token == image_id else [token]
        positions, following = mrope_positions(expanded, image_id, [i.grid_thw for i in images], merge)
        limit = self.model.config.text_config.max_position_embeddings
        if len(expanded) >= limit:
            raise BadInput(f"question {question.id}: prompt of {len(expanded)} tokens exceeds {limit}")
        return PromptInputs(torch.tensor(expanded), positions, following, images)

    def image_inputs(self, path: str) -> ImageInputs:
        """Decode and preprocess one image as this policy's view shows it, once within the cache's bounds.

        Raises BadInput where the image cannot be read.
        """
        digest, size = image_digest((path,)), self.image_processor.size
        bounds = size["shortest_edge"], size["longest_edge"]  # they may be set anew
        as_it_is = self.images.get((digest, *bounds), lambda: self._preprocess(digest, open_image(path)))
        if self.view is None:
            return as_it_is
        key = self.view.key(self._seen_size(as_it_is), digest)
        return self.images.get((key, *bounds), lambda: self._through_view(path, as_it_is, key))

    def _seen_size(self, image: ImageInputs) -> tuple[int, int]:
        """Width and height in pixels at which the model sees an image."""
        patch = self.model.config.vision_config.patch_size
        return image.grid_thw[2] * patch, image.grid_thw[1] * patch

    def _through_view(self, path: str, as_it_is: ImageInputs, key: str) -> ImageInputs:
        assert self.view is not None
        seen = open_image(path).resize(self._seen_size(as_it_is), self.image_processor.resample)
        return self._preprocess(key, self.view.show(seen, as_it_is.digest))

    def _preprocess(self, key: str, image: Image) -> ImageInputs:
        values = self.image_processor(images=[image], return_tensors="pt")
        grid = tuple(int(n) for n in values["image_grid_thw"][0])
        return ImageInputs(key, values["pixel_values"], grid)  # type: ignore[arg-type]

    def seeing(self, view: View | None) -> Policy:
        """The same policy, its caches shared, with every image shown through `view`."""
        return replace(self, view=view)

    def keep_features(self) -> None:
        """The vision tower no longer changes from here on: each image walks it once and is kept."""
        self.model.model.visual.requires_grad_(False)
        self.features = FeatureCache(self.model.model.visual)

    def batch(self, prompts: Sequence[PromptInputs]) -> PromptBatch:
        """Prompts on the device, without the pixels where the features are kept."""
        return collate(prompts, self.device, with_pixels=self.features is None)

    def _refuse_control_tokens(self, question: Question, template: Template) -> None:
        # A template that shows no choices still has them scored.
        text = "\n".join([template.user_text(question), *question.choices])
        for token in self._special_tokens:
            if token in text:
                raise BadInput(
                    f"question {question.id} ({question.source}): text contains the control token {token}; "
                    "remove it from the data"
                )


@torch.no_grad()
def resolve_checkpoint(path: str) -> str:
    """A name or folder as given -> what Hugging Face loads: a folder with config.json, or a hub id."""
    if path == "phantom-base":
        return str(PHANTOM_BASE)
    folder = Path(path)
    if folder.is_dir():
        if (folder / "config.json").is_file() and (folder / "checkpoints").is_dir():
            return str(_final_checkpoint(folder))
        return str(folder)
    if folder.is_absolute() or path.startswith(".") or path.count("/") != 1:
        raise BadInput(f"model {path}: no such folder, and not a hub id (owner/name)")
    return path


def _final_checkpoint(run: Path) -> Path:
    steps = sorted(p for p in (run / "checkpoints").glob("step_*") if (p / "COMPLETE").is_file())
    if not steps:
        raise BadInput(f"run {run}: no complete checkpoint; train it further with --resume")
    return steps[-1]


def load_policy(
    path: str,
    *,
    revision: str = "",
    precision: str = "fp32",
    min_pixels: int = 3136,
    max_pixels: int = 401408,
    mask_placeholders: bool = True,
    master_weights: bool = True,
    device: str | torch.device | None = None,
) -> Policy:
    """Load model, tokenizer and image processor.

    A folder with `adapter_config.json` (LoRA) is loaded on its base model and merged.
    Weights are held in fp32, or in bf16 without `master_weights`; `precision="bf16"` computes in bf16.

    Raises BadInput where the family is not supported, a file is missing, or a key does not load.
    """
    source = resolve_checkpoint(path)
    folder = Path(source) if Path(source).is_dir() else None
    if folder is not None and (folder / "adapter_config.json").is_file():
        return _load_adapter(
            path,
            folder,
            precision=precision,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            mask_placeholders=mask_placeholders,
            master_weights=master_weights,
            device=device,
        )
    hub: dict[str, Any] = {"trust_remote_code": False}
    if revision:
        hub["revision"] = revision
    if folder is not None:
        hub["local_files_only"] = True
    with _loading(path):
        config = _supported_config(path, source, hub)
        tokenizer = _load_tokenizer(source, hub)
        processor = AutoImageProcessor.from_pretrained(
            source,
            backend="pil",
            size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
            **hub,
        )
        dtype = torch.float32 if master_weights else torch.bfloat16
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **hub
        )
        model, info = loaded
    refuse_partial_load(path, info)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.eval()
    return Policy(model, tokenizer, processor, path, folder, mask_placeholders, precision)


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """What transformers says of a checkpoint it cannot load, in one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise BadInput(f"model {path}: cannot be loaded: {first_line}") from error


def _supported_config(path: str, source: str, hub: dict[str, Any]) -> Any:
    config = AutoConfig.from_pretrained(source, **hub)
    if config.model_type not in SUPPORTED_FAMILIES:
        raise BadInput(
            f"model {path}: family {config.model_type} is not supported here; "
            f"supported: {', '.join(SUPPORTED_FAMILIES)}"
        )
    given = config.text_config.hidden_act, config.vision_config.hidden_act
    if given != ("silu", SUPPORTED_FAMILIES[config.model_type]):
        raise BadInput(
            f"model {path}: config.json has hidden_act {given[0]} (text) and {given[1]} (vision); the family "
            f"{config.model_type} has silu and {SUPPORTED_FAMILIES[config.model_type]}"
        )
    return config


def _load_tokenizer(source: str, hub: dict[str, Any]) -> Any:
    """Nothing is cut or padded. Left set, each call would unset them, which two threads may not do."""
    tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def refuse_partial_load(path: str, info: dict[str, Any]) -> None:
    """Raise BadInput where a key is missing, unexpected, mismatched or failed to load."""
    for kind, keys in info.items():
        if keys:
            some = sorted(str(k) for k in keys)[:3]
            raise BadInput(f"model {path}: {len(keys)} {kind.replace('_', ' ')}, e.g. {', '.join(some)}")


def _load_adapter(path: str, folder: Path, **options: Any) -> Policy:
    from peft import PeftModel

    base, revision = _adapter_base(folder)
    policy = load_policy(base, revision=revision, **options)
    merged: Any = PeftModel.from_pretrained(policy.model, str(folder)).merge_and_unload()
    return replace(policy, model=merged, path=path, folder=folder, is_merged=True)


def _adapter_base(folder: Path) -> tuple[str, str]:
    """What an adapter sits on, and its hub revision; a path in it may start from the adapter's folder."""
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = str(adapter["base_model_name_or_path"])
    beside = folder / base
    return (str(beside.resolve()) if beside.is_dir() else base), adapter.get("revision") or ""


def model_family(path: str) -> str:
    """The family that a checkpoint's config states, e.g. "qwen2_vl"; of an adapter, its base's.

    Raises BadInput where there is no configuration, or one that this version of transformers does not know.
    """
    source = resolve_checkpoint(path)
    folder = Path(source)
    if (folder / "adapter_config.json").is_file():
        return model_family(_adapter_base(folder)[0])
    with _loading(path):
        config = AutoConfig.from_pretrained(
            source, trust_remote_code=False, local_files_only=folder.is_dir() or None
        )
    return str(config.model_type)


def checkpoint_folder(path: str, revision: str = "") -> Path:
    """The folder that holds a model's files; for a hub id, the one in the local cache.

    Raises BadInput where a hub id was never downloaded.
    """
    source = resolve_checkpoint(path)
    if Path(source).is_dir():
        return Path(source)
    found = cached_file(source, "config.json", revision=revision or None, local_files_only=True)
    if found is None:
        raise BadInput(f"model {path}: not in the local cache")
    return Path(found).parent


def model_digest(folder: Path) -> str:
    """SHA-256 over the weight files of a checkpoint folder, in name order, and of an adapter's base.

    Optimizer state does not count. A base on the hub stands by its name: its files may not be here.
    """
    digest = hashlib.sha256()
    files = sorted(f for f in folder.glob("*.safetensors") if f.name != "optimizer.safetensors")
    if not files:
        raise BadInput(f"model {folder}: no safetensors file")
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    if (folder / "adapter_config.json").is_file():
        base, revision = _adapter_base(folder)
        source = resolve_checkpoint(base)
        known = model_digest(Path(source)) if Path(source).is_dir() else f"{source}@{revision}"
        digest.update(known.encode())
    return digest.hexdigest()
