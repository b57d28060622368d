# SPDX-License-Identifier: Apache-2.0
"""Engines that do not fit are refused, and auto takes the fastest that may be used."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc_models.engines.choice import fastest, installed, make_engine, open_engine
from geoloc_models.engines.compiled_engine import CudaGraphEngine
from geoloc_models.engines.export import Sample, export
from geoloc_models.engines.export_records import RECORD
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError

WEIGHTS = "mix_compact"
EXPORTED = ("onnx-float32", "openvino-bf16", "openvino-int8")


def edited(folder: Path, path: Path, **changes: object) -> Path:
    """A copy of the folder of engines whose record at `path` is changed; check's fields go by their own names."""
    copy = folder.parent / f"{folder.name}-{'-'.join(changes)}"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    values = json.loads((copy / path).read_text())
    for key, value in changes.items():
        (values["check"] if key in values["check"] else values)[key] = value
    (copy / path).write_text(json.dumps(values))
    return copy


def test_engines_that_do_not_fit_are_refused(exported: Path, exact: TorchEngine) -> None:
    name, own = "openvino-bf16", exact.spec.weights_id
    path = Path(own) / name / RECORD

    def refused(folder: Path, words: str, weights: str = WEIGHTS) -> None:
        with pytest.raises(GeolocError, match=words):
            open_engine(weights, "cpu", 1, name, folder)

    refused(exported, rf"not exported for the weights mix_hybrid-\w+ to .*only for {own}", "default")
    refused(edited(exported, path, weights_id="mix_compact-0"), "is of openvino-bf16 for the weights mix_compact-0")
    refused(edited(exported, path, failure="it is wrong"), "failed its check: it is wrong")
    refused(edited(exported, path, check=None), "cannot be read")
    damaged = edited(exported, path, samples=2)
    (damaged / own / name / "map.bin").write_bytes(b"")
    refused(damaged, r"map\.bin is missing or damaged")
    with pytest.raises(GeolocError, match="no engine is called 'fast'"):
        open_engine(WEIGHTS, "cpu", 1, "fast", exported)


def test_auto_takes_the_fastest_that_may_be_used(exported: Path, exact: TorchEngine, tmp_path: Path) -> None:
    own = exact.spec.weights_id

    def at(name: str) -> Path:
        return Path(own) / name / RECORD

    folder = exported
    for name, took_ms in zip(EXPORTED, (12.0, 10.0, 11.0), strict=True):
        folder = edited(folder, at(name), median_ms=took_ms, torch_ms=25.0)
    assert open_engine(WEIGHTS, "cpu", 1, "auto", folder).spec.name == "openvino-bf16"
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    next((damaged / own / "openvino-bf16").glob("*.bin")).write_bytes(b"")
    assert fastest(own, "cpu", damaged) == "openvino-int8"
    folder = edited(folder, at("openvino-bf16"), failure="it is wrong")
    assert fastest(own, "cpu", folder) == "openvino-int8"
    folder = edited(folder, at("openvino-int8"), weights_id="mix_compact-0")
    assert fastest(own, "cpu", folder) == "onnx-float32"
    slower = edited(folder, at("onnx-float32"), median_ms=25.5)
    assert fastest(own, "cpu", slower) is None
    folder = edited(folder, at("onnx-float32"), processor="another")
    assert fastest(own, "cpu", folder) is None
    assert isinstance(open_engine(WEIGHTS, "cpu", 1, "auto", folder), TorchEngine)
    assert isinstance(open_engine(WEIGHTS, "cpu", 1, "auto", tmp_path / "none"), TorchEngine)
    assert isinstance(open_engine(WEIGHTS, "cpu", 1, "torch", exported), TorchEngine)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_engines_on_a_gpu_answer_as_pytorch_does(
    exact: TorchEngine, tmp_path: Path, sample: Callable[..., Sample], samples: list[Sample]
) -> None:
    assert "cuda-graph-bf16" in installed("cuda")
    graphs = make_engine("cuda-graph-bf16", WEIGHTS, "cuda", None, tmp_path)
    usual = TorchEngine(WEIGHTS, "cuda", precision="bf16")
    for side in (192, 256, 192):
        one = sample(side, side)
        expected, _ = usual.logits(one.query[None], one.search_map[None])
        found, _ = graphs.logits(one.query[None], one.search_map[None])
        np.testing.assert_allclose(found, expected, atol=0.1)
    check = export("cuda-graph-bf16", WEIGHTS, tmp_path, samples, "generated", "cuda").check
    assert replace(check, failure="").moved_median_m < 0.5 and check.failure == ""


def test_engines_of_gpus_are_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="CUDA graphs need a GPU, the device is cpu"):
        CudaGraphEngine(WEIGHTS, "cpu", "bf16")
    assert not {"cuda-graph-bf16", "tensorrt-bf16"} & set(installed("cpu"))
