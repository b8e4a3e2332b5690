"""Frozen feature extractors φ, and features of a data set as a file."""
