"""Weight sharing: kernels of few different values, which train on."""
