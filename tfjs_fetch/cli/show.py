"""`tfjs-fetch show`: what a model is: weights, layers or graph, inputs and outputs. No shard is asked for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from tfjs_fetch.bars import counted
from tfjs_fetch.cli.options import client, source_options
from tfjs_fetch.cli.output import (
    MINOR_WEIGHT_COLUMNS,
    WEIGHT_COLUMNS,
    Row,
    decoded_bytes,
    print_json,
    print_table,
    say,
    shape,
    summary,
    totals,
    weight_rows,
    weights_json,
)
from tfjs_fetch.cli.plan import planned
from tfjs_fetch.format.topology import GraphTopology, Layer, LayersTopology, Port, topology
from tfjs_fetch.planning import Plan

_Structure = LayersTopology | GraphTopology | None


@click.command()
@source_options
def show(
    source: str,
    weights: Sequence[str],
    headers: Sequence[str],
    shard_url: str | None,
    allow: Sequence[str],
    cache_mode: str,
    as_json: bool,
) -> None:
    """Show what is in SOURCE: weights, layers, inputs, outputs.

    Only model.json is asked for. In shapes, ? is a size that is free, as that of the batch.
    """
    plan = planned(source, weights, shard_url, client(headers, allow, cache_mode))
    structure = topology(plan.manifest)
    if as_json:
        print_json(_json(plan, structure))
        return
    for index, (columns, rows) in enumerate(_tables(plan, structure)):
        if index > 0:
            click.echo()
        print_table(columns, rows, minor=MINOR_WEIGHT_COLUMNS if columns == WEIGHT_COLUMNS else ())
    say(f"{plan.source} is {_kind(plan, structure)}: {summary(plan.weights)}")


def _tables(plan: Plan, structure: _Structure) -> Iterator[tuple[Sequence[str], Sequence[Row]]]:
    """Yield columns and rows. The long ones come first: what matters most should still be on the screen at the end."""
    if plan.weights:
        yield WEIGHT_COLUMNS, weight_rows(plan.weights)
    match structure:
        case LayersTopology():
            yield (
                ("layer", "class"),
                [("  " * depth + layer.name, layer.class_name) for depth, layer in _deep(structure)],
            )
        case GraphTopology():
            yield ("operation", "nodes"), Counter(node.op for node in structure.nodes).most_common()
    if plan.weights:
        yield ("total", "weights", "values", "bytes"), totals(plan.weights)
    if structure is not None:
        ends = [*_port_rows("input", structure.inputs), *_port_rows("output", structure.outputs)]
        yield ("port", "name", "shape", "dtype"), ends


def _kind(plan: Plan, structure: _Structure) -> str:
    match structure:
        case LayersTopology():
            return f"a layers model of {counted(len(list(_deep(structure))), 'layer')}"
        case GraphTopology():
            return f"a graph model of {counted(len(structure.nodes), 'node')}"
        case _:
            return {"layers": "a layers model", "graph": "a graph model", "weights": "weights without a topology"}[
                plan.manifest.kind
            ]


def _port_rows(end: str, ports: Sequence[Port]) -> Iterator[Row]:
    for port in ports:
        yield end, port.name, None if port.shape is None else shape(port.shape), port.dtype


def _deep(layers: LayersTopology | Layer, depth: int = 0) -> Iterator[tuple[int, Layer]]:
    """Yield all layers, each before those inside it, and how deep they are."""
    for layer in layers.layers:
        yield depth, layer
        yield from _deep(layer, depth + 1)


def _json(plan: Plan, structure: _Structure) -> Any:
    about: dict[str, Any] = {
        "source": plan.source,
        "kind": plan.manifest.kind,
        "stored_bytes": plan.total_bytes,
        "decoded_bytes": decoded_bytes(plan.weights),
        "weights": weights_json(plan.weights),
    }
    if structure is not None:
        about["inputs"] = [asdict(port) for port in structure.inputs]
        about["outputs"] = [asdict(port) for port in structure.outputs]
    match structure:
        case LayersTopology():
            about["layers"] = list(map(_layer_json, structure.layers))
        case GraphTopology():
            about["operations"] = dict(Counter(node.op for node in structure.nodes))
    return about


def _layer_json(layer: Layer) -> Any:
    inside = {"layers": list(map(_layer_json, layer.layers))} if layer.layers else {}
    return {"name": layer.name, "class_name": layer.class_name, **inside}
