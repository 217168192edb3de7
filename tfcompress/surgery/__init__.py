"""Changing a model's structure: every verb returns a new model and leaves its argument alone."""
