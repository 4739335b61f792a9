"""A random-weight stand-in of Qwen2-VL-2B's real size, and five GRPO steps of medvlm_r1_mri on it.

python benchmarks/full_size.py DATA OUT [--layers N]

DATA is an OmniMedVQA folder with MRI images. Writes OUT/model under the hub's key names (config, tokenizer
ids and shapes as in the released checkpoint; the vocabulary's words are stand-ins), trains OUT/run with a
reward that varies within a group, and checks that language model and tower moved and that every key loads
back. Needs a GPU with about 60 GB at full size (fp32 masters, reference, optimizer); --layers 2 --tower 2
makes a model that a laptop can train.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from osler.config import load_config
from osler.costs.memory import predict_memory
from osler.costs.shape import model_shape
from osler.costs.workload import workload
from osler.phantom_base.tokenizer import CHAT_TEMPLATE
from osler.policy.load import load_policy
from osler.prompts import Template
from osler.records import Completion, Extraction, Question
from osler.tracking import JsonLines
from osler.train.run import train

VOCABULARY = 151_643  # entries before the special tokens
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


def even_tokens(
    completion: Completion, extraction: Extraction, question: Question, template: Template
) -> float:
    """A reward that random weights can earn: the share of even token ids."""
    return sum(t % 2 == 0 for t in completion.token_ids) / len(completion.token_ids)


def stand_in_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level, the special tokens behind `vocabulary` words: by default each at its released id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [f"stand-in {i}" for i in range(vocabulary - len(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_model(folder: Path, layers: int, tower_layers: int) -> int:
    """Random weights in bf16 at the released shapes; returns the number of parameters."""
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": layers,
            "num_attention_heads": 12, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]
            },
            "max_position_embeddings": 32768, "vocab_size": 151_936, "tie_word_embeddings": True,
            "bos_token_id": 151_643, "eos_token_id": 151_645, "pad_token_id": 151_643,
        },
        vision_config={
            "depth": tower_layers, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": 1536,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        vision_start_token_id=151_652, vision_end_token_id=151_653,
        image_token_id=151_655, video_token_id=151_656, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [151_645, 151_643]
    model.generation_config.pad_token_id = 151_643
    model.save_pretrained(folder)
    stand_in_tokenizer().save_pretrained(folder)
    Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 401_408}).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [f for f in sorted(folder.glob("*.safetensors")) if f.name != "optimizer.safetensors"]
    return {name: value for file in files for name, value in load_file(file).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tower", type=int, default=32)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    model, run = arguments.out / "model", arguments.out / "run"
    if not (model / "config.json").is_file():
        print(f"{write_model(model, arguments.layers, arguments.tower) / 1e9:.2f} billion parameters")
    overrides = [
        f'data.train="{arguments.data}"',
        "data.num_questions=20",
        f'model.path="{model}"',
        "grpo.max_steps=5",
        "grpo.max_completion_tokens=150",
        "optim.lr=1e-5",
        'rewards={"benchmarks.full_size:even_tokens" = 1.0}',
        *arguments.overrides,
    ]
    config = load_config("medvlm_r1_mri", overrides)
    shape = model_shape(json.loads((model / "config.json").read_text(encoding="utf-8")))
    predicted = predict_memory(config, shape, workload(config, shape.tower)).peak
    train(config, run)
    before, after = weights(model), weights(run / "checkpoints" / "step_000005")
    both = before.keys() & after.keys()  # none with LoRA: its checkpoint holds the adapter alone
    moved = [n for n in both if not torch.equal(before[n].float(), after[n].float())]
    load_policy(str(run))  # refuses a missing, unexpected or mismatched key
    steps = list(JsonLines(run / "metrics.jsonl"))
    print(
        json.dumps(
            {
                "keys": len(before),
                "keys_equal": before.keys() == after.keys(),
                "moved_language_model": sum(n.startswith("model.") for n in moved),
                "moved_tower": sum(n.startswith("visual.") for n in moved),
                "ratio_mean": [s["ratio/mean"] for s in steps],
                "seconds_per_step": [round(s["time/step"], 2) for s in steps],
                "peak_bytes": max(s["memory/peak_bytes"] for s in steps),
                "peak_bytes_predicted": predicted,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
