"""The place in the data: Keras's iterator run to where it was, and whether that can be quick."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfcompress.errors import DataError


def replay(path: Path, data: Any, epochs: int, executions: int) -> None:
    """Runs Keras's iterator over the data to where it was, without training.

    `data` is the EpochIterator of the running `fit`. The loop is the one in `fit`, so all that
    Keras does around an epoch is done again: `on_epoch_end` of a PyDataset, an iterator that
    lives on over epochs or is made anew, a length that is known only after the first epoch.
    """
    short = data.steps_per_epoch is None and data.num_batches is not None and restarts(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "ran out of data": it was said when it happened
        for _ in range(epochs):
            with data.catch_stop_iteration():
                for count, step in enumerate(data):
                    if count == 0 or not short:
                        _skip(step[-1], data.steps_per_execution)
    if not executions:
        return
    steps = data._enumerate_iterator()
    try:
        for _ in range(executions):
            _skip(next(steps)[-1], data.steps_per_execution)
    except StopIteration:
        raise DataError(
            f"Training must be resumed with the data it began with. Received less: it ended "
            f"before batch {executions * data.steps_per_execution} of the epoch. Pass the same "
            f"data, or delete {str(path)!r} to start anew."
        ) from None

    def rest() -> Iterator[Any]:
        del data._enumerate_iterator  # the next epoch is a whole one
        return steps

    # `fit` asks for this epoch's steps once: it gets those that are left, numbered as ever.
    data._enumerate_iterator = rest


def _skip(batches: Any, count: int) -> None:
    for index in range(count):
        try:
            next(batches)
        except StopIteration:
            if index == 0:
                raise
            return


# Datasets that keep nothing from one iteration to the next, but for the seeds of `shuffle`, which
# are drawn when an iterator begins.
_FORGETFUL = {
    *("BatchDataset", "FilterDataset", "MapDataset", "OptionsDataset", "PaddedBatchDataset"),
    *("ParallelBatchDataset", "ParallelMapDataset", "PrefetchDataset", "RangeDataset"),
    *("ShuffleDataset", "SkipDataset", "TakeDataset", "TensorDataset", "TensorSliceDataset"),
    *("TFRecordDataset", "TFRecordDatasetV2", "TextLineDataset", "TextLineDatasetV2"),
    *("UnbatchDataset", "ZipDataset"),
}
# Stateful operations in a pipeline's functions that begin anew with each iterator: the random
# ones under a seed (without one nothing can be repeated), and calls, whose bodies are looked at.
_BEGIN_ANEW = {
    *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal"),
    *("RandomShuffle", "Multinomial", "ParameterizedTruncatedNormal", "RandomGammaV2"),
    *("SampleDistortedBoundingBoxV2", "Assert", "StatefulPartitionedCall", "If", "While", "Case"),
}


def restarts(data: Any) -> bool:
    """Whether an epoch's order is fixed when its iterator begins, whatever was read before."""
    from keras.src.trainers.data_adapters import array_data_adapter, tf_dataset_adapter

    adapter = data.data_adapter
    if isinstance(adapter, array_data_adapter.ArrayDataAdapter):
        return True
    if not isinstance(adapter, tf_dataset_adapter.TFDatasetAdapter):
        return False
    try:
        waiting = [adapter.get_tf_dataset()]
        while waiting:
            dataset = waiting.pop()
            if type(dataset).__name__.lstrip("_") not in _FORGETFUL:
                return False
            if not all(_begins_anew(each.function.graph) for each in dataset._functions()):
                return False
            waiting += dataset._inputs()
    except Exception:  # private parts of TensorFlow: where they differ, read it all
        return False
    return True


def _begins_anew(graph: Any) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = graph.as_graph_def()
    nodes = list(definition.node)
    own = {function.signature.name for function in definition.library.function}
    for function in definition.library.function:
        nodes += function.node_def
    for node in nodes:
        if node.op in own or node.op in _BEGIN_ANEW:
            continue
        operation = op_def_registry.get(node.op)
        if operation is None or operation.is_stateful:
            return False
    return True


def may_shuffle(data: Any) -> bool:
    """Whether Keras may draw the order of the data."""
    return bool(getattr(data.data_adapter, "_shuffle", True))
