# SPDX-License-Identifier: Apache-2.0
"""Engines by name, and the one that `auto` takes.

`torch` picks the precision that suits the device and needs no export. All others are used only with a record of
`geoloc export` that says that they give PyTorch's answers with these weights.
"""

import contextlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from geoloc_models.devices import choose_device
from geoloc_models.engines.compiled_engine import CompiledEngine, CudaGraphEngine
from geoloc_models.engines.export_records import default_folder, engine_folder, find_record, processor_name, read_record
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.engines.onnx_engine import OnnxEngine
from geoloc_models.engines.openvino_engine import OpenVinoEngine
from geoloc_models.engines.parts import Parts, parts_of
from geoloc_models.engines.tensorrt_engine import TensorRtEngine
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.weights import LoadedWeights, load_weights, weights_id


@dataclass(frozen=True)
class Kind:
    """device: "cpu", "cuda" or "any"; module: optional package it needs; same_output: to float32's rounding."""

    device: str
    module: str | None = None
    same_output: bool = False


KINDS = {
    "torch-float32": Kind("any", same_output=True),
    "torch-bf16": Kind("any"),
    "compile-float32": Kind("any", same_output=True),
    "compile-bf16": Kind("any"),
    "cuda-graph-bf16": Kind("cuda"),
    "onnx-float32": Kind("cpu", "onnxruntime", same_output=True),
    "openvino-float32": Kind("cpu", "openvino", same_output=True),
    "openvino-bf16": Kind("cpu", "openvino"),
    "openvino-int8": Kind("cpu", "openvino"),
    "tensorrt-bf16": Kind("cuda", "tensorrt"),
}
NAMES = ("auto", "torch", *KINDS)


def installed(device: str = "auto") -> list[str]:
    """Names of the engines that this machine can run on the device."""
    kind = choose_device(device).type
    return [
        name
        for name, own in KINDS.items()
        if own.device in ("any", kind) and (own.module is None or importlib.util.find_spec(own.module))
    ]


def exportable(device: str = "auto") -> list[str]:
    """Those of the installed engines that need an export and can be made here, without what compiles for minutes."""
    lacking = () if importlib.util.find_spec("nncf") else ("openvino-int8",)
    return [name for name in installed(device) if not name.startswith(("torch-", "compile-", *lacking))]


def open_engine(
    weights: str | Path = "default",
    device: str = "auto",
    threads: int | None = None,
    engine: str = "auto",
    folder: Path | None = None,
) -> NetworkEngine:
    """The engine of this name, or with "auto" the fastest of those that were exported to `folder` for these weights on
    such a processor and passed their check; without any, PyTorch.

    folder: None for the default one. GeolocError: no such engine, weights or device, or an engine that may not be used.
    """
    folder = folder or default_folder()
    if engine not in NAMES:
        raise GeolocError(f"no engine is called {engine!r}: use one of {', '.join(NAMES)}")
    if engine in ("auto", "torch"):
        usable = engine == "auto" and fastest(weights_id(weights), device, folder)
        if not usable:
            return TorchEngine(weights, device, threads)
        engine = usable
    elif not engine.startswith("torch-"):
        read_record(folder, weights_id(weights), engine)
    return make_engine(engine, weights, device, threads, folder)


def fastest(weights_id: str, device: str, folder: Path) -> str | None:
    """The engine that `auto` takes for these weights, None where that is PyTorch."""
    shares = {}
    for name in installed(device):
        with contextlib.suppress(GeolocError):
            record = find_record(folder, weights_id, name)
            if record.processor == processor_of(device):
                shares[name] = record.check.median_ms / record.check.torch_ms
    for name in sorted((name for name in shares if shares[name] < 1.0), key=shares.__getitem__):
        with contextlib.suppress(GeolocError):
            read_record(folder, weights_id, name)
            return name
    return None


def offer(device: str, chosen: str) -> str:
    """One line for who flies by PyTorch on a processor for which `geoloc export` makes faster engines; else empty."""
    faster = [name for name in exportable(device) if KINDS[name].device == "cpu"]
    if not chosen.startswith("torch-") or choose_device(device).type != "cpu" or not faster:
        return ""
    return f"the network runs by {chosen}; `geoloc export` makes faster engines for this processor, once, in minutes"


def processor_of(device: str) -> str:
    """Name of the processor that computes: figures hold for this one only."""
    chosen = choose_device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else processor_name()


def make_engine(name: str, weights: str | Path, device: str, threads: int | None, folder: Path) -> NetworkEngine:
    """The engine of this name, checked or not; folder: where engines are exported to."""
    kind, _, precision = name.rpartition("-")
    if kind == "torch":
        return TorchEngine(weights, device, threads, precision)  # type: ignore[arg-type]
    if kind == "compile":
        return CompiledEngine(weights, device, threads, precision)  # type: ignore[arg-type]
    if kind == "cuda-graph":
        return CudaGraphEngine(weights, device, precision)  # type: ignore[arg-type]
    loaded = load_weights(weights)
    parts = parts_of(loaded.model)
    own = engine_folder(folder, loaded.id, name)
    made = _exported(kind, precision, loaded, parts, own, device, threads)
    parts.forget_modules()
    return made


def _exported(
    kind: str, precision: str, loaded: LoadedWeights, parts: Parts, own: Path, device: str, threads: int | None
) -> NetworkEngine:
    chosen = choose_device(device)
    if kind == "tensorrt":
        return TensorRtEngine(loaded, parts, own, chosen)
    if chosen.type != "cpu":
        raise GeolocError(f"{kind}-{precision} runs on the CPU, the device is {device}: give device:=cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    if kind == "onnx":
        return OnnxEngine(loaded, parts, own, threads)
    return OpenVinoEngine(loaded, parts, own, precision, threads)  # type: ignore[arg-type]
