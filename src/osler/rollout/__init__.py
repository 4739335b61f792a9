"""Rollout: completions from a policy, many questions at once."""
