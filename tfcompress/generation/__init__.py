"""Text from `.tflite` files: decoders with a cache, and running them token by token."""
