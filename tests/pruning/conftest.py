"""Two logical CPU devices, for the tests of distribution; before TensorFlow starts."""

import contextlib

import tensorflow as tf

_cpus = tf.config.list_physical_devices("CPU")
# Another test may have started TensorFlow already: test_trainings then says so.
with contextlib.suppress(RuntimeError):
    tf.config.set_logical_device_configuration(
        _cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
