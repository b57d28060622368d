# SPDX-License-Identifier: Apache-2.0
"""Engines of the retriever: PyTorch's vectors, taken only where they were checked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.engines import retriever_engine
from geoloc_models.engines.choice import processor_of
from geoloc_models.engines.retriever_engine import export_retriever, open_retriever, retriever_id
from geoloc_models.errors import GeolocError


@pytest.mark.parametrize("name", ["openvino-float32", "openvino-bf16"])
def test_an_exported_trunk_gives_pytorchs_vectors(
    name: str, small_retriever: Path, tmp_path: Path, ground: Callable[..., np.ndarray]
) -> None:
    views = np.stack([ground(48, 48, seed) for seed in range(3)])
    record = export_retriever(name, small_retriever, tmp_path, list(views), "generated", 1)
    assert not record.check.failure
    assert (record.weights_id, record.processor) == (retriever_id(small_retriever), processor_of("cpu"))
    plain = load_retriever(small_retriever, "cpu")[0]
    ours = open_retriever(small_retriever, "cpu", 1, name, tmp_path)
    assert (ours.engine, ours.weights_id, ours.dim) == (name, plain.weights_id, plain.dim)
    likeness = (ours.embed(views) * plain.embed(views)).sum(1)
    np.testing.assert_allclose(likeness, 1.0, atol=1e-4 if name.endswith("32") else 0.01)
    np.testing.assert_allclose(ours.attention(views)[0], plain.attention(views)[0], atol=0.05)
    # What fails its check, is of other weights or was never made is not taken.
    assert open_retriever(small_retriever, "cpu", 1, name, tmp_path / "empty").engine.startswith("torch-")
    (tmp_path / record.weights_id / name / "trunk.bin").write_bytes(b"")
    assert open_retriever(small_retriever, "cpu", 1, name, tmp_path).engine.startswith("torch-")


def test_a_wrong_engine_fails_its_check(
    small_retriever: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ground: Callable[..., np.ndarray]
) -> None:
    monkeypatch.setitem(retriever_engine.MOST_UNLIKE, "openvino-float32", -1.0)
    record = export_retriever("openvino-float32", small_retriever, tmp_path, [ground(32, 32)], "generated", 1)
    assert "off PyTorch's, the limit is -1" in record.check.failure
    assert open_retriever(small_retriever, "cpu", 1, "openvino-float32", tmp_path).engine.startswith("torch-")
    with pytest.raises(GeolocError, match="'onnx-float32' is no engine for"):
        export_retriever("onnx-float32", small_retriever, tmp_path, [ground(32, 32)], "generated")
