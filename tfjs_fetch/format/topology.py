"""What the topology of a model says about itself: its layers or nodes, and what goes in and comes out.

Both kinds come in several spellings: layers models as a Sequential list or object, as a functional Model, wrapped in
`model_config` or not, from Keras 2 and 3; graph models as a GraphDef in protobuf's JSON, with enums as names or as
numbers. What a document leaves out or spells in an unknown way is left out here, too: nothing is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfjs_fetch.format.manifest import Json, Manifest
from tfjs_fetch.format.shapes import Shape, known, output_shape

_MODELS = ("Sequential", "Model", "Functional")
# Layers that are followed back from an output to tell its shape, and outputs that this is done for.
_MAX_STEPS = 100
_MAX_OUTPUTS = 100


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model. `shape` is None if the document does not say, with None for each free size."""

    name: str
    shape: Shape | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a layers model.

    `inbound` names the layers whose outputs it takes (in the first of its calls; empty in a Sequential). `layers` are
    those inside a nested model or a wrapper, `outputs` which of them give a functional model's output.
    """

    name: str
    class_name: str
    config: Mapping[str, Json]
    inbound: tuple[str, ...] = ()
    layers: tuple["Layer", ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayersTopology:
    """The topology of a layers model, its layers in the order of the document."""

    name: str
    class_name: str
    layers: tuple[Layer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph model. `inputs` are as written, `name`, `name:1` or `^name`."""

    name: str
    op: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GraphTopology:
    """The topology of a graph model, its nodes in the order of the document."""

    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def topology(manifest: Manifest) -> LayersTopology | GraphTopology | None:
    """Return the topology of the model; None if the document has none."""
    if manifest.topology is None:
        return None
    match manifest.kind:
        case "layers":
            return _layers_topology(manifest.topology)
        case "graph":
            return _graph_topology(manifest.topology, _signature(manifest.document))
        case _:
            return None


def _layers_topology(document: Mapping[str, Json]) -> LayersTopology:
    model = document.get("model_config") or document
    if not isinstance(model, dict):
        model = {}
    config = model.get("config")
    name = _text(_mapping(config).get("name"))
    layers = tuple(_layers(config))
    inputs, outputs = _ends(_mapping(config), layers)
    return LayersTopology(name, _text(model.get("class_name")), layers, inputs, outputs)


def _layers(config: Json) -> Iterator[Layer]:
    """Yield the layers of a Sequential or functional `config`; a list is the older spelling of a Sequential one."""
    entries = config if isinstance(config, list) else _mapping(config).get("layers")
    for entry in _list(entries):
        if isinstance(entry, dict):
            yield _layer(entry)


def _layer(entry: Mapping[str, Json]) -> Layer:
    config = _mapping(entry.get("config"))
    name = _text(config.get("name")) or _text(entry.get("name"))
    inner = entry.get("config") if isinstance(entry.get("config"), list) else config
    wrapped = [config["layer"]] if isinstance(config.get("layer"), dict) else []
    layers = (*_layers(inner), *(_layer(one) for one in wrapped))
    inbound, outputs = tuple(_inbound(entry.get("inbound_nodes"))), tuple(_references(config.get("output_layers")))
    return Layer(name, _text(entry.get("class_name")), config, inbound, layers, outputs)


def _inbound(calls: Json) -> Iterator[str]:
    """Yield the layers that the first of `calls` takes: `[["a", 0, 0, {}], …]`, or Keras 3's tree of tensors."""
    first = calls[0] if isinstance(calls, list) and calls else None
    return _histories(first) if isinstance(first, dict) else _references(first)


def _histories(value: Json) -> Iterator[str]:
    """Yield the layers named by each `keras_history` anywhere inside `value`."""
    if isinstance(value, dict):
        yield from _references(value.get("keras_history"))
    for inner in value.values() if isinstance(value, dict) else _list(value):
        yield from _histories(inner)


def _ends(config: Mapping[str, Json], layers: Sequence[Layer]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs of a model; for outputs whose shape no rule tells it is None."""
    by_name = {layer.name: layer for layer in layers}
    if "input_layers" in config:
        inputs = [by_name[name] for name in _references(config["input_layers"]) if name in by_name]
        outputs = [by_name[name] for name in _references(config.get("output_layers")) if name in by_name]
    else:
        inputs, outputs = list(layers[:1]), list(layers[-1:])
    around = _Surroundings(layers, "input_layers" not in config, lambda: None, {})
    shapes = [known(_output_shape(layer, around)) if n < _MAX_OUTPUTS else None for n, layer in enumerate(outputs)]
    ports = (Port(layer.name, shape, None) for layer, shape in zip(outputs, shapes, strict=True))
    return tuple(map(_input, inputs)), tuple(ports)


def _references(value: Json) -> Iterator[str]:
    """Yield the layer names of `[["a", 0, 0], …]`, of `["a", 0, 0]` or of a mapping of such (Keras 3)."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = [value]
    for reference in _list(value):
        if isinstance(reference, list) and reference and isinstance(reference[0], str):
            yield reference[0]


def _input(layer: Layer) -> Port:
    """Return the input that `layer` declares, or the first of the layers inside it."""
    for key in ("batch_input_shape", "batch_shape"):
        if (shape := _shape(layer.config.get(key))) is not None:
            return Port(layer.name, shape, _dtype(layer.config))
    if (shape := _shape(layer.config.get("input_shape"))) is not None:
        return Port(layer.name, (None, *shape), _dtype(layer.config))
    if layer.layers:
        inner = _input(layer.layers[0])
        return Port(layer.name, inner.shape, inner.dtype)
    return Port(layer.name, None, _dtype(layer.config))


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """The layers of one model, one behind the other if it is a `chain`, and the shape that enters it, if any does.

    `found` keeps for each model seen (by the identity of its layers) those by name, and the place of each.
    """

    layers: Sequence[Layer]
    chain: bool
    entering: Callable[[], Shape | None]
    found: dict[int, tuple[Mapping[str, Layer], Mapping[int, int]]]
    steps: int = _MAX_STEPS

    def inside(self, model: Layer, entering: Callable[[], Shape | None]) -> "_Surroundings":
        """Return those of the layers inside `model`."""
        return replace(self, layers=model.layers, chain=not model.outputs, entering=entering)

    def before(self, layer: Layer) -> Layer | None:
        """Return the layer whose output `layer` takes first; None at the beginning."""
        by_name, places = self._index()
        if layer.inbound:
            return by_name.get(layer.inbound[0])
        position = places.get(id(layer), 0)
        return self.layers[position - 1] if self.chain and position > 0 else None

    def _index(self) -> tuple[Mapping[str, Layer], Mapping[int, int]]:
        if id(self.layers) not in self.found:
            by_name = {layer.name: layer for layer in reversed(self.layers)}
            self.found[id(self.layers)] = by_name, {id(layer): place for place, layer in enumerate(self.layers)}
        return self.found[id(self.layers)]


def _output_shape(layer: Layer, around: _Surroundings) -> Shape | None:
    """Return the shape that `layer` gives; sizes that cannot be told are `UNKNOWN`."""
    if around.steps == 0:
        return None
    further = replace(around, steps=around.steps - 1)

    def taken() -> Shape | None:
        before = around.before(layer)
        return (_input(layer).shape or around.entering()) if before is None else _output_shape(before, further)

    if layer.layers and layer.class_name in _MODELS:
        outputs = [inner for inner in layer.layers if inner.name in layer.outputs] or [layer.layers[-1]]
        return _output_shape(outputs[0], further.inside(layer, taken))
    return taken() if layer.class_name == "InputLayer" else output_shape(layer.class_name, layer.config, taken)


def _dtype(config: Mapping[str, Json]) -> str:
    dtype = config.get("dtype")
    return dtype if isinstance(dtype, str) else "float32"


def _shape(value: Json) -> Shape | None:
    if not isinstance(value, list) or not all(size is None or type(size) is int for size in value):
        return None
    return tuple(value)


def _graph_topology(document: Mapping[str, Json], signature: Mapping[str, Json]) -> GraphTopology:
    entries = [entry for entry in _list(document.get("node")) if isinstance(entry, dict)]
    nodes = tuple(_node(entry) for entry in entries)
    inputs = _ports(_mapping(signature.get("inputs"))) or _placeholders(entries)
    outputs = _ports(_mapping(signature.get("outputs"))) or _unconsumed(nodes)
    return GraphTopology(nodes, inputs, outputs)


def _node(entry: Mapping[str, Json]) -> Node:
    inputs = tuple(name for name in _list(entry.get("input")) if isinstance(name, str))
    return Node(_text(entry.get("name")), _text(entry.get("op")), inputs)


def _signature(document: Json) -> Mapping[str, Json]:
    """Return the signature; one in the user's metadata has precedence, as in TF.js."""
    inner = _mapping(_mapping(document).get("userDefinedMetadata")).get("signature")
    return _mapping(inner) or _mapping(_mapping(document).get("signature"))


def _ports(entries: Mapping[str, Json]) -> tuple[Port, ...]:
    return tuple(
        Port(key, _tensor_shape(_mapping(entry).get("tensorShape")), _type_name(_mapping(entry).get("dtype")))
        for key, entry in entries.items()
    )


def _placeholders(entries: Sequence[Mapping[str, Json]]) -> tuple[Port, ...]:
    return tuple(
        Port(
            _text(entry.get("name")),
            _tensor_shape(_attribute(entry, "shape").get("shape")),
            _type_name(_attribute(entry, "dtype").get("type")),
        )
        for entry in entries
        if _text(entry.get("op")).startswith("Placeholder")
    )


def _unconsumed(nodes: Sequence[Node]) -> tuple[Port, ...]:
    """Return the nodes that no other one takes as input: the outputs of a graph without signature."""
    consumed = {name.lstrip("^").split(":", 1)[0] for node in nodes for name in node.inputs}
    return tuple(Port(node.name, None, None) for node in nodes if node.name not in consumed and node.op != "Const")


def _attribute(entry: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    return _mapping(_mapping(entry.get("attr")).get(name))


def _tensor_shape(value: Json) -> Shape | None:
    """Return the shape in protobuf's JSON, where 64-bit integers are strings and a scalar is an empty object."""
    if not isinstance(value, dict) or value.get("unknownRank"):
        return None
    sizes = [_mapping(dimension).get("size", 0) for dimension in _list(value.get("dim"))]
    try:
        return tuple(None if int(size) < 0 else int(size) for size in sizes)
    except (TypeError, ValueError, OverflowError):  # an infinity: Python's JSON takes 1e999
        return None


# tensorflow/core/framework/types.proto, the numbers that TF.js knows.
_TYPE_NUMBERS = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 6: "int8", 7: "string", 8: "complex64", 9: "int64", 10: "bool",
    18: "complex128", 19: "float16",
}  # fmt: skip
_TYPE_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}


def _type_name(value: Json) -> str | None:
    if isinstance(value, int):
        return _TYPE_NUMBERS.get(value)
    if isinstance(value, str):
        return _TYPE_NAMES.get(value, value.removeprefix("DT_").lower())
    return None


def _mapping(value: Json) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""
