# SPDX-License-Identifier: Apache-2.0
"""Inference by torch.compile and by CUDA graphs."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geoloc_models.engines.parts import Tensors
from geoloc_models.engines.torch_engine import Precision, TorchEngine
from geoloc_models.errors import GeolocError

MOST_GRAPHS = 24
"""CUDA graphs that are cached: each holds the memory of its inputs, outputs and what lies between."""


class CompiledEngine(TorchEngine):
    """The parts through torch.compile: fused loops instead of single operations. Needs a C++ compiler on the CPU.

    The first call for each size of map compiles, for tens of seconds; after the second size all sizes share code.
    """

    runtime = "compile"

    def __init__(self, weights: str | Path, device: str, threads: int | None, precision: Precision) -> None:
        super().__init__(weights, device, threads, precision)
        self._compiled: dict[str, Callable[..., Tensors]] = {
            name: torch.compile(part.module) for name, part in self._parts.parts.items()
        }

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine."""
        # Inference tensors would make torch.compile guard on each of them anew.
        with torch.inference_mode(False), torch.no_grad():
            return self._compiled[part](*(tensor.clone() for tensor in inputs))


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Tensors


class CudaGraphEngine(TorchEngine):
    """Every part recorded once for each shape of its inputs and then replayed: one launch in place of hundreds.

    Images go through one pinned buffer a shape, so that nothing is allocated and nothing waits before the logits
    are fetched.
    """

    runtime = "cuda-graph"

    def __init__(self, weights: str | Path, device: str, precision: Precision) -> None:
        super().__init__(weights, device, None, precision)
        if self._device.type != "cuda":
            raise GeolocError(f"CUDA graphs need a GPU, the device is {self._device}: take another engine")
        self._graphs: OrderedDict[tuple[object, ...], _Graph] = OrderedDict()
        # Graphs of one part share the memory of what lies between their inputs and outputs: they never run at once, and
        # what one has answered is used before another of them runs. Of different parts that does not hold.
        self._pools = {name: torch.cuda.graph_pool_handle() for name in self._parts.parts}
        self._pinned: dict[tuple[int, ...], tuple[Tensor, torch.cuda.Event]] = {}

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine; outputs hold until the part runs again with inputs of these shapes."""
        key = (part, *(tuple(tensor.shape) for tensor in inputs))
        recorded = self._graphs.get(key)
        if recorded is None:
            recorded = self._graphs[key] = self._record(part, inputs)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        for own, given in zip(recorded.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        recorded.graph.replay()
        return recorded.outputs

    def _record(self, part: str, inputs: Tensors) -> _Graph:
        module = self._parts.parts[part].module
        own = tuple(tensor.clone() for tensor in inputs)
        # What is allocated and chosen at first calls must not be part of the record.
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):
                module(*own)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pools[part]):
            outputs = module(*own)
        return _Graph(graph, own, outputs)

    def _upload(self, images: np.ndarray) -> Tensor:
        if images.shape not in self._pinned:
            buffer = torch.empty(images.shape, dtype=torch.uint8).pin_memory()
            self._pinned[images.shape] = (buffer, torch.cuda.Event())
        pinned, copied = self._pinned[images.shape]
        copied.synchronize()  # a view may be as large as the map before it
        pinned.numpy()[:] = images
        uploaded = pinned.to(self._device, non_blocking=True)
        copied.record()
        return uploaded
