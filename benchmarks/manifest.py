"""Reading and laying out a model.json against `json.loads` and as many plain pydantic models.

The peer does the least that anyone does who wants typed weights: parse the JSON and build a model for each entry, with
none of the checks, limits or positions.
"""

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from pydantic import BaseModel

from benchmarks.hosting import Synthetic
from benchmarks.pairs import median, paired, print_table, ratio, run
from tfjs_fetch.format.layout import lay_out
from tfjs_fetch.format.manifest import parse

# 50,000 weights take at most 2.5 times as long as json.loads and as many pydantic models.
PEER_TARGET = 2.5
PEER_WEIGHTS = 50_000
# The cost grows linearly from 50,000 to 100,000 weights. Twice the work is twice the time, and 25 %
# for Python's garbage collector: it looks at all objects so far each time they have grown by a quarter, and while they
# are not many more than those of the interpreter it saves passes. The growth without it is shown as well.
GROWTH_TARGET = 2.0 * 1.25

_HALF, _WHOLE = PEER_WEIGHTS, 2 * PEER_WEIGHTS
_MORE_COUNTS = (25_000, 100_000)
# Plain ones come first and alone in short runs: they are the nearer to the target.
_KINDS: Sequence[tuple[str, Literal["float32", "uint8"]]] = (("plain", "float32"), ("quantized", "uint8"))


class _Quantization(BaseModel):
    dtype: str
    min: float | None = None
    scale: float | None = None


class _Weight(BaseModel):
    name: str
    shape: list[int]
    dtype: str
    quantization: _Quantization | None = None


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    rows: list[Sequence[str]] = []
    for kind, stored in _KINDS[: 2 if full else 1]:
        documents = {count: Synthetic("", count, 64, stored).document for count in (_HALF, _WHOLE, *_MORE_COUNTS)}
        # Growth is a ratio as well, so all sizes are in one round.
        rounds = paired(_contenders(documents, full), 15 if full else 5)
        for count in sorted((_HALF, *_MORE_COUNTS * full)):
            cost = ratio(rounds, f"ours {count}", f"peer {count}")
            times = [f"{median(rounds, f'{name} {count}') * 1000:.0f}" for name in ("ours", "peer")]
            rows.append((f"{kind}, {count:,} weights", *times, f"{cost:.2f} x peer"))
            if count == PEER_WEIGHTS and cost > PEER_TARGET:
                yield f"{kind}, {count:,} weights: {cost:.2f} times the peer, not {PEER_TARGET}"
        for name, way in (("ours", ""), ("uncollected", ", collector off")):
            growth = ratio(rounds, f"{name} {_WHOLE}", f"{name} {_HALF}")
            time = f"{median(rounds, f'{name} {_WHOLE}') * 1000:.0f}"
            rows.append((f"{kind}, {_HALF:,} to {_WHOLE:,}{way}", time, "", f"grows {growth:.2f} x"))
            if name == "ours" and growth > GROWTH_TARGET:
                yield f"{kind}: grows {growth:.2f} times from {_HALF:,} to {_WHOLE:,} weights, not {GROWTH_TARGET:.2f}"
    print_table("parse and lay_out", ("manifest", "ours, ms", "peer, ms", "ratio"), rows)


def _contenders(documents: Mapping[int, bytes], full: bool) -> Mapping[str, Callable[[], object]]:
    contenders: dict[str, Callable[[], object]] = {}
    for count, document in documents.items():
        if full or count in (_HALF, _WHOLE):
            contenders[f"ours {count}"] = partial(_ours, document)
        if full or count == _HALF:
            contenders[f"peer {count}"] = partial(_peer, document)
        if count in (_HALF, _WHOLE):
            contenders[f"uncollected {count}"] = partial(_uncollected, document)
    return contenders


def _ours(document: bytes) -> object:
    return lay_out(parse(document))


def _uncollected(document: bytes) -> object:
    gc.disable()
    try:
        return _ours(document)
    finally:
        gc.enable()


def _peer(document: bytes) -> object:
    return [_Weight.model_validate(entry) for group in json.loads(document) for entry in group["weights"]]


if __name__ == "__main__":
    run(__doc__, main)
