"""Any local Hugging Face vision-language checkpoint as the model, through plain `generate`.

For families that the engine and the trainer do not know. The family is read from the checkpoint's config,
never from its name; code that a checkpoint brings along is not run. Tokenizer, image processor (Pillow's,
the same pixels on every machine) and chat template are the checkpoint's own; its generation defaults are not
used, as they are not for our policies: greedy, or drawn from the whole distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from osler.data.views import View, shown
from osler.errors import BadInput
from osler.evaluate.replies import Reply, read_reply, unreadable
from osler.policy.load import refuse_partial_load, resolve_checkpoint
from osler.prompts import Template, messages
from osler.records import Completion, Question
from osler.rollout.sampling import Sampling, draw, uniforms

ROWS_AT_A_TIME = 8
_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id", "image_token_index")
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


class PlainModel:
    """An answering model (`osler.evaluate.replies.AnsweringModel`) of any family."""

    def __init__(self, model: Any, processor: Any, path: str, *, min_pixels: int, max_pixels: int) -> None:
        self.model, self.processor, self.path = model, processor, path
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.view: View | None = None
        stop = model.generation_config.eos_token_id
        stop = processor.tokenizer.eos_token_id if stop is None else stop
        self.stop_ids = tuple(stop) if isinstance(stop, (list, tuple)) else (int(stop),)
        pad = processor.tokenizer.pad_token_id
        self.pad_id = self.stop_ids[0] if pad is None else int(pad)
        if pad is None:
            processor.tokenizer.pad_token_id = self.pad_id
        processor.tokenizer.padding_side = "left"
        model.generation_config = GenerationConfig(eos_token_id=list(self.stop_ids), pad_token_id=self.pad_id)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def seeing(self, view: View) -> PlainModel:
        """The same model with every image shown through `view`."""
        other = copy(self)
        other.view = view
        return other

    def replies(
        self, questions: Sequence[Question], template: Template, sampling: Sampling, scorer: str
    ) -> Iterator[Sequence[tuple[Question, Reply]]]:
        """Replies, `ROWS_AT_A_TIME` together."""
        failed = unreadable(questions)
        if failed:
            yield [(q, failed[q.id]) for q in questions if q.id in failed]
        readable = [q for q in questions if q.id not in failed]
        # Questions with and without images are different inputs to every processor.
        for kind in ([q for q in readable if q.images], [q for q in readable if not q.images]):
            for start in range(0, len(kind), ROWS_AT_A_TIME):
                batch = kind[start : start + ROWS_AT_A_TIME]
                completions = self.complete(batch, template, sampling)
                yield [
                    (q, read_reply(completion, q, template, scorer))
                    for q, completion in zip(batch, completions, strict=True)
                ]

    @torch.no_grad()
    def complete(
        self, questions: Sequence[Question], template: Template, sampling: Sampling
    ) -> list[Completion]:
        """One completion per question; all of them with images, or all without."""
        inputs = self.inputs(questions, template).to(self.device)
        inputs = {
            k: v.to(self.model.dtype) if torch.is_tensor(v) and v.is_floating_point() else v
            for k, v in inputs.items()
        }
        drawing = _Drawing([q.id for q in questions], sampling, self._placeholder_ids())
        tokens_NS = self.model.generate(
            **inputs,
            do_sample=False,  # the drawing leaves one token to choose from
            max_new_tokens=sampling.max_completion_tokens,
            logits_processor=LogitsProcessorList([drawing]),
        )
        width = inputs["input_ids"].shape[1]
        return [self._completion(row) for row in tokens_NS[:, width:].tolist()]

    def inputs(self, questions: Sequence[Question], template: Template) -> Any:
        """What the model is given: padded on the left, images in the order in which the prompts show them."""
        texts = [
            self.processor.apply_chat_template(
                messages(q, template), tokenize=False, add_generation_prompt=True
            )
            for q in questions
        ]
        images = [
            [shown(path, self.min_pixels, self.max_pixels, self.view) for path in q.images] for q in questions
        ]
        given = images if any(images) else None
        begin = self.processor.tokenizer.bos_token  # some templates write it, for others the tokenizer does
        return self.processor(
            text=texts,
            images=given,
            padding=True,
            return_tensors="pt",
            add_special_tokens=begin is None or not texts[0].startswith(begin),
        )

    def _placeholder_ids(self) -> list[int]:
        ids = {getattr(self.model.config, name, None) for name in _PLACEHOLDERS}
        return sorted(i for i in ids if isinstance(i, int))

    def _completion(self, row: Sequence[int]) -> Completion:
        ends = [at for at, token in enumerate(row) if token in self.stop_ids]
        tokens = row[: ends[0] + 1] if ends else row
        text = self.processor.tokenizer.decode(tokens[:-1] if ends else tokens, skip_special_tokens=False)
        return Completion(
            text=text,
            token_ids=tuple(tokens),
            sampled_logprobs=(),
            finish_reason="stop" if ends else "length",
        )


class _Drawing(LogitsProcessor):
    """Masks placeholders, and above temperature 0 leaves each row the one token that its own stream drew.

    The streams are the engine's: keyed by seed and question, whatever stands beside it in the batch.
    """

    def __init__(self, ids: Sequence[str], sampling: Sampling, masked_ids: list[int]) -> None:
        self.masked_ids, self.temperature, self.step = masked_ids, sampling.temperature, 0
        self.streams = [
            torch.from_numpy(uniforms(sampling.seed, 0, i, 0, sampling.max_completion_tokens)) for i in ids
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores_NV = scores.float()
        masked = [i for i in self.masked_ids if i < scores_NV.shape[1]]
        scores_NV[:, masked] = -torch.inf
        if self.temperature == 0:
            return scores_NV
        now_N = torch.stack([stream[self.step] for stream in self.streams]).to(scores.device)
        self.step += 1
        token_N = draw(scores_NV / self.temperature, now_N)
        return torch.full_like(scores_NV, -torch.inf).scatter_(1, token_N[:, None], 0.0)


def load_plain(
    path: str,
    *,
    min_pixels: int,
    max_pixels: int,
    precision: str = "fp32",
    note: Callable[[str], None] = lambda text: None,
) -> PlainModel:
    """Load a checkpoint folder or hub id of any image-text-to-text family; weights in fp32 or bf16.

    Raises BadInput where the family is none of these, needs code of its own or a package that is not here, or
    where a weight is missing or does not fit.
    """
    source = resolve_checkpoint(path)
    hub: dict[str, Any] = {"trust_remote_code": False}
    if Path(source).is_dir():
        hub["local_files_only"] = True
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except _LOAD_ERRORS as error:
        raise _cannot(path, error) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise BadInput(
            f"model {path}: family {config.model_type} does not answer questions about images in "
            "transformers; serve it and evaluate openai:URL#name"
        )
    try:
        processor = _processor(source, config, hub)
        if getattr(processor, "chat_template", None) is None:
            raise BadInput(f"model {path}: has no chat template; add chat_template.jinja to the checkpoint")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **hub
        )
    except _LOAD_ERRORS as error:
        raise _cannot(path, error) from error
    model, info = loaded
    unexpected = info.pop("unexpected_keys", ())
    if unexpected:
        note(f"model {path}: {len(unexpected)} weights belong to nothing that answers; left out")
    refuse_partial_load(path, info)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return PlainModel(model, processor, path, min_pixels=min_pixels, max_pixels=max_pixels)


def _processor(source: str, config: Any, hub: dict[str, Any]) -> Any:
    if type(config) not in PROCESSOR_MAPPING:
        raise ValueError(f"no processor is known for family {config.model_type}")
    known: Any = PROCESSOR_MAPPING[type(config)]
    images_only: Any = type(known.__name__, (_ImagesOnly, known), {"__init__": known.__init__})
    return images_only.from_pretrained(source, **hub)


class _ImagesOnly(ProcessorMixin):
    """In front of a family's processor: its parts for video and sound, which need torchvision, stay empty."""

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        hub = {k: kwargs[k] for k in ("trust_remote_code", "local_files_only", "revision") if k in kwargs}
        source = pretrained_model_name_or_path
        made = {
            "tokenizer": lambda: AutoTokenizer.from_pretrained(source, **hub),
            "image_processor": lambda: AutoImageProcessor.from_pretrained(source, backend="pil", **hub),
        }
        return [made[name]() if name in made else None for name in cls.get_attributes()]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)


def _cannot(path: str, error: Exception) -> BadInput:
    if isinstance(error, BadInput):
        return error
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BadInput(f"model {path}: cannot be loaded here: {first}; or serve it and evaluate openai:URL#name")
