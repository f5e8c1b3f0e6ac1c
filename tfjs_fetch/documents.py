"""From the bytes of a model.json to what can be loaded, and to the weights where all bytes are at hand."""

import warnings
from collections.abc import Iterable, Mapping

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.config import Limits, Policy
from tfjs_fetch.content import HEAD_BYTES, recognise
from tfjs_fetch.errors import ManifestError, WrongContentError
from tfjs_fetch.files import GivenFiles
from tfjs_fetch.format.decoding import Buffer
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.manifest import Manifest, parse
from tfjs_fetch.gathering import gather
from tfjs_fetch.planning import Blueprint, draw


def read_document(
    document: bytes, source: str, limits: Limits, policy: Policy, weights: str | Iterable[str] | None = None
) -> Blueprint:
    """Return the blueprint for the wanted `weights` of a model.json; `source` names it in errors.

    Raises ManifestError, RefusedError, ShardOrderError and UnknownWeightError as parsing and drawing do, and
    WrongContentError for something that is visibly another file.
    """
    return draw(_parsed(document, source, limits), weights, policy)


def decode(
    model_json: Buffer | Array,
    shards: Mapping[str, Buffer | Array],
    *,
    limits: Limits = Limits(),
    policy: Policy = Policy(),
) -> WeightBundle:
    """Return the weights out of bytes at hand, without any I/O: an upload, or the files that ml5.js saves.

    `shards` are found by their path in the JSON, or by the file name alone. What is odd but no error is a UserWarning.

    Raises ManifestError, DecodeError and UnreachableError (a file is not among `shards`) as `fetch` does.
    """
    blueprint = read_document(bytes(_view(model_json)), "model.json", limits, policy)
    files = GivenFiles({name: _view(content) for name, content in shards.items()})
    needed = [path for layout in blueprint.layouts if blueprint.is_needed(layout) for path in layout.paths]
    odd: list[str] = []
    stored = gather(blueprint, files.shards(needed, limits.weight_bytes), odd.append)
    for message in odd:
        warnings.warn(message, stacklevel=2)
    return WeightBundle(blueprint.manifest, stored, source="bytes")


def _view(data: Buffer | Array) -> memoryview:
    return memoryview(data)  # type: ignore[arg-type]  # arrays lend their memory, which types know from Python 3.12 on


def _parsed(document: bytes, source: str, limits: Limits) -> Manifest:
    try:
        return parse(document, source=source, limits=limits)
    except ManifestError:
        content = recognise(document[:HEAD_BYTES])
        if content is None or content == "a JSON document":
            raise
        raise WrongContentError(source, content) from None
