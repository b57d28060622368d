# SPDX-License-Identifier: Apache-2.0
"""Inference by OpenVINO on x86 and ARM processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from geoloc_models.engines.network import PartsEngine
from geoloc_models.engines.onnx import import_or_tell
from geoloc_models.engines.parts import Parts, Tensors
from geoloc_models.errors import GeolocError
from geoloc_models.weights import LoadedWeights

Precision = Literal["float32", "bf16", "int8"]


class OpenVinoEngine(PartsEngine):
    """The parts compiled for this processor, for maps of any size.

    bf16 and int8 only pay where the processor has instructions for them; int8 keeps in bf16 what is not quantised.
    """

    def __init__(
        self, loaded: LoadedWeights, parts: Parts, folder: Path, precision: Precision, threads: int | None
    ) -> None:
        """folder: where `write_openvino` wrote; GeolocError if OpenVINO is missing or cannot read it."""
        openvino = import_or_tell("openvino")
        self.name = f"openvino-{precision}"
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            # Pinned threads wait for their own core even where another one is idle.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._requests = {
                name: core.compile_model(str(folder / f"{name}.xml"), "CPU", settings).create_infer_request()
                for name in parts.parts
            }
        except RuntimeError as error:
            raise GeolocError(f"OpenVINO cannot load {folder} ({error}): export it again") from error
        super().__init__(loaded, parts, torch.device("cpu"))

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine; outputs hold until the part runs again."""
        request = self._requests[part]
        answer = request.infer([tensor.numpy() for tensor in inputs], share_inputs=True, share_outputs=True)
        return tuple(torch.from_numpy(answer[index]) for index in range(len(answer)))


def write_openvino(onnx_files: dict[str, Path], folder: Path, half: bool) -> None:
    """OpenVINO's form of ONNX files; half: weights are stored in 16 bits, as those that ship are."""
    openvino: Any = import_or_tell("openvino")
    core = openvino.Core()
    for name, path in onnx_files.items():
        openvino.save_model(core.read_model(path), folder / f"{name}.xml", compress_to_fp16=half)
