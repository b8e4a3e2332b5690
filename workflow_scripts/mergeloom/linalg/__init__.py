"""Spectral kernels, each with its accuracy stated."""
