"""Is the thinking real? Interventions on the reasoning of an evaluated model."""
