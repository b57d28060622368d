# SPDX-License-Identifier: Apache-2.0
"""Inference by PyTorch, operation by operation: what every other engine is checked against."""

from pathlib import Path
from typing import Literal

import torch

from geoloc_models.devices import choose_device
from geoloc_models.engines.network_engine import PartsEngine
from geoloc_models.engines.parts import Tensors, parts_of
from geoloc_models.weights import load_weights

Precision = Literal["float32", "bf16"]


class TorchEngine(PartsEngine):
    """Runs anywhere and knows every network."""

    runtime = "torch"

    def __init__(
        self,
        weights: str | Path = "default",
        device: str = "auto",
        threads: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        """device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"...; threads: of the CPU, None as it is.
        precision: None takes bfloat16 where the processor has matrix units for it; elsewhere it is emulated.

        GeolocError: weights unknown, damaged or unfit; device not there.
        """
        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_weights(weights)
        if precision is None:
            fast_half = chosen.type == "cuda" or torch.cpu._is_amx_tile_supported()
            precision = "bf16" if fast_half else "float32"
        parts = parts_of(loaded.model)
        parts.rest.to(chosen)
        for part in parts.parts.values():
            part.module.to(chosen).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if precision == "bf16":
                part.module.bfloat16()
        super().__init__(loaded, parts, chosen, f"{self.runtime}-{precision}")

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine."""
        outputs: Tensors = self._parts.parts[part].module(*inputs)
        return outputs
