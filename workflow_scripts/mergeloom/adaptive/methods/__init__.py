"""Adapters: one file per family of methods, registered by name."""
