# SPDX-License-Identifier: Apache-2.0
"""Engines of a retrieval network: its trunk, which is nearly all of the work, by OpenVINO; the rest by PyTorch."""

import math
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoloc_models.ast.retriever import Retriever, RunTrunk
from geoloc_models.ast.retriever_weights import load_network
from geoloc_models.ast.trunk import AstTrunk, TrunkOutput
from geoloc_models.devices import choose_device
from geoloc_models.engines.choice import fastest, installed, processor_of
from geoloc_models.engines.export_records import Check, Record, default_folder, engine_folder, put_engine, read_record
from geoloc_models.engines.onnx_engine import OPSET, require_module
from geoloc_models.engines.openvino_engine import load_compiled, write_compiled, write_openvino
from geoloc_models.errors import GeolocError
from geoloc_models.weights import sha256

NAMES = ("openvino-float32", "openvino-bf16")
MOST_UNLIKE = {"openvino-float32": 1e-4, "openvino-bf16": 0.01}
"""Largest 1 - product of a vector with PyTorch's in float32: tiles 50 m apart have about 0.3."""
ROUNDS = 3
"""Each image is timed so often, alternating, and the best one counts."""
_TRUNK = "trunk"


def open_retriever(
    weights: str | Path = "retrieval",
    device: str = "auto",
    threads: int | None = None,
    engine: str = "auto",
    folder: Path | None = None,
) -> Retriever:
    """The retriever by the engine of this name, or with "auto" by the fastest that was exported to `folder` for these
    weights on such a processor and passed its check; by PyTorch where there is none.

    folder: None for the default one. GeolocError: no such weights or device.
    """
    folder = folder or default_folder()
    network, weights_id, _ = load_network(weights)
    name = fastest(weights_id, device, folder) if engine == "auto" else engine
    if name not in NAMES or choose_device(device).type != "cpu":
        return Retriever(network, weights_id, device)
    try:
        read_record(folder, weights_id, name)
    except GeolocError:
        return Retriever(network, weights_id, device)
    own = engine_folder(folder, weights_id, name)
    return Retriever(network, weights_id, device, _loaded(own, name, threads)[0], name)


def retriever_id(weights: str | Path = "retrieval") -> str:
    """The id of these weights; GeolocError: unknown, damaged, or of a localizer."""
    return load_network(weights)[1]


def exportable_retriever(device: str = "auto") -> list[str]:
    """Engines of a retriever that can be made here."""
    return [name for name in installed(device) if name in NAMES] if choose_device(device).type == "cpu" else []


def export_retriever(
    name: str, weights: str | Path, folder: Path, images: Sequence[np.ndarray], source: str, threads: int | None = None
) -> Record:
    """Write an engine of the retriever, check it on images (H, W, 3), and put it with its record into `folder`.

    GeolocError: no such engine, or weights with a trunk for each view.
    """
    network, weights_id, _ = load_network(weights)
    if name not in NAMES or len(network.trunks()) > 1:
        raise GeolocError(f"{name!r} is no engine for {weights_id}: use one of {', '.join(NAMES)}, and a shared trunk")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
        own = engine_folder(Path(scratch), weights_id, name)
        own.mkdir(parents=True)
        file = Path(scratch) / f"{_TRUNK}.onnx"
        _write_onnx(network.trunk.eval(), file)
        write_openvino({_TRUNK: file}, own, name != "openvino-float32")
        trunk, compiled = _loaded(own, name, threads)
        write_compiled(compiled, own / _TRUNK)
        check = _compare(name, Retriever(network, weights_id, "cpu", trunk), weights, images, source)
        versions = {"torch": str(torch.__version__), "openvino": str(require_module("openvino").__version__)}
        files = {path.name: sha256(path) for path in sorted(own.iterdir())}
        record = Record(name, weights_id, processor_of("cpu"), versions, files, check)
        put_engine(own, record, folder)
    return record


class _Trunk(nn.Module):
    """The trunk with a tuple for its answer, as exporters want it."""

    def __init__(self, trunk: AstTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.trunk(images)
        return out.class_token, out.patches, out.scores


def _write_onnx(trunk: AstTrunk, file: Path) -> None:
    require_module("onnx")
    names = ["class_token", "patches", "scores"]
    images = torch.randint(0, 255, (2, 3, trunk.input_px, trunk.input_px), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of each size that Python looks at
        torch.onnx.export(
            _Trunk(trunk),
            (images,),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
        )


def _loaded(own: Path, name: str, threads: int | None) -> tuple[RunTrunk, Any]:
    """What runs the trunk, and its compiled network."""
    precision: Any = name.rpartition("-")[2]
    compiled = load_compiled(own / _TRUNK, precision, threads)
    request = compiled.create_infer_request()

    def run(images: Tensor) -> TrunkOutput:
        answer = request.infer([images.contiguous().numpy()], share_inputs=True)
        return TrunkOutput(*(torch.from_numpy(answer[index]) for index in range(3)))

    return run, compiled


def _compare(name: str, ours: Retriever, weights: str | Path, images: Sequence[np.ndarray], source: str) -> Check:
    """Vectors and times beside PyTorch's: of float32 on the one hand, as it runs without any export on the other."""
    network, weights_id, _ = load_network(weights)
    usual, exact = Retriever(network, weights_id, "cpu"), _Trunk(load_network(weights)[0].trunk.eval())
    exactly = Retriever(load_network(weights)[0], weights_id, "cpu", lambda images: TrunkOutput(*exact(images)))
    unlike, own_ms, torch_ms = 0.0, [], []
    for image in images:
        expected = exactly.embed(image[None])[0]
        times = [(_milliseconds(ours, image), _milliseconds(usual, image)) for _ in range(ROUNDS)]
        unlike = max(unlike, 1.0 - float(ours.embed(image[None])[0] @ expected))
        own_ms.append(min(own for own, _ in times))
        torch_ms.append(min(plain for _, plain in times))
    most = MOST_UNLIKE[name]
    return Check(
        samples=len(images),
        source=source,
        max_logit_error=round(unlike, 6),
        moved_median_m=math.nan,
        moved_p95_m=math.nan,
        ma20=math.nan,
        torch_ma20=math.nan,
        median_ms=round(float(np.median(own_ms)), 2),
        torch_ms=round(float(np.median(torch_ms)), 2),
        failure="" if unlike <= most else f"vectors are {unlike:.2g} off PyTorch's, the limit is {most:g}",
    )


def _milliseconds(retriever: Retriever, image: np.ndarray) -> float:
    start = time.perf_counter()
    retriever.embed(image[None])
    return (time.perf_counter() - start) * 1e3
