"""The policy: a vision-language model, its inputs, and the one forward that training calls."""
