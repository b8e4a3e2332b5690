"""Accuracy of models on tasks, and results."""
