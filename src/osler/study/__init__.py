"""Many trainings and evaluations behind one table: planned as a graph, kept by content, run and resumed."""
