"""Transformers of keras-hub, written out in stock Keras layers that every other verb knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.errors import ConfigError, ModelTypeError

from . import checks, transformer

_HUB = ("keras_hub.", "keras_nlp.")


def from_keras_hub(model: keras.Model, length: int, *, padding: int | None = None) -> keras.Model:
    """Writes a Transformer of keras-hub out in stock Keras layers, with its weights.

    Keras-hub's layers hold attention and feed-forward parts inside, and masks in forms that split
    a `.tflite` graph. The model that comes back computes the same with the bricks of
    `bert_encoder` and `gpt_decoder`: so it prunes, shrinks, trains quantization-aware and converts
    layer by layer, loads without keras-hub, and `tfc.convert_decoder` takes a GPT-2.

    Example:
        >>> import keras_hub
        >>> hub = keras_hub.models.GPT2CausalLM.from_preset("./my_gpt2", preprocessor=None)
        >>> model = tfc.models.from_keras_hub(hub, 128)
        >>> tfc.convert_decoder(model, "dynamic", path="gpt2.tflite")

    Args:
        model: A task or backbone whose layers are stock ones or keras-hub's `TransformerEncoder`,
            `TransformerDecoder`, `PositionEmbedding`, `TokenAndPositionEmbedding` and
            `ReversibleEmbedding`, as in BERT, RoBERTa, DistilBERT, ELECTRA, GPT-2, OPT and BART. It
            does not change.
        length: Tokens of each text.
        padding: The token that pads texts, behind them. Where it is given, masks are made of the
            tokens; else padding masks stay inputs, 1 for tokens.

    Returns:
        A Functional model, inputs int32 (batch, length) by the names that the model's have, but
        for masks of decoders: they look at what is before a token only, so padding behind the
        text is not seen. It computes in float32, whatever the model's dtypes are. Outputs differ
        from a float32 model's by float rounding, and at padding.

    Raises:
        ModelTypeError: No such model, or a layer of keras-hub that is not known, is quantized, or
            is called in a way that is not.
        ConfigError: An argument is out of range, or does not fit the model.
    """
    from tfcompress.graph.calls import functional
    from tfcompress.graph.flow import read_flow

    length = checks.at_least_one(length=length)
    if padding is not None and (isinstance(padding, bool) or not isinstance(padding, int)):
        raise ConfigError(f"`padding` is a token, a whole number, or None. Received: {padding!r}")
    if not isinstance(model, keras.Model) or functional(model) is None:
        raise ModelTypeError(
            f"`model` must be a built keras-hub model of the functional kind. Received: {model!r}"
        )
    for layer in model._flatten_layers():
        if getattr(layer, "mask_zero", False):
            raise ModelTypeError(
                f"{layer.name!r} makes a mask of Keras's (mask_zero=True), which is not known "
                "here. Build the model without, and give padding masks."
            )
        if getattr(layer, "quantization_mode", None):
            raise ModelTypeError(
                f"Weights must be floats. Received: {layer.name!r}, which Keras has quantized to "
                f"{layer.quantization_mode!r}. Give the model from before."
            )
    with _float32():
        return _Writer(read_flow(model), length, padding).written(model.name)


@contextmanager
def _float32() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Writer:
    def __init__(self, flow: Any, length: int, padding: int | None) -> None:
        self.flow, self.length, self.padding = flow, length, padding
        self.tensors: dict[int, Any] = {}
        self.copies: dict[int, Any] = {}
        self.weights: list[tuple[Any, list[Any]]] = []
        self.names: set[str] = set()
        self.attentions: list[tuple[str, Any]] = []
        self.masks: dict[Any, Any] = {}
        self.tokens: dict[int, Any] = {}  # the token ids that each tensor is made of

    def written(self, name: str) -> keras.Model:
        tensors = keras.tree.flatten(self.flow.inputs)
        named = {}
        for tensor, value in zip(tensors, self.flow.input_values, strict=True):
            if len(value.shape) != 2 or not value.dtype.startswith("int"):
                raise ModelTypeError(
                    "Inputs are token ids and masks, integers (batch, length). Received: "
                    f"{tensor.name!r} {value.dtype} {value.shape}"
                )
            made = keras.Input((self.length,), dtype="int32", name=tensor.name)
            named[tensor.name] = self.tensors[id(value)] = made
            if "mask" not in tensor.name:
                self.tokens[id(value)] = made
        self.named = named
        for call in self.flow.calls:
            self._call(call)
        outputs = keras.tree.map_structure(lambda v: self.tensors[id(v)], self.flow.outputs)
        read = _read(outputs)
        inputs: Any = {key: tensor for key, tensor in named.items() if id(tensor) in read}
        model = keras.Model(
            next(iter(inputs.values())) if len(inputs) == 1 else inputs, outputs, name=name
        )
        for layer, values in self.weights:
            arrays = [_array(value) for value in values]
            shapes, wanted = [a.shape for a in arrays], [tuple(w.shape) for w in layer.weights]
            if shapes != wanted:
                raise ConfigError(
                    f"With texts of {self.length} tokens, {layer.name!r} has weights of the shapes "
                    f"{wanted}, and the model's are {shapes}: give the `length` that it was built "
                    "for."
                )
            layer.set_weights(arrays)
        for name, source in self.attentions:
            _set_attention(model, name, source)
        return model

    # -- calls

    def _call(self, call: Any) -> None:
        from tfcompress.graph.flow import Value

        def given(item: Any) -> Any:
            return self.tensors[id(item)] if isinstance(item, Value) else item

        args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
        operation = call.operation
        masked = any(value.masked for value in (*call.inputs, *call.results))
        if masked:
            raise ModelTypeError(
                f"{call.path!r} carries a mask of Keras's, which is not known here. Build the "
                "model without, and give padding masks."
            )
        write: Callable[..., Any] | None = None
        if type(operation).__module__.startswith(_HUB):
            write = _LAYERS.get(type(operation).__name__)
            if write is None:
                raise ModelTypeError(
                    f"{call.path!r} is a {type(operation).__name__} of keras-hub, which is not "
                    f"known here; known are {', '.join(_LAYERS)}. Convert the model as it is: "
                    "tfc.convert(model, input_shapes=...)."
                )
        found = [self.tokens[id(value)] for value in call.inputs if id(value) in self.tokens]
        self.current = found[0] if found else None
        for result in call.results if found else ():
            self.tokens[id(result)] = found[0]
        if write is not None:
            given_by_name = inspect.signature(operation.call).bind(*args, **kwargs).arguments
            results = write(self, operation, **given_by_name)
        elif (place := _one_place(call)) is not None:
            # A slice and a reshape: taking one index instead would split the graph.
            x = args[0][:, place : place + 1]
            results = self.layer(layers.Reshape, "first", target_shape=(x.shape[-1],))(x)
        else:
            results = self.copy(operation)(*args, **kwargs)
        for value, tensor in zip(call.results, keras.tree.flatten(results), strict=True):
            self.tensors[id(value)] = tensor

    def copy(self, operation: Any) -> Any:
        """Its copy, one for all of its calls."""
        if id(operation) not in self.copies:
            if isinstance(operation, layers.Layer):
                config = operation.get_config() | {
                    "name": self.name(operation.name),
                    "dtype": "float32",
                }
                made = type(operation).from_config(config)
                self.weights.append((made, operation.weights))
            else:
                made = operation
            self.copies[id(operation)] = made
        return self.copies[id(operation)]

    def layer(self, kind: Any, name: str, source: Any = None, **config: Any) -> Any:
        """A new layer, with the weights of another one."""
        made = kind(**config, name=self.name(name))
        if source is not None:
            self.weights.append((made, source.weights))
        return made

    def name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.names:
            name, number = f"{wanted}_{number}", number + 1
        self.names.add(name)
        return name

    # -- what blocks share

    def padded(self, mask: Any) -> Any:
        """What is added to scores for a padding mask (batch, length): 1 for tokens."""
        if mask is None:
            return None
        if id(mask) not in self.masks:
            name = next((n for n, tensor in self.named.items() if tensor is mask), "")
            tokens = self.named.get(name.replace("padding_mask", "token_ids"))
            mask_of = mask
            if self.padding is not None:
                if tokens is None or tokens is mask:
                    raise ConfigError(
                        "Masks are made of tokens where inputs are named 'token_ids' and "
                        f"'padding_mask', with the same in front. Received: padding={self.padding} "
                        f"and the inputs {list(self.named)}. Leave `padding` away."
                    )
                mask_of = tokens if self.padding == 0 else ops.abs(tokens - self.padding)
            self.masks[id(mask)] = transformer.padding_mask(mask_of, self.name("seen"))
        return self.masks[id(mask)]

    def places(self) -> Any:
        """0, 1, 2, ... along the text at hand."""
        tokens = next(iter(self.named.values())) if self.current is None else self.current
        if ("places", id(tokens)) not in self.masks:
            self.masks["places", id(tokens)] = transformer.positions(tokens)
        return self.masks["places", id(tokens)]

    def causal(self) -> Any:
        """What is added to scores so that no token looks ahead."""
        places = self.places()
        if ("causal", id(places)) not in self.masks:
            self.masks["causal", id(places)] = transformer.causal_mask(places)
        return self.masks["causal", id(places)]

    def attention(self, source: Any, x: Any, memory: Any, mask: Any, name: str) -> Any:
        """Attention with the weights of a MultiHeadAttention layer."""
        heads, size, width = source.num_heads, source.key_dim, x.shape[-1]
        if source.value_dim != size or heads * size != width or memory.shape[-1] != width:
            raise ModelTypeError(
                f"The heads of {name!r} must share the {width} channels evenly, keys and values "
                f"alike, of a text of as many. Received: {heads} of {size}, values of "
                f"{source.value_dim}, of {memory.shape[-1]} channels"
            )
        shape = transformer.Shape(width, heads, heads, 0, None, "pre", float(source.dropout or 0.0))
        self.attentions.append((name, source))
        return transformer.attention(x, memory, mask, shape, name=name)

    def feed_forward(self, layer: Any, x: Any, name: str) -> Any:
        """Two Dense layers, with what lies between them."""
        first = layer._feedforward_intermediate_dense
        known = {
            "activation": _stock(first.activation, name),
            "units": first.units,
            "use_bias": first.use_bias,
        }
        approximate = known["activation"] == _APPROXIMATE
        if approximate:
            known["activation"] = None
        x = self.layer(layers.Dense, f"{name}_hidden", first, **known)(x)
        if approximate:
            x = ops.gelu(x, approximate=True)
        last = layer._feedforward_output_dense
        return self.layer(layers.Dense, f"{name}_output", last, units=last.units)(x)

    def residual(self, x: Any, part: Any, norm: Any, dropout: Any, first: bool, name: str) -> Any:
        """Adds to `x` what `part` gives for it; normalised before (`first`) or after."""
        normalised = self.layer(
            layers.LayerNormalization, f"{name}_norm", norm,
            epsilon=norm.epsilon, axis=-1, center=norm.center, scale=norm.scale,
        )  # fmt: skip
        y = part(normalised(x) if first else x)
        if dropout.rate:
            y = self.layer(layers.Dropout, f"{name}_dropout", rate=dropout.rate)(y)
        x = self.layer(layers.Add, f"{name}_add")([x, y])
        return x if first else normalised(x)

    # -- keras-hub's layers

    def encoder(self, layer: Any, inputs: Any, padding_mask: Any = None, **rest: Any) -> Any:
        """A TransformerEncoder."""
        _no_others(layer, rest)
        name = self.block(layer)
        x = self.attended("self", layer, inputs, None, self.padded(padding_mask), name)
        return self.thought(layer, x, name)

    def decoder(
        self, layer: Any, decoder_sequence: Any, encoder_sequence: Any = None,
        decoder_padding_mask: Any = None, encoder_padding_mask: Any = None, **rest: Any,
    ) -> Any:  # fmt: skip
        """A TransformerDecoder; padding lies behind the text, where no token looks."""
        del decoder_padding_mask
        if rest.pop("use_causal_mask", True) is not True:
            raise ModelTypeError(
                f"{layer.name!r} is a decoder that looks ahead, which is not known."
            )
        _no_others(layer, rest)
        name = self.block(layer)
        x = self.attended("self", layer, decoder_sequence, None, self.causal(), name)
        if encoder_sequence is not None:
            mask = self.padded(encoder_padding_mask)
            x = self.attended("cross", layer, x, encoder_sequence, mask, name)
        return self.thought(layer, x, name)

    def attended(self, part: str, layer: Any, x: Any, memory: Any, mask: Any, name: str) -> Any:
        """A block's attention to itself (`memory` is None) or to another text, added to `x`."""
        source = getattr(layer, f"_{part}_attention_layer")
        name = f"{name}_attention" if part == "self" else f"{name}_{part}"

        def look(y: Any) -> Any:
            return self.attention(source, y, y if memory is None else memory, mask, name)

        norm, dropout = (
            getattr(layer, f"_{part}_attention_{n}") for n in ("layer_norm", "dropout")
        )
        return self.residual(x, look, norm, dropout, layer.normalize_first, name)

    def thought(self, layer: Any, x: Any, name: str) -> Any:
        """A block's feed-forward part, added to `x`."""
        return self.residual(
            x, lambda y: self.feed_forward(layer, y, f"{name}_ffn"),
            layer._feedforward_layer_norm, layer._feedforward_dropout, layer.normalize_first,
            f"{name}_ffn",
        )  # fmt: skip

    def block(self, layer: Any) -> str:
        """The name of a block, which is called once."""
        if id(layer) in self.copies:
            raise ModelTypeError(
                f"{layer.name!r} is called more than once, as in ALBERT: written out, its weights "
                "would no longer be shared. Convert the model as it is: tfc.convert(model, "
                "input_shapes=...)."
            )
        self.copies[id(layer)] = layer
        return self.name(layer.name)

    def table_of_positions(self, layer: Any, inputs: Any = None, **rest: Any) -> Any:
        """A PositionEmbedding: rows for (1, length)."""
        del inputs  # only its length counts
        _no_others(layer, rest)
        rows = layer.position_embeddings
        if rows.shape[0] < self.length:
            raise ConfigError(
                f"`length` is at most {rows.shape[0]}, for which {layer.name!r} has positions. "
                f"Received: {self.length}"
            )
        if id(layer) not in self.copies:
            made = self.layer(
                layers.Embedding, layer.name, input_dim=self.length, output_dim=rows.shape[1]
            )
            self.weights.append((made, [_array(rows)[: self.length]]))
            self.copies[id(layer)] = made
        return self.copies[id(layer)](self.places())

    def both_tables(self, layer: Any, inputs: Any, **rest: Any) -> Any:
        """A TokenAndPositionEmbedding."""
        _no_others(layer, rest)
        table = layer.token_embedding
        own = type(table).__module__.startswith(_HUB)
        x = self.reversible(table, inputs) if own else self.copy(table)(inputs)
        places = self.table_of_positions(layer.position_embedding)
        return self.layer(layers.Add, f"{layer.name}_add")([x, places])

    def reversible(self, layer: Any, inputs: Any, reverse: bool = False) -> Any:
        """The ReversibleEmbedding of older versions of keras-hub, which Keras has taken over."""
        if id(layer) not in self.copies:
            made = transformer.embedding(
                layer.input_dim, layer.output_dim, self.name(layer.name), tied=True
            )
            self.weights.append((made, layer.weights))
            self.copies[id(layer)] = made
        return self.copies[id(layer)](inputs, reverse=reverse)


_LAYERS: dict[str, Callable[..., Any]] = {
    "TransformerEncoder": _Writer.encoder,
    "TransformerDecoder": _Writer.decoder,
    "PositionEmbedding": _Writer.table_of_positions,
    "TokenAndPositionEmbedding": _Writer.both_tables,
    "ReversibleEmbedding": _Writer.reversible,
}
_APPROXIMATE = "gelu_approximate"


def _array(weight: Any) -> np.ndarray:
    """A weight as float32, whatever its dtype."""
    return np.asarray(ops.convert_to_numpy(ops.cast(weight, "float32")))


def _stock(activation: Any, name: str) -> str:
    """The name of an activation, which Keras alone can load."""
    known = getattr(activation, "__name__", "")
    if known == _APPROXIMATE or activation is getattr(keras.activations, known, None):
        return known
    raise ModelTypeError(f"The activation {activation!r} of {name!r} is not one of Keras's.")


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def _no_others(layer: Any, rest: dict[str, Any]) -> None:
    """Checks that nothing else was asked of a block."""
    asked = sorted(
        name for name, value in rest.items()
        if name != "training" and not (value is None or value is False or _is_zero(value))
    )  # fmt: skip
    if asked:
        raise ModelTypeError(f"{layer.name!r} is called with {asked}, which is not known here.")


def _set_attention(model: keras.Model, name: str, source: Any) -> None:
    """The weights of a MultiHeadAttention layer in Dense layers."""
    width = model.get_layer(f"{name}_output").units
    for part in ("query", "key", "value"):
        dense = getattr(source, f"_{part}_dense")
        kernel, bias = map(_array, (dense.kernel, dense.bias))
        if part == "query":
            bias = bias * source.key_dim**-0.5  # here the factor stands before the kernel
        model.get_layer(f"{name}_{part}").set_weights(
            [kernel.reshape(width, width), bias.reshape(width)]
        )
    dense = source._output_dense
    kernel, bias = map(_array, (dense.kernel, dense.bias))
    model.get_layer(f"{name}_output").set_weights([kernel.reshape(width, width), bias])


def _one_place(call: Any) -> int | None:
    """The place of `x[:, place, :]`, where a call takes it."""
    key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
    whole = slice(None)
    if type(call.operation).__name__ != "GetItem" or not isinstance(key, tuple):
        return None
    if len(call.inputs[0].shape) != 3:
        return None
    one = len(key) in (2, 3) and isinstance(key[1], int) and key[1] >= 0
    return key[1] if one and key[0] == whole and key[2:] in ((), (whole,)) else None


def _read(outputs: Any) -> set[int]:
    """The `id`s of the tensors that outputs are made of."""
    seen: set[int] = set()
    rest = keras.tree.flatten(outputs)
    while rest:
        tensor = rest.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            made = tensor._keras_history.operation
            if made is not None and not isinstance(made, layers.InputLayer):
                node = made._inbound_nodes[tensor._keras_history.node_index]
                rest.extend(node.input_tensors)
    return seen
