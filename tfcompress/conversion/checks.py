"""What is asked of a converted file before it is handed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from tfcompress.errors import CompressError, ConversionError, CorruptFileError, DeviceError
from tfcompress.report import CompressionReport
from tfcompress.runtime import exchange, proof
from tfcompress.runtime.isolation import JobError
from tfcompress.runtime.layer_names import LayerNames
from tfcompress.runtime.model import (
    TFLiteModel,
    dequantize,
    input_infos,
    output_infos,
    quantize,
)
from tfcompress.runtime.noise import signal_to_noise, trace_noise
from tfcompress.runtime.surroundings import Surroundings
from tfcompress.transforms.sharing import channels_of, values_per_channel

ENOUGH_DB = 20.0


def run_once(
    tflite: TFLiteModel, batches: dict[str, np.ndarray] | None, dtypes: dict[str, str]
) -> dict[str, np.ndarray]:
    """Runs the file in a child process.

    Args:
        tflite: the file.
        batches: real values for each input, (runs, *shape); None for one run on noise, and
            zeros for integer inputs.
        dtypes: the model's own dtype for each input.

    Returns:
        Real values of each output, (runs, *shape).

    Raises:
        ConversionError: it does not run, or gives NaN or infinity.
    """
    generator = np.random.default_rng(0)
    inputs, fuller = [], []
    for info in input_infos(tflite.parsed):
        if batches is not None:
            real = batches[info.name]
        elif dtypes[info.name].startswith(("float", "bfloat")):
            real = generator.standard_normal((1, *info.shape)).astype(np.float32)
        else:
            real = exchange.idle_value(info)[None]
        inputs.append(quantize(real, info))
        padding = batches is None and info.dtype.kind in "iu" and not np.any(inputs[-1])
        fuller.append(inputs[-1] + inputs[-1].dtype.type(1) if padding else inputs[-1])
    try:
        outputs = proof.trial(tflite.content, inputs=inputs)
        if not _finite(outputs) and any(a is not b for a, b in zip(inputs, fuller, strict=True)):
            # Of nothing but padding, as zeros are, a masked mean is 0 / 0 in Keras as well.
            outputs = proof.trial(tflite.content, inputs=fuller)
    except (CorruptFileError, DeviceError) as error:
        raise ConversionError(f"The converted file does not run: {error}") from error
    if not _finite(outputs):
        raise ConversionError(
            "The converted file gives NaN or infinity on valid inputs, while the weights are "
            "finite: some operator overflows. Look at the model's own outputs on the same data, "
            "or try precision 'fp32'."
        )
    infos = output_infos(tflite.parsed)
    return {info.name: dequantize(value, info) for info, value in zip(infos, outputs, strict=True)}


def _finite(outputs: Sequence[np.ndarray]) -> bool:
    return all(value.dtype.kind != "f" or bool(np.isfinite(value).all()) for value in outputs)


def report_noise(
    tflite: TFLiteModel,
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    float_twin: Callable[[], bytes],
    batches: dict[str, np.ndarray],
    layers: Mapping[str, bool],
) -> None:
    """Reports the noise at each output; where there is much, the layers that add most of it.

    Args:
        tflite: the quantized file; its report is added to.
        found: its outputs on `batches`.
        expected: the Keras model's.
        float_twin: makes the same graph in float32.
        batches: real values for each input, (runs, *shape).
        layers: name of each of the model's layers to whether it has a kernel.
    """
    report: CompressionReport = tflite.report
    ratios = {
        name: signal_to_noise(found[name], expected[name]) for name in expected if name in found
    }
    lowest = min(ratios.values(), default=np.inf)
    report.settings["snr_db"] = round(lowest, 1) if np.isfinite(lowest) else None
    low = {name: value for name, value in ratios.items() if value < ENOUGH_DB}
    if not low:
        return
    text = ", ".join(f"{value:.1f} dB at output {name!r}" for name, value in low.items())
    text = f"Quantization noise is high: signal to noise is only {text} (20 dB is usual)."
    try:
        twin = float_twin()
        inputs = [batches[info.name] for info in input_infos(proof.read_sound(twin))]
        rows = trace_noise(tflite.content, twin, inputs)
    except (CompressError, JobError) as error:
        report.notes.append(f"{text} Where it comes from could not be found: {error}")
        return
    if not rows:
        report.notes.append(f"{text} No tensor could be compared to find where it comes from.")
        return
    worst = sorted(rows, key=lambda row: row.added, reverse=True)[:3]
    worst = [row for row in worst if row.added > 0.1 * worst[0].added]
    for row in worst:
        report.add(
            layer_of(row.tensor, layers),
            row.operator,
            "noisy",
            "adds much of the quantization noise",
            snr_db=row.snr_db,
        )
    named = ", ".join(
        f"{layer_of(row.tensor, layers)!r} ({row.operator}, {row.snr_db:.1f} dB after it)"
        for row in worst
    )
    report.notes.append(
        f"{text} The layers that cost most: {named}. More or better representative data, or "
        "precision 'int16x8' or 'dynamic', may help."
    )


def layer_of(tensor: str, layers: Mapping[str, bool]) -> str:
    """The Keras layer that a tensor's name points at.

    The converter joins the names of what it has fused, as in
    `"net/relu_1/Relu6;net/conv_1/convolution"`.

    Args:
        tensor: the tensor's name.
        layers: name of each layer of the model to whether it has a kernel.

    Returns:
        The first layer named that has a kernel, else the first named at all, else the tensor.
    """
    found = []
    for part in re.split("[;/]", tensor):
        for name in (part, re.sub(r"_\d+$", "", part)):  # tracing may have numbered it
            if name in layers:
                found.append(name)
                break
    return next((name for name in found if layers[name]), found[-1] if found else tensor)


def softmax_step(result: TFLiteModel) -> float:
    """The largest step of the integers that a softmax inside the graph reads; 0 for none."""
    steps = [0.0]
    for graph in result.parsed.subgraphs:
        # What only leads to an output is a classifier's, whose scores may be as large as they are.
        inside = {
            index
            for operator in graph.operators
            if operator.name not in ("DEQUANTIZE", "QUANTIZE", "RESHAPE")
            for index in operator.inputs
        }
        for operator in graph.operators:
            if operator.name == "SOFTMAX" and operator.outputs[0] in inside:
                quantization = graph.tensors[operator.inputs[0]].quantization
                steps += [] if quantization is None else [float(s) for s in quantization.scales]
    return max(steps)


def report_clipping(tflite: TFLiteModel) -> None:
    """Says which weights are larger than float16 can hold: they were cut to 65,504."""
    clipped = [
        tensor.name.split(";")[0]
        for graph in tflite.parsed.subgraphs
        for tensor in graph.tensors
        if tensor.dtype == "float16"
        and (data := tflite.parsed.data(tensor)) is not None
        and data.size
        and not (np.abs(data) < np.finfo(np.float16).max).all()
    ]
    if clipped:
        tflite.report.notes.append(
            f"Weights are larger than float16 can hold and were cut to 65,504: {clipped}. "
            "Outputs differ from the model's: use precision 'fp32', or scale the weights."
        )


def report_floats(tflite: TFLiteModel) -> None:
    """Counts and names the float tensors of a file that was to be all integer."""
    report: CompressionReport = tflite.report
    floats = tflite.float_tensors
    report.settings["float_tensors"] = len(floats)
    graph = tflite.parsed.subgraphs[0]
    outer = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        results = [graph.tensors[i] for i in operator.outputs if i not in outer]
        if any(t.dtype.startswith("float") for t in results) and operator.name != "DEQUANTIZE":
            report.add(
                results[0].name, operator.name, "left", "computed in float: no integer form of it"
            )
    if floats:
        report.notes.append(
            f"{len(floats)} float tensor(s) besides the inputs and outputs: "
            + ", ".join(floats[:5])
            + (", ..." if len(floats) > 5 else "")
        )


def report_placement(tflite: TFLiteModel) -> None:
    """Reports the operators that XNNPACK leaves to slower kernels, and that split the graph."""
    from tfcompress.deploy.inspection import inspect

    found = inspect(tflite)
    inner = [o for o in found.operators if not o.placed]
    report: CompressionReport = tflite.report
    report.settings["xnnpack"] = f"{len(found.operators) - len(inner)} of {len(found.operators)}"
    if inner:
        kinds = sorted({operator.name for operator in inner})
        report.notes.append(
            f"XNNPACK leaves {len(inner)} operator(s) to slower kernels, which may cost more than "
            f"integers gain: {', '.join(kinds)}. tfc.inspect says why, and what would help; "
            "tfc.benchmark says what it costs."
        )


def report_wider(tflite: TFLiteModel) -> None:
    """Notes kernels that are stored in 8 bits where 4 were asked for."""
    graph = tflite.parsed.subgraphs[0]
    count = sum(
        operator.name == "TRANSPOSE_CONV" and graph.tensors[operator.inputs[1]].dtype == "int8"
        for operator in graph.operators
    )
    if count:
        tflite.report.notes.append(
            f"{count} transposed convolution(s) have their weights in 8 bits: TRANSPOSE_CONV has "
            "no form with 4."
        )


def report_shared(tflite: TFLiteModel, layers: Collection[str]) -> None:
    """Says how many different integers kernels hold whose weights share values.

    Args:
        tflite: the file; its report is added to.
        layers: paths of the layers that have such kernels, as `tfc.cluster` makes them.
    """
    parsed, graph = tflite.parsed, tflite.parsed.subgraphs[0]
    names = LayerNames(parsed, graph, Surroundings(parsed, graph))
    in_channel: list[int] = []
    in_kernel: list[int] = []
    for operator in graph.operators:
        for index in operator.inputs if names.of(operator) in layers else ():
            tensor = graph.tensors[index] if index >= 0 else None
            if tensor is None or tensor.dtype not in ("int8", "int4"):
                continue
            values = parsed.data(tensor)
            if values is None or values.ndim < 2:
                continue
            grid = tensor.quantization
            axes = () if grid is None or len(grid.scales) == 1 else (grid.axis,)
            channels = channels_of(values.shape, axes)
            in_channel.append(int(values_per_channel(values, channels).max()))
            in_kernel.append(len(np.unique(values)))
    if in_channel:
        tflite.report.notes.append(
            f"{len(in_channel)} kernel(s) of few values that weights share: at most "
            f"{max(in_channel)} different integers in a channel, {max(in_kernel)} in a kernel, as "
            "each channel has a scale of its own."
        )
