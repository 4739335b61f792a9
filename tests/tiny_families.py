"""Random-weight models of families that only `generate` answers for, as ordinary checkpoint folders."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tiny_model import write_tiny_model

CHAT = (
    "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% for part in m.content %}}"
    "{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}"
    "<|im_end|>\n{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
BEGIN = "<|endoftext|>"
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 600, "max_position_embeddings": 4096,
}  # fmt: skip


def write_family(folder: Path, family: str) -> Path:
    """Write a checkpoint of "llava", "idefics3" or "qwen3_vl"; return the folder."""
    write_tiny_model(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    model = {"llava": _llava, "idefics3": _idefics3, "qwen3_vl": _qwen3_vl}[family](folder, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than by default, so that words depend on what is seen
            parameter.normal_(0, 0.2)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.repetition_penalty = 1.7  # a default of the checkpoint, which nobody asked for
    model.save_pretrained(folder)
    return folder


def _ids(tokenizer, *names: str) -> list[int]:
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(names)}, replace_extra_special_tokens=False
    )
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


def _llava(folder: Path, tokenizer):
    (image_id,) = _ids(tokenizer, "<image>")
    # Here the tokenizer begins the prompt, in Idefics3 the template does.
    tokenizer.bos_token = BEGIN
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = CHAT.format(image="<image>")
    pixels = LlavaImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_center_crop=True
    )
    LlavaProcessor(
        pixels, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    pixels.save_pretrained(folder)
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 32,
    }  # fmt: skip
    text = {"model_type": "llama", **_TEXT}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_id)
    return LlavaForConditionalGeneration(config)


def _idefics3(folder: Path, tokenizer):
    image_id, *_ = _ids(
        tokenizer, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
    )
    tokenizer.bos_token = BEGIN
    tokenizer.chat_template = BEGIN + CHAT.format(image="<image>")
    pixels = Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}, do_image_splitting=True
    )
    Idefics3Processor(
        pixels, tokenizer, image_seq_len=1, chat_template=tokenizer.chat_template
    ).save_pretrained(folder)
    pixels.save_pretrained(folder)
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = {"model_type": "llama", **_TEXT, "pad_token_id": tokenizer.pad_token_id}
    config = Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=image_id, scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Idefics3ForConditionalGeneration(config)


def _qwen3_vl(folder: Path, tokenizer):
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    image, video, start, end = (tokenizer.convert_tokens_to_ids(name) for name in names)
    tokenizer.chat_template = CHAT.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 1024, "longest_edge": 401408}
    ).save_pretrained(folder)
    text = {
        **_TEXT, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": 32, "num_position_embeddings": 256, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    return Qwen3VLForConditionalGeneration(config)
