from two_devices import replicas

__all__ = ["replicas"]
