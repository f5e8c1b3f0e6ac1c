"""`tfjs-fetch show`: what a model is: weights, layers or graph, inputs and outputs. No shard is asked for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from tfjs_fetch.cli.options import source_options
from tfjs_fetch.cli.output import (
    MINOR_WEIGHT_COLUMNS,
    WEIGHT_COLUMNS,
    decoded_bytes,
    print_json,
    print_lines,
    print_table,
    shape,
    totals,
    weight_rows,
    weights_json,
)
from tfjs_fetch.cli.plan import planned
from tfjs_fetch.format.topology import GraphTopology, Layer, LayersTopology, Port, topology
from tfjs_fetch.planning import Plan


@click.command()
@source_options
def show(
    source: str,
    weights: Sequence[str],
    headers: Sequence[str],
    shard_url: str | None,
    allow: Sequence[str],
    as_json: bool,
) -> None:
    """Show the weights, the layers or graph, and the inputs and outputs of SOURCE."""
    plan = planned(source, weights, headers, shard_url, allow)
    structure = topology(plan.manifest)
    if as_json:
        print_json(_json(plan, structure))
        return
    print_lines([f"{plan.source}: {_kind(plan)}", ""])
    _print_structure(structure)
    if plan.weights:
        print_table(WEIGHT_COLUMNS, weight_rows(plan.weights), minor=MINOR_WEIGHT_COLUMNS)
        print_lines([""])
        print_table(("total", "weights", "values", "bytes"), totals(plan.weights))


def _kind(plan: Plan) -> str:
    kinds = {"layers": "a layers model", "graph": "a graph model", "weights": "weights without a topology"}
    return f"{kinds[plan.manifest.kind]}, {len(plan.weights):,} weights"


def _print_structure(structure: LayersTopology | GraphTopology | None) -> None:
    if structure is None:
        return
    rows = [*_port_rows("input", structure.inputs), *_port_rows("output", structure.outputs)]
    print_table(("", "name", "shape", "dtype"), rows)
    print_lines([""])
    if isinstance(structure, LayersTopology):
        print_table(("layer", "class"), list(_layer_rows(structure.layers)))
    else:
        ops = Counter(node.op for node in structure.nodes)
        print_table(("operation", "nodes"), ops.most_common())
    print_lines([""])


def _port_rows(kind: str, ports: Sequence[Port]) -> Iterator[tuple[str, str, str, str]]:
    for port in ports:
        yield kind, port.name, shape(port.shape), port.dtype or "-"


def _layer_rows(layers: Sequence[Layer], indent: str = "") -> Iterator[tuple[str, str]]:
    for layer in layers:
        yield indent + layer.name, layer.class_name
        yield from _layer_rows(layer.layers, indent + "  ")


def _json(plan: Plan, structure: LayersTopology | GraphTopology | None) -> Any:
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
            about["layers"] = [{"name": n, "class_name": kind} for n, kind in _layer_rows(structure.layers)]
        case GraphTopology():
            about["operations"] = dict(Counter(node.op for node in structure.nodes))
    return about
