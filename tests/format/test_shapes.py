"""The rules are Keras's; the shapes of the corpus come from predictions of the real TF.js."""

from typing import Any

import pytest

from tests.corpus import model, on_every_model
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.format.shapes import UNKNOWN, Shape, known, output_shape
from tfjs_fetch.format.topology import LayersTopology, topology

_IMAGE: Shape = (None, 8, 8, 3)
_SEQUENCE: Shape = (None, 20, 6)


@pytest.mark.parametrize(
    ("class_name", "config", "taken", "given"),
    [
        ("Dense", {"units": 5}, (None, 7), (None, 5)),
        ("Dense", {"units": 5}, _SEQUENCE, (None, 20, 5)),
        ("Dense", {"units": 5}, None, None),
        ("Dense", {"units": "many"}, (None, 7), (None, UNKNOWN)),
        ("Activation", {"activation": "softmax"}, _IMAGE, _IMAGE),
        ("Flatten", {}, _IMAGE, (None, 192)),
        ("Flatten", {}, (None, UNKNOWN, UNKNOWN, 64), (None, UNKNOWN)),
        ("Flatten", {}, None, (None, UNKNOWN)),
        ("Conv2D", {"filters": 16}, _IMAGE, (None, UNKNOWN, UNKNOWN, 16)),
        ("Conv2D", {"filters": 16, "data_format": "channels_first"}, _IMAGE, None),
        ("DepthwiseConv2D", {"depth_multiplier": 2}, _IMAGE, (None, UNKNOWN, UNKNOWN, UNKNOWN)),
        ("GlobalAveragePooling2D", {}, (None, UNKNOWN, UNKNOWN, 16), (None, 16)),
        ("GlobalMaxPooling1D", {"data_format": "channels_first"}, _SEQUENCE, (None, UNKNOWN)),
        ("LSTM", {"units": 4}, _SEQUENCE, (None, 4)),
        ("GRU", {"units": 4, "return_sequences": True}, _SEQUENCE, (None, 20, 4)),
        ("Embedding", {"input_dim": 100, "output_dim": 8}, (None, 20), (None, 20, 8)),
        ("Reshape", {"target_shape": [4, 6]}, None, (None, 4, 6)),
        ("Reshape", {"target_shape": [-1, 6]}, None, (None, UNKNOWN, 6)),
        ("SomebodysLayer", {"units": 5}, (None, 7), None),
    ],
)
def test_each_rule(class_name: str, config: dict[str, Any], taken: Shape | None, given: Shape | None) -> None:
    assert output_shape(class_name, config, lambda: taken) == given


def test_a_shape_with_an_unknown_size_is_not_claimed() -> None:
    assert known((None, UNKNOWN, 3)) is None
    assert known((None, 3)) == (None, 3)
    assert known(None) is None


@on_every_model
def test_the_outputs_of_the_corpus_have_the_shapes_that_tfjs_predicts(name: str) -> None:
    published = model(name)
    found = topology(parse(published.document))
    if not isinstance(found, LayersTopology):
        assert published.loaded["kind"] != "layers"
        return

    predicted = [(None, *output["shape"][1:]) for output in published.loaded["outputs"]]
    assert [port.shape for port in found.outputs] == predicted
