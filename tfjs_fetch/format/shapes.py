"""What shape comes out of a layer, as far as a few rules tell: enough for the ends of most models.

A size that the rules do not tell is `UNKNOWN`, which is not the same as a size that is free (None). Strides and
paddings are not followed: they matter inside a model, and hardly ever at its end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int | None, ...]

UNKNOWN = -1

# fmt: off
_KEEPING = {
    "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Softmax", "Dropout", "AlphaDropout",
    "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "BatchNormalization",
    "BatchNormalizationV1", "LayerNormalization", "Masking", "ActivityRegularization", "Add", "Multiply", "Average",
    "Maximum", "Minimum",
}
# fmt: on
_RECURRENT = {"SimpleRNN", "GRU", "LSTM", "UnifiedGRU", "UnifiedLSTM"}
_CONVOLUTIONS = {"Conv1D": 3, "Conv2D": 4, "Conv3D": 5, "SeparableConv1D": 3, "SeparableConv2D": 4}
_CONVOLUTIONS |= {"Conv1DTranspose": 3, "Conv2DTranspose": 4, "Conv3DTranspose": 5, "DepthwiseConv2D": 4}


def output_shape(class_name: str, config: Mapping[str, Any], taken: Callable[[], Shape | None]) -> Shape | None:
    """Return the shape that a layer gives; None if not even the number of its sizes is known.

    `taken` tells the shape that the layer takes, and is called only if the rule needs it.
    """
    if class_name in _KEEPING:
        return taken()
    if class_name in _CONVOLUTIONS:
        return _convolution(_CONVOLUTIONS[class_name], config)
    if class_name in _RECURRENT:
        units = _size(config.get("units"))
        return _with_last(taken(), units) if config.get("return_sequences") else (None, units)
    match class_name:
        case "Dense":
            return _with_last(taken(), _size(config.get("units")))
        case "Flatten":
            return _flat(taken())
        case "Embedding":
            before = taken()
            return None if before is None else (*before, _size(config.get("output_dim")))
        case "Reshape":
            target = config.get("target_shape")
            return (None, *map(_size, target)) if isinstance(target, list) else None
        case _ if class_name.startswith("Global") and "Pooling" in class_name:
            before = taken()
            return (None, before[-1]) if before and config.get("data_format") != "channels_first" else (None, UNKNOWN)
        case _:
            return None


def known(shape: Shape | None) -> Shape | None:
    """Return `shape` if every size of it is known or free, else None."""
    return None if shape is None or UNKNOWN in shape else shape


def _convolution(rank: int, config: Mapping[str, Any]) -> Shape | None:
    if config.get("data_format") == "channels_first":
        return None
    return (None, *[UNKNOWN] * (rank - 2), _size(config.get("filters")))


def _with_last(before: Shape | None, last: int) -> Shape | None:
    return None if before is None else (*before[:-1], last)


def _flat(before: Shape | None) -> Shape:
    sizes: Sequence[int | None] = (UNKNOWN,) if before is None else before[1:]
    products = [size for size in sizes if size is not None and size != UNKNOWN]
    return (None, math.prod(products) if len(products) == len(sizes) else UNKNOWN)


def _size(value: Any) -> int:  # whatever stands in the JSON
    return value if type(value) is int and value >= 0 else UNKNOWN
