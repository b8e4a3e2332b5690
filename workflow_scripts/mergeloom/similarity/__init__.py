"""How alike models see the same inputs: measures on their features, for all pairs of models."""
