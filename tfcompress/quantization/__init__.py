"""Quantization: grids of integers, and the arithmetic that int8 kernels do on them."""
