"""The twelve models of the corpus. They are no part of the repository: tests that need one are skipped without it.

They are looked for in the directory that the environment's TFJS_FETCH_CORPUS names, else in `../shared/corpus`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    "basic-pitch-ts.model",
    "cnn-explainer.assets.data",
    "derived.alldtypes",
    "derived.cnnexplainer-uint16-3shards",
    "derived.tfjs-saved-optimizer",
    "face-api.js.tiny_face_detector_model",
    "human-models.facemesh-detection-short",
    "human-models.handtrack",
    "nsfwjs.mobilenet_v2",
    "teachablemachine-zip.tiny-image-model",
    "tfjs-ts-testdata.hash-table-v2",
    "what-if-tool.data.uci",
)

on_every_model = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class CorpusModel:
    """A model as published: `golden` is what the real TF.js decodes, `loaded` what it says after loading."""

    path: Path
    golden: dict[str, Any]  # JSON
    loaded: dict[str, Any]

    @property
    def document(self) -> bytes:
        """The bytes of its model.json."""
        return self.path.read_bytes()

    def shard(self, path: str) -> bytes:
        """The bytes of one of its shards."""
        return (self.path.parent / path).read_bytes()


def directory() -> Path:
    """Return where the corpus is, if it is there."""
    beside = Path(__file__).parents[2] / "shared" / "corpus"
    return Path(os.environ.get("TFJS_FETCH_CORPUS") or beside)


def model(name: str) -> CorpusModel:
    """Return the model called `name`; skip the test if it is not there."""
    corpus = directory()
    if not (corpus / name).is_dir():
        pytest.skip(f"the corpus has no model {name}: looked in {corpus}, see TFJS_FETCH_CORPUS")
    golden = json.loads((corpus / "golden" / f"{name}.json").read_text("utf-8"))
    loaded = json.loads((corpus / "golden_load" / f"{name}.json").read_text("utf-8"))
    return CorpusModel(corpus / name / golden["file"], golden, loaded)
