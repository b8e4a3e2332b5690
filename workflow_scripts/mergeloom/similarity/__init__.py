"""Representational similarity of models, and what it says of them."""
