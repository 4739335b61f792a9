"""Synthetic medical images with known truth: what is drawn, what is asked, and the benchmark on disk."""
