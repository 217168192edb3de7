"""Two logical CPU devices, for the tests of distribution; before TensorFlow starts."""

import contextlib

import pytest
import tensorflow as tf

_cpus = tf.config.list_physical_devices("CPU")
# Another test may have started TensorFlow already: `replicas` then says so.
with contextlib.suppress(RuntimeError):
    tf.config.set_logical_device_configuration(
        _cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.fixture
def replicas():
    """A MirroredStrategy over two devices."""
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) >= 2, "tests/two_devices.py makes two logical CPU devices"
    # Two strategies of one process would use the same keys for their reductions, and the second
    # would meet the shapes of the first; TensorFlow's own tests move the keys in this way.
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
