"""`tfc.quantize_aware`: a model that trains with the arithmetic of the int8 file it becomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress import registry
from tfcompress.conversion import calibration, export
from tfcompress.errors import ConfigError
from tfcompress.graph.calls import functional, is_graph
from tfcompress.graph.copying import own_classes
from tfcompress.graph.flow import Flow, read_flow
from tfcompress.quantization import modes, observers
from tfcompress.quantization.emission import Emitter
from tfcompress.quantization.islands import KINDS, left_float
from tfcompress.quantization.lowering import Lowering
from tfcompress.quantization.model import QuantizedModel
from tfcompress.quantization.nodes import Kept, Linear, Operator, Table
from tfcompress.quantization.passes import Graph, fold, fuse_activations, share_work
from tfcompress.quantization.planning import Plan, off_centre
from tfcompress.quantization.preserving import PRESERVED
from tfcompress.quantization.primitives import PRIMITIVES
from tfcompress.quantization.scheme import QuantizationScheme, get_scheme
from tfcompress.quantization.subclassed import quantize_layers
from tfcompress.report import CompressionReport
from tfcompress.scope import ScopeLike, resolve
from tfcompress.transforms.centroids import Centroids
from tfcompress.transforms.lora import holds_lora
from tfcompress.transforms.sharing import shares_values
from tfcompress.transforms.strip import strip
from tfcompress.transforms.wrapper import wrappers
from tfcompress.variables import value_of

BATCH = 32


def quantize_aware(
    model: keras.Model,
    scheme: str | QuantizationScheme = "int8",
    *,
    calibration_data: Any = None,
    calibration_method: str = "min_max",
    calibration_samples: int = 500,
    include: ScopeLike = None,
    exclude: ScopeLike = None,
    preserve: Iterable[str] = (),
) -> keras.Model:
    """A model that computes, in training too, what its int8 `.tflite` will compute on XNNPACK.

    BatchNorm is folded into kernels and ReLU into operators, as in the file; every tensor gets a
    grid of integers; forward passes run on these integers, with the runtime's own rounding, and
    gradients pass straight through it. What `TimeDistributed` holds has all steps in one batch, as
    in the file (see `tfc.convert`). What has no int8 form stays float and is reported. The model
    trains with plain `fit`; `tfc.convert(qmodel, "int8")` needs no data. Outputs keep their names,
    and layers with `trainable=False` do not train.

    Args:
        model: a built Keras 3 model; it does not change. Its weights are taken over; what
            `tfc.prune`, `tfc.cluster` or `tfc.adapt` wrapped is stripped on the way, LoRA merged.
        scheme: `"int8"`, `"int8-w4"` (weights of 4 bits), `"int16x8"` (activations of 16 bits),
            `"int8-matmul"` (products alone, for Transformers) or a `QuantizationScheme`.
        calibration_data: inputs that the ranges start from, 100 to 500 typical ones, as
            `tfc.convert` takes them. Without any the ranges start from random inputs, and the
            first training step replaces them.
        calibration_method: `"min_max"`, `"moving_average"`, `"percentile"` (99.99), `"mse"` or
            `"kl"`.
        calibration_samples: at most so many examples are used.
        include: layers to quantize; None for all that can be.
        exclude: layers to leave float.
        preserve: `"sparsity"`: zeros of pruned kernels stay zeros; `"clusters"`: weights that are
            equal, as `tfc.cluster` made them, stay equal, so that no channel of the file holds
            more different integers than its kernel had values. Or both. Layers that stay float
            keep neither while they train; the report says which these are.

    Returns:
        The model, not compiled; `.compression_report` says what became of each layer.

    Raises:
        ModelTypeError: no built Keras 3 model, or a subclassed one that cannot be rebuilt from
            its config.
        ConfigError: an argument out of its range; a scope that matches nothing (`ScopeError`).
        DataError: calibration data that does not fit.

    Example:
        >>> qmodel = tfc.quantize_aware(model, calibration_data=x_train[:300])
        >>> qmodel.compile("adam", "sparse_categorical_crossentropy")
        >>> qmodel.fit(x_train, y_train, callbacks=[tfc.QuantizationCallback()])
        >>> tflite = tfc.convert(qmodel, "int8")

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"; the arithmetic is that of XNNPACK and TFLite's kernels.
    """
    scheme = get_scheme(scheme)
    observers.check_method(calibration_method)
    preserve = (preserve,) if isinstance(preserve, str) else tuple(preserve)
    if set(preserve) - set(PRESERVED):
        raise ConfigError(f"`preserve` takes {list(PRESERVED)}. Received: {preserve!r}")
    export.check_model(model)
    if wrappers(model) or holds_lora(model):
        model = strip(model)
    if scheme.range_method == "lsq" and calibration_data is None:
        raise ConfigError(
            "range_method='lsq' trains scales from where calibration puts them: pass "
            "`calibration_data`. Received: None"
        )
    layers = registry.walk(model)
    choice = _Choice(scheme, _excluded(layers, include, exclude, scheme),
                     _overrides(layers, scheme), preserve)  # fmt: skip
    report = CompressionReport(
        "quantize_aware",
        {"weight_bits": scheme.weight_bits, "activation_bits": scheme.activation_bits},
    )
    with model.distribute_strategy.scope(), own_classes(model):
        result: Any
        if is_graph(model):
            result = _quantize_graph(model, model.name, choice, report)
            result.compression_report = report
        else:
            left = {layer.name: choice.excluded[id(layer)] for _, layer in layers
                    if id(layer) in choice.excluded}  # fmt: skip
            result = quantize_layers(
                model,
                lambda graph, name: _quantize_graph(graph, name, choice, report, True),
                left,
                report,
            )
    _calibrate(result, model, calibration_data, calibration_method, calibration_samples, report)
    _tell_loose(result, preserve, report)
    return result


def _tell_loose(result: Any, preserve: tuple[str, ...], report: CompressionReport) -> None:
    """Notes the layers left float whose zeros or shared values nothing keeps."""
    for path, layer in registry.walk(result):
        for kernel in registry.kernels(layer):
            values = np.asarray(value_of(kernel))
            axes = [axis for axis, role in enumerate(registry.axes(layer, kernel)) if role == "o"]
            lost = "zeros" if "sparsity" in preserve and (values == 0).any() else ""
            if "clusters" in preserve and shares_values(values, axes, least=1 / 8):
                lost = f"{lost} and shared values" if lost else "shared values"
            if lost:
                report.notes.append(
                    f"{path!r} stays float, and nothing keeps its {lost} while it trains. Freeze "
                    "it (trainable=False) to keep them."
                )
                break


@dataclass(frozen=True)
class _Choice:
    """What is quantized, and how."""

    scheme: QuantizationScheme
    excluded: dict[int, str]
    schemes: dict[int, QuantizationScheme]
    preserve: tuple[str, ...]


def _quantize_graph(
    model: keras.Model,
    name: str,
    choice: _Choice,
    report: CompressionReport,
    real_outputs: bool = False,
) -> QuantizedModel:
    flow = read_flow(model, opens=lambda _: True)
    bits = choice.scheme.activation_bits
    products_alone = choice.scheme.operators == "matmul"
    excluded = {**left_float(flow), **choice.excluded} if products_alone else choice.excluded
    for call in flow.calls:  # what stands around a layer goes with it
        if id(call.added) in excluded:
            excluded = {**excluded, id(call.operation): excluded[id(call.added)]}
    lowered = Lowering(flow, excluded, bits)
    graph = Graph(lowered.nodes, keras.tree.flatten(lowered.outputs))
    graph.remove_dead()
    fold(graph, choice.preserve)
    share_work(graph)
    fuse_activations(graph)
    graph.remove_dead()
    plan = Plan(
        graph,
        flow.input_values,
        real_outputs=real_outputs,
        bits=bits,
        symmetric=choice.scheme.symmetric,
        kinds=KINDS if products_alone else None,
    )
    emitter = Emitter(plan, choice.scheme, choice.schemes, choice.preserve)
    outputs = keras.tree.map_structure(
        lambda value: plan.outputs[id(graph.standing_for(value))], lowered.outputs
    )
    result = emitter.build(flow, outputs, name, functional(model).output_names)
    _describe(report, flow, plan, emitter)
    return result


def _excluded(
    layers: list[tuple[str, Any]], include: ScopeLike, exclude: ScopeLike, scheme: Any
) -> dict[int, str]:
    found = dict.fromkeys(resolve(exclude, layers, "exclude"), "excluded")
    if include is not None:
        chosen = resolve(include, layers, "include")
        found |= {id(layer): "not in `include`" for _, layer in layers if id(layer) not in chosen}
    for scope, own in scheme.overrides.items():
        if own is None:
            found |= dict.fromkeys(resolve(scope, layers, "overrides"), "left float by its scheme")
    return found


def _overrides(
    layers: list[tuple[str, Any]], scheme: QuantizationScheme
) -> dict[int, QuantizationScheme]:
    return {
        identity: own
        for scope, own in scheme.overrides.items()
        if own is not None
        for identity in resolve(scope, layers, "overrides")
    }


def _describe(report: CompressionReport, flow: Flow, plan: Plan, emitter: Emitter) -> None:
    by_path = {call.path: call.operation for call in flow.calls if call.added is None}
    for node in plan.graph.nodes:  # what stood within a layer, as its activation
        if node.call.added is None:
            by_path.update({p: node.call.operation for p in node.paths if p not in by_path})
    done: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for node in plan.graph.nodes:
        for path in node.paths:
            if isinstance(node, Kept) and node.reason:
                done[path] = _float(done.get(path), node.reason)
            elif isinstance(node, Kept):
                grid = plan.grid(node.outputs[0])
                done.setdefault(path, ("quantized" if grid else "left", "moves values only", {}))
            elif isinstance(node, Linear):
                layer = emitter.layers[id(node)]
                details = _weights(layer) if path == node.paths[0] else {}
                done[path] = ("quantized", "", details | _into(layer, path))
            elif isinstance(node, Table):
                done[path] = ("quantized", "", _weights(emitter.layers[id(node)]))
            elif isinstance(node, Operator):
                layer = emitter.layers[id(node)]
                if layer.output_source is None:
                    done[path] = _float(done.get(path), _why_float(node, plan))
                else:
                    done.setdefault(path, ("quantized", "", _into(layer, path)))
    for path, operation in by_path.items():
        action, reason, details = done.get(path, ("quantized", "does nothing at inference", {}))
        report.add(path, type(operation).__name__, action, reason, **details)
    tables = {id(node.owner): node.owner for node in plan.graph.nodes if isinstance(node, Table)}
    kernels = {id(node.owner) for node in plan.graph.nodes if isinstance(node, Linear)}
    for identity, owner in tables.items():
        if identity in kernels and getattr(owner, "tie_weights", True):
            report.notes.append(
                f"{owner.name!r} embeds and scores with one table: quantized, these are two, each "
                "on its own grid, which train apart."
            )
    for layer, why in emitter.copier.result.shared:
        report.notes.append(
            f"{layer.name!r} cannot be rebuilt from its config ({why}): both models hold it."
        )


def _float(before: tuple[str, str, dict[str, Any]] | None, reason: str) -> Any:
    """A layer that stays float, or that part of one whose product does not, as its activation."""
    if before is not None and "weight_bits" in before[2]:
        return (before[0], before[1] or f"but for its activation: {reason}", before[2])
    return ("left", reason, {})


def _why_float(node: Operator, plan: Plan) -> str:
    row = PRIMITIVES[node.kind]
    if not plan.computes(node.kind):
        return f"{node.kind} stays float, as the scheme has products alone in integers"
    if row.integers(plan.bits) is None:
        return f"no {plan.bits}-bit form of {node.kind} is known"
    if plan.symmetric and off_centre(row.output):
        return "the zero point of its int8 form is not 0, as a symmetric scheme asks"
    return "what it computes on is float"


def _weights(layer: Any) -> dict[str, int]:
    """Bits of a layer's weights, and how many different ones there are where they share values."""
    counts = [t.count + int(t.zero) for t in layer.transforms if isinstance(t, Centroids)]
    return {"weight_bits": layer.weight_bits} | ({"centroids": counts[0]} if counts else {})


def _into(layer: Any, path: str) -> dict[str, str]:
    """Where a layer's work is done now, if elsewhere."""
    return {} if layer.name == path.replace("/", ".") else {"within": layer.name}


def _calibrate(
    result: QuantizedModel,
    model: keras.Model,
    data: Any,
    method: str,
    samples: int,
    report: CompressionReport,
) -> None:
    interface = export.read_interface(model)
    if data is None:
        report.notes.append(
            "Ranges start from random inputs, and the first training step replaces them: pass "
            "calibration_data for a model that is right without training."
        )
        examples = _random(interface)
        if examples is None:
            return
    else:
        examples = calibration.gather(data, interface.specs, samples)
        report.settings["calibration"] = method
        report.settings["calibration_samples"] = len(next(iter(examples.values())))
    found: dict[int, observers.Statistics] = {}
    layers: dict[int, Any] = {}

    def collect(layer: Any, values: Any) -> None:
        layers[id(layer)] = layer
        found.setdefault(id(layer), observers.Statistics()).add(np.asarray(values))

    names = [spec.name for spec in interface.specs]
    count = len(examples[names[0]])
    with modes.observing(collect):
        for start in range(0, count, BATCH):
            parts = [examples[name][start : start + BATCH] for name in names]
            nest = keras.tree.map_structure(lambda i: parts[i], interface.structure)  # noqa: B023
            result(nest, training=False)
    for key, statistics in found.items():
        low, high = observers.METHODS[method](statistics)
        layers[key].ranges.set(low, high, guessed=data is None)


def _random(interface: Any) -> dict[str, np.ndarray] | None:
    generator = np.random.default_rng(0)
    found = {}
    for spec in interface.specs:
        if None in spec.example_shape:
            return None
        shape = (BATCH, *spec.example_shape)
        if spec.dtype.startswith(("float", "bfloat")):
            found[spec.name] = generator.standard_normal(shape).astype("float32")
        else:
            found[spec.name] = np.zeros(shape, spec.dtype)
    return found
