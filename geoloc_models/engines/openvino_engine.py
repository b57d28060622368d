# SPDX-License-Identifier: Apache-2.0
"""Inference by OpenVINO on x86 and ARM processors."""

import contextlib
import functools
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from geoloc_models.engines.network_engine import PartsEngine
from geoloc_models.engines.onnx_engine import require_module
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
        self._compiled = {name: load_compiled(folder / name, precision, threads) for name in parts.parts}
        self._requests = {name: model.create_infer_request() for name, model in self._compiled.items()}
        super().__init__(loaded, parts, torch.device("cpu"), f"openvino-{precision}")

    def write_compiled(self, folder: Path) -> None:
        """Keep what compiling has made of the parts: loading that takes a fraction of the time."""
        for name, model in self._compiled.items():
            write_compiled(model, folder / name)

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine; outputs hold until the part runs again."""
        request = self._requests[part]
        answer = request.infer([tensor.numpy() for tensor in inputs], share_inputs=True, share_outputs=True)
        return tuple(torch.from_numpy(answer[index]) for index in range(len(answer)))


@functools.cache
def _core() -> Any:
    """One for the whole process, and never released.

    On processors with AMX its plugin gives the thread that loads it a stack for signal handlers, and frees that when
    it goes, on whichever thread that happens: the next signal to the first one would end the process.
    """
    core = require_module("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin now, before that of another core
    return core


def load_compiled(path: Path, precision: Precision, threads: int | None) -> Any:
    """A network as it was compiled; anew where that is of another OpenVINO, or not there.

    path: of its files, without suffix. GeolocError: OpenVINO is missing or cannot read them.
    """
    core = _core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        # Pinned threads wait for their own core even where another one is idle.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        with contextlib.suppress(OSError, RuntimeError):
            return core.import_model(path.with_suffix(".blob").read_bytes(), "CPU", settings)
        return core.compile_model(str(path.with_suffix(".xml")), "CPU", settings)
    except RuntimeError as error:
        raise GeolocError(f"OpenVINO cannot load {path.parent} ({error}): export it again") from error


def write_compiled(model: Any, path: Path) -> None:
    """Keep what compiling has made of a network beside its files: loading that takes a fraction of the time."""
    exported = model.export_model()
    data = exported if isinstance(exported, bytes) else exported.getvalue()
    path.with_suffix(".blob").write_bytes(data)


def write_openvino(
    onnx_files: Mapping[str, Path], folder: Path, half: bool, calibration: Mapping[str, Sequence[Tensors]] | None = None
) -> None:
    """OpenVINO's form of ONNX files; half: weights are stored in 16 bits, as those that ship are.

    calibration: inputs of each part, from real images; with them the linear layers compute in int8.
    """
    openvino: Any = require_module("openvino")
    core = _core()
    for name, path in onnx_files.items():
        model = core.read_model(path)
        if calibration is not None:
            model = _quantised(model, calibration[name])
        openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=half)


def _quantised(model: Any, examples: Sequence[Tensors]) -> Any:
    """The model with its linear layers in int8, their ranges taken from the examples.

    Convolutions stay as they are: beside bfloat16 OpenVINO 2026.4 refuses to compile quantised ones, with
    "any_of(scale.size(), OC, 1U)". Products of two activations, as attention has, stay too: small and sensitive.
    """
    nncf: Any = require_module("nncf", "run: pip install -r requirements/int8.txt")
    nncf.set_log_level(logging.ERROR)
    names = [wanted.any_name for wanted in model.inputs]
    feeds = [{name: tensor.numpy() for name, tensor in zip(names, example, strict=True)} for example in examples]
    left = [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() in ("Convolution", "GroupConvolution")
        or (operation.get_type_name() == "MatMul" and not any(_is_constant(i) for i in operation.input_values()))
    ]
    linear = [operation for operation in model.get_ops() if operation.get_type_name() == "MatMul"]
    if all(operation.get_friendly_name() in left for operation in linear):
        return model
    # It draws bars of its own.
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=left),
        )


def _is_constant(value: Any) -> bool:
    """Whether a value is a weight, as it is or behind a change of its type or order."""
    node = value.get_node()
    while node.get_type_name() in ("Convert", "Transpose", "Reshape"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
