# SPDX-License-Identifier: Apache-2.0
"""A network as it is written down, without any saving: what engines are measured against, in speed and in answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from geoloc_models.processes import choose_device
from geoloc_models.weights import load_weights


class PlainEngine:
    """PyTorch in float32, operation by operation: attention step by step, and for each pair view and map anew."""

    def __init__(self, weights: str = "default", device: str = "auto", threads: int | None = None) -> None:
        """As TorchEngine."""
        self._device = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_weights(weights)
        self._model = loaded.model.float().to(self._device)
        self._temperature = loaded.info.temperature

    @torch.inference_mode()
    def logits(self, queries: np.ndarray, search_maps: np.ndarray) -> tuple[np.ndarray, float]:
        """As NetworkEngine's for one query, maps whose sides need no padding; on a GPU all pairs go at once."""
        at_once = 1 if self._device.type == "cpu" else len(search_maps)
        found = []
        for first in range(0, len(search_maps), at_once):
            maps = self._tensor(search_maps[first : first + at_once])
            with sdpa_kernel(SDPBackend.MATH):
                found.append(self._model(self._tensor(queries).repeat(len(maps), 1, 1, 1), maps)[:, 0])
        logits = torch.cat(found).cpu().numpy()
        return logits / np.float32(self._temperature), search_maps.shape[2] / (logits.shape[-1] - 1)

    def _tensor(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float()
