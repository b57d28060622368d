# SPDX-License-Identifier: Apache-2.0
"""ONNX files of a network's parts, and inference by ONNX Runtime."""

import copy
import importlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoloc_models.engines.network_engine import PartsEngine
from geoloc_models.engines.parts import Part, Parts, Tensors
from geoloc_models.errors import GeolocError
from geoloc_models.weights import LoadedWeights

OPSET = 18
REMEDY = "run: pip install -r requirements/engines.txt"


class OnnxEngine(PartsEngine):
    """The parts in ONNX Runtime, float32 on the CPU."""

    def __init__(self, loaded: LoadedWeights, parts: Parts, folder: Path, threads: int | None) -> None:
        """folder: where `write_onnx` wrote; GeolocError if ONNX Runtime is missing or cannot read it."""
        runtime = require_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that spin for work take the cores from whatever feeds them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._sessions = {
                name: runtime.InferenceSession(
                    str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
                )
                for name in parts.parts
            }
        except Exception as error:
            raise GeolocError(f"ONNX Runtime cannot load {folder} ({error}): export it again") from error
        self._names = {
            name: [wanted.name for wanted in session.get_inputs()] for name, session in self._sessions.items()
        }
        super().__init__(loaded, parts, torch.device("cpu"), "onnx-float32")

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine."""
        feed = {name: tensor.numpy() for name, tensor in zip(self._names[part], inputs, strict=True)}
        return tuple(torch.from_numpy(array) for array in self._sessions[part].run(None, feed))


def write_onnx(parts: Parts, query_px: int, folder: Path) -> dict[str, Path]:
    """One file for each part, float32, for images of any size; GeolocError for networks that ONNX cannot hold."""
    require_module("onnx")
    if not parts.exportable:
        raise GeolocError(
            "only networks on the backbones compact, compact+vits14 and cvt13 can be exported: "
            "take the engine torch-float32"
        )
    # Not square, so that no axis is taken for another.
    inputs = examples(parts, query_px, 2 * query_px, 3 * query_px)
    return {
        name: _write(_with_open_norms(part), inputs[name], folder / f"{name}.onnx")
        for name, part in parts.parts.items()
    }


class _OpenGroupNorm(nn.Module):
    """Group norm spelled out channel by channel.

    ONNX's own is one of reshaped groups, for which OpenVINO leaves the order of channels that its convolutions work in,
    before each and after.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        # Not parameters: of those with equal values, as in untrained networks, the exporter loses all but one.
        self.weight = norm.weight.detach()[:, None, None]
        self.bias = norm.bias.detach()[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        off = x - self._of_groups(x)
        scale = (self._of_groups(off * off) + self.eps).rsqrt() * self.weight
        return off * scale + self.bias

    def _of_groups(self, x: Tensor) -> Tensor:
        """The mean of each channel's group, (B, C, 1, 1)."""
        batch, channels = x.shape[:2]
        grouped = (batch, self.groups, channels // self.groups, 1)
        own = x.mean((2, 3), keepdim=True).reshape(grouped).mean(2, keepdim=True)
        return own.expand(grouped).reshape(batch, channels, 1, 1)


def _with_open_norms(part: Part) -> Part:
    def opened(module: nn.Module) -> nn.Module:
        for name, child in module.named_children():
            setattr(module, name, opened(child))
        return _OpenGroupNorm(module) if isinstance(module, nn.GroupNorm) else module

    return replace(part, module=opened(copy.deepcopy(part.module)))


@torch.inference_mode()
def examples(parts: Parts, query_px: int, map_height: int, map_width: int) -> dict[str, Tensors]:
    """Inputs of every part for one map of this size."""

    def images(height: int, width: int) -> Tensors:
        image = torch.randint(0, 255, (1, height, width, 3), dtype=torch.uint8)
        return (image, *parts.geometry(height, width, query_px))

    view, search = images(query_px, query_px), images(map_height, map_width)
    features = parts.parts["query"].module(*view)
    of_map = parts.parts["map"].module(*search) if "map" in parts.parts else search[:1]
    first, then = parts.mix_inputs(features, of_map)
    return {"query": view, "map": search, "mix": (*first, *then)}


def _write(part: Part, example: Tensors, path: Path) -> Path:
    axes = {
        name: {place: axis for place, axis in enumerate(shape) if isinstance(axis, str)}
        for name, shape in part.inputs.items()
    }
    # Tensors of the inference mode cannot be traced.
    example = tuple(tensor.clone() for tensor in example)
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of each size that Python looks at; the tests run other sizes than it has seen.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            part.module,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_axes=axes,
        )
    return path


def require_module(module: str, remedy: str = REMEDY) -> Any:
    """An optional module; GeolocError with the remedy where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise GeolocError(f"this engine needs {module} ({error}); {remedy}") from error
