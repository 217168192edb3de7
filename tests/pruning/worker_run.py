"""One worker of two that train together; run by test_multi_worker with TF_CONFIG set.

python worker_run.py fit|loop CRITERION OUT.npz
"""

import sys

import numpy as np
import tensorflow as tf

# Before anything else of TensorFlow runs: the strategy starts the server that TF_CONFIG names.
strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras  # noqa: E402
from training import SCHEDULE, data, small_model  # noqa: E402

import tfcompress as tfc  # noqa: E402

BATCH, EPOCHS = 8, 3


class WorkerModel(keras.Model):
    """What Keras 3.15's `fit` needs under this strategy; it fails with and without callbacks.

    It reduces a nested batch to build metrics, and the scalar logs along their first axis.
    """

    def _maybe_symbolic_build(self, *args, **kwargs):
        pass

    def train_step(self, batch):
        return {name: keras.ops.reshape(v, (1,)) for name, v in super().train_step(batch).items()}


def main() -> None:
    way, criterion, out = sys.argv[1:]
    keras.utils.set_random_seed(1)
    with strategy.scope():
        plain = small_model()
        model = WorkerModel(plain.inputs, plain.outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(True, reduction="sum_over_batch_size")
        model.compile(keras.optimizers.Adam(0.01), loss)
        model._symbolic_build(data_batch=tuple(part[:4] for part in data()))
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    if way == "fit":
        callback = tfc.PruningCallback(SCHEDULE, criterion=criterion)
        model.fit(dataset, epochs=EPOCHS, verbose=0, callbacks=[callback])
    else:
        loop(model, strategy.experimental_distribute_dataset(dataset), criterion)
    weights = [layer.kernel.value.numpy() for layer in model.layers if layer.weights]
    np.savez(out, *weights)


def loop(model: keras.Model, batches, criterion: str) -> None:
    """A custom training loop, as TensorFlow's guide for this strategy writes it."""
    with strategy.scope():
        pruner = tfc.Pruner(model, SCHEDULE, criterion=criterion)

        @tf.function
        def train_step(batch):
            def replica(x, y):
                with tf.GradientTape() as tape:
                    loss = model.loss(y, model(x, training=True)) / strategy.num_replicas_in_sync
                variables = model.trainable_variables
                gradients = tape.gradient(loss, [variable.value for variable in variables])
                model.optimizer.apply(gradients, variables)

            strategy.run(replica, args=batch)

        for _ in range(EPOCHS):
            for batch in batches:
                train_step(batch)
                pruner.step(model.optimizer.iterations)
        pruner.finish()


main()
