"""Merging by input: coefficients of task vectors that gates choose, trained at test time."""
