"""Random-weight models, images of so many tokens and prompts of so many tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from benchmarks.full_size import stand_in_tokenizer, write_model
from osler.prompts import Template, messages
from osler.records import Question

TINY_VOCABULARY = 2048
TOKEN_PIXELS = 28  # side of the square that one image token covers
MAX_IMAGE_TOKENS = 1024
FILLER = "~"  # one byte, one token in both stand-in tokenizers
ASK = Template("filler", "plain", "{problem}")  # the question's text and nothing else


def write_tiny(folder: Path, hidden: int, layers: int) -> None:
    """A Qwen2-VL of the 2B's proportions: heads of 32, half as many key/value heads, MLP 3x, tied head.

    256 wide and 4 layers deep it has 8.7 million parameters, of which 4.9 million in the tower.
    """
    words = TINY_VOCABULARY - 14
    tokenizer = stand_in_tokenizer(words)
    token = tokenizer.get_vocab()
    special = {"eos_token_id": token["<|im_end|>"], "pad_token_id": token["<|endoftext|>"]}
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32, "num_key_value_heads": max(1, hidden // 64),
            "vocab_size": TINY_VOCABULARY, "max_position_embeddings": 4096, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": token["<|endoftext|>"], **special,
        },
        vision_config={
            "depth": layers, "embed_dim": hidden, "num_heads": hidden // 32, "hidden_size": hidden,
            "mlp_ratio": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
        image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config)
    for name, value in special.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    bounds = {"shortest_edge": TOKEN_PIXELS**2, "longest_edge": MAX_IMAGE_TOKENS * TOKEN_PIXELS**2}
    Qwen2VLImageProcessorPil(size=bounds).save_pretrained(folder)


def write_checkpoint(folder: Path, hidden: int, layers: int) -> Path:
    """The tiny model, or where `hidden` is 0 random weights in Qwen2-VL-2B's shape; once per folder."""
    path = folder / (f"tiny_{hidden}_{layers}" if hidden else "qwen2_vl_2b")
    if not (path / "preprocessor_config.json").is_file():  # written last
        if hidden:
            write_tiny(path, hidden, layers)
        else:
            write_model(path, layers=28, tower_layers=32)
    return path


def write_image(path: Path, image_tokens: int, seed: int) -> None:
    """Noise whose sides are multiples of 28 pixels, as square as `image_tokens` allows."""
    rows = max(n for n in range(1, math.isqrt(image_tokens) + 1) if image_tokens % n == 0)
    shape = (rows * TOKEN_PIXELS, image_tokens // rows * TOKEN_PIXELS, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_questions(
    folder: Path, tokenizer: Any, count: int, image_tokens: int, text_tokens: int, first: int = 0
) -> tuple[Question, ...]:
    """Questions with an image of `image_tokens` each and prompts of `text_tokens` more.

    Numbered from `first`; each number has its own image. Raises ValueError where the shortest prompt
    takes more than `text_tokens`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    questions = []
    for i in range(first, first + count):
        image = folder / f"{image_tokens}_{i}.png"
        if not image.is_file():
            write_image(image, image_tokens, seed=i)
        questions.append(_padded(tokenizer, str(i), str(image), text_tokens))
    return tuple(questions)


def _padded(tokenizer: Any, name: str, image: str, text_tokens: int) -> Question:
    def question(text: str) -> Question:
        return Question(id=name, text=text, choices=("yes", "no"), answer_index=0, images=(image,))

    missing = text_tokens - text_token_count(tokenizer, question(FILLER))
    if missing < 0:
        raise ValueError(f"text_tokens {text_tokens}: the shortest prompt takes {text_tokens - missing}")
    padded = question(FILLER * (1 + missing))
    assert text_token_count(tokenizer, padded) == text_tokens
    return padded


def text_token_count(tokenizer: Any, question: Question) -> int:
    """Prompt tokens without the image's own."""
    chat = messages(question, ASK)
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) - 1
