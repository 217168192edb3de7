"""Pruning: which weights become zero, when, and keeping them there."""
