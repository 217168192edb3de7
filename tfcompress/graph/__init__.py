"""Models as graphs of layer calls: copying them, and putting other layers in place."""
