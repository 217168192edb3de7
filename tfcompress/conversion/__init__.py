"""Keras to TFLite: export, calibration, precisions, and the worker that converts."""
