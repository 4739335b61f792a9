"""Osler: reinforcement learning, evaluation and audit of small medical vision-language models."""

__version__ = "0.1.0"
