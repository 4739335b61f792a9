"""Evaluation: statistics here need no model; the runner needs one."""
