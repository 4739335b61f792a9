"""The tiny Qwen2-VL that plays the instruction-tuned base model: built from phantom images."""
