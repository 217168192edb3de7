"""Distillation: a small model learns from what a larger one says."""
