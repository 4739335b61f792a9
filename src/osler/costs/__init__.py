"""What a step costs, from the model's configuration alone: operations, bytes, seconds. No torch."""
