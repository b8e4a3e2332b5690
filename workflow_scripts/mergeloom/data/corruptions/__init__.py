"""Corruptions of images, after Hendrycks & Dietterich (arXiv 1903.12261)."""
