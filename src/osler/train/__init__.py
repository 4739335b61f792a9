"""Training: GRPO and SFT on one loop."""
