"""Recipes of several verbs, run one after the other."""
