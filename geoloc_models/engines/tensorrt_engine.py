# SPDX-License-Identifier: Apache-2.0
"""Inference by TensorRT 10 on NVIDIA GPUs; PyTorch owns the memory."""

from pathlib import Path
from typing import Any

import torch

from geoloc_models.engines.network_engine import PartsEngine
from geoloc_models.engines.onnx_engine import examples, require_module
from geoloc_models.engines.parts import Parts, Tensors
from geoloc_models.errors import GeolocError
from geoloc_models.weights import LoadedWeights

MOST_MAP_PX = 1024
"""Largest side of a search map that a plan is made for."""
MOST_BATCH = 32


class TensorRtEngine(PartsEngine):
    """The parts as TensorRT plans, which fit the GPU and the TensorRT that they were made with."""

    def __init__(self, loaded: LoadedWeights, parts: Parts, folder: Path, device: torch.device) -> None:
        """folder: where `write_tensorrt` wrote; GeolocError if TensorRT or GPU is missing or differs."""
        if device.type != "cuda":
            raise GeolocError(f"TensorRT needs a GPU, the device is {device}: take another engine")
        self._trt = require_module("tensorrt")
        self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))
        self._contexts = {name: self._open(folder / f"{name}.plan") for name in parts.parts}
        super().__init__(loaded, parts, device, "tensorrt-bf16")
        parts.rest.to(device)

    def _open(self, path: Path) -> Any:
        plan = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if plan is None:
            raise GeolocError(f"{path} was made for another GPU or another TensorRT: export it again here")
        return plan, plan.create_execution_context()

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine."""
        plan, context = self._contexts[part]
        names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
        wanted = [name for name in names if plan.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        held = [tensor.contiguous() for tensor in inputs]
        for name, tensor in zip(wanted, held, strict=True):
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = []
        for name in names[len(wanted) :]:
            output = torch.empty(tuple(context.get_tensor_shape(name)), device=self._device)
            context.set_tensor_address(name, output.data_ptr())
            outputs.append(output)
        context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream)
        return tuple(outputs)


def write_tensorrt(parts: Parts, onnx_files: dict[str, Path], query_px: int, folder: Path) -> None:
    """Plans in bfloat16 for this GPU, for maps up to MOST_MAP_PX; takes minutes."""
    trt: Any = require_module("tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    largest = max(MOST_MAP_PX, 2 * query_px)
    sizes = [examples(parts, query_px, side, side) for side in (query_px, 2 * query_px, largest)]
    for name, path in onnx_files.items():
        part = parts.parts[name]
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(path)):
            raise GeolocError(f"TensorRT cannot read {path}: {parser.get_error(0)}; take the engine torch-bf16")
        settings = builder.create_builder_config()
        settings.set_flag(trt.BuilderFlag.BF16)
        profile = builder.create_optimization_profile()
        for input_name, axes, *shapes in zip(part.inputs, part.inputs.values(), *(e[name] for e in sizes), strict=True):
            batches = (1, 1, MOST_BATCH) if axes[0] == "B" else (shapes[0].shape[0],) * 3
            profile.set_shape(input_name, *((b, *s.shape[1:]) for b, s in zip(batches, shapes, strict=True)))
        settings.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise GeolocError(f"TensorRT made no plan of {path}: take the engine torch-bf16")
        (folder / f"{name}.plan").write_bytes(bytes(plan))
