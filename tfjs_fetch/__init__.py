"""Fetch TensorFlow.js models over HTTP into typed numpy weights: async, parallel, checked, with progress.

bundle = await tfjs_fetch.fetch("https://host/model.json")
"""

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.client import Client, fetch, fetch_sync, plan
from tfjs_fetch.config import Cache, Limits, Policy, Retry
from tfjs_fetch.documents import decode
from tfjs_fetch.errors import (
    CacheError,
    DecodeError,
    EncodeError,
    ExtraBytesError,
    IntegrityError,
    ManifestError,
    MissingBytesError,
    MissingExtraError,
    ModelChangedError,
    NotCachedError,
    RefusedError,
    ShardOrderError,
    StalledError,
    StatusError,
    TfjsFetchError,
    TransportError,
    TruncatedError,
    UnknownWeightError,
    UnreachableError,
    WrongContentError,
)
from tfjs_fetch.events import (
    Event,
    Finished,
    OnEvent,
    Planned,
    Retrying,
    ShardFinished,
    ShardProgress,
    Stalled,
    Warned,
    WeightReady,
)
from tfjs_fetch.format.decoding import GroupDecoder
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight, lay_out
from tfjs_fetch.format.manifest import Manifest, Quantization, WeightGroup, WeightSpec, parse
from tfjs_fetch.format.topology import GraphTopology, Layer, LayersTopology, Node, Port
from tfjs_fetch.planning import Plan, PlannedShard
from tfjs_fetch.progress import ProgressState, ShardState
from tfjs_fetch.transport import HttpClient

__all__ = [
    "Cache",
    "CacheError",
    "Client",
    "DecodeError",
    "EncodeError",
    "Event",
    "ExtraBytesError",
    "Finished",
    "GraphTopology",
    "GroupDecoder",
    "GroupLayout",
    "HttpClient",
    "IntegrityError",
    "Layer",
    "LayersTopology",
    "Limits",
    "Manifest",
    "ManifestError",
    "MissingBytesError",
    "MissingExtraError",
    "ModelChangedError",
    "Node",
    "NotCachedError",
    "OnEvent",
    "PlacedWeight",
    "Plan",
    "Planned",
    "PlannedShard",
    "Policy",
    "Port",
    "ProgressState",
    "Quantization",
    "RefusedError",
    "Retry",
    "Retrying",
    "ShardFinished",
    "ShardOrderError",
    "ShardProgress",
    "ShardState",
    "Stalled",
    "StalledError",
    "StatusError",
    "TfjsFetchError",
    "TransportError",
    "TruncatedError",
    "UnknownWeightError",
    "UnreachableError",
    "Warned",
    "WeightBundle",
    "WeightGroup",
    "WeightReady",
    "WeightSpec",
    "WrongContentError",
    "decode",
    "fetch",
    "fetch_sync",
    "lay_out",
    "parse",
    "plan",
]
