# SPDX-License-Identifier: Apache-2.0
"""Inference by PyTorch: pictures in, heatmap out."""

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_models.drl.hybrid import HybridMixFusion
from geoloc_models.errors import GeolocError
from geoloc_models.processes import choose_device
from geoloc_models.weights import load_weights


class TorchEngine:
    """One network on one device.

    query_px: side of the query it expects; map_multiple_px: search maps of such sides need no padding;
    gsd_range_m: ground sample distances it was trained for.
    """

    def __init__(
        self, weights: str | Path = "default", device: str = "auto", threads: int | None = None
    ) -> None:
        """device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"...; threads: of the CPU, None as it is.

        GeolocError: weights unknown, damaged or unfit; device not there.
        """
        self._device = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_weights(weights)
        self._model = loaded.model.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._temperature = loaded.info.temperature
        # bfloat16 only pays where the processor has matrix units for it; elsewhere it is emulated.
        self._half = self._device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        self.weights_id = loaded.id
        self.device = str(self._device)
        self.query_px = loaded.info.query_px
        self.map_multiple_px = loaded.model.multiple_px
        if isinstance(loaded.model, HybridMixFusion):
            self.map_multiple_px = math.lcm(self.map_multiple_px, round(loaded.model.cell_px(self.query_px)))
            if self._half:
                loaded.model.trunk.bfloat16()
        self.gsd_range_m = (loaded.info.gsd_min_m, loaded.info.gsd_max_m)

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """query: (h, w, 3), search_map: (H, W, 3); uint8 RGB, north-up, at the same ground sample distance.

        GeolocError: other shapes or types, or a map smaller than the query.
        """
        logits, stride_px = self.logits(query[None], search_map[None])
        return heatmap_from_logits(logits[0], stride_px)

    @torch.inference_mode()
    def logits(self, queries: np.ndarray, search_maps: np.ndarray) -> tuple[np.ndarray, float]:
        """Queries (B K, h, w, 3) over maps (B, H, W, 3): calibrated logits (B K, R, C) float32, pixels between nodes.

        K consecutive queries share a map, whose own features are computed once; one query alone is searched in each
        map, and its features are computed once. Logits compare across maps. Pictures and errors as in `infer`.
        """
        search_map = search_maps[0]
        for name, image in (("query", queries[0]), ("search map", search_map)):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise GeolocError(
                    f"{name} is {image.shape} {image.dtype}: expected (height, width, 3) uint8 RGB"
                )
        if search_map.shape[0] < queries.shape[1] or search_map.shape[1] < queries.shape[2]:
            raise GeolocError(
                f"search map {search_map.shape[:2]} is smaller than the query {queries.shape[1:3]}: "
                "ask for a larger crop"
            )
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            padded = self._tensor(search_maps)
            logits = self._model(self._tensor(queries), padded)[:, 0].float().cpu().numpy()
        stride_px = padded.shape[-1] / (logits.shape[-1] - 1)
        # Nodes over the padding are no places.
        rows, cols = (int(side / stride_px) + 1 for side in search_map.shape[:2])
        return logits[:, :rows, :cols] / np.float32(self._temperature), stride_px

    def _tensor(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) -> (B, 3, H, W) float32 on the device, padded with the mean colour to sides it takes."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float()
        down, right = (-side % self.map_multiple_px for side in images.shape[1:3])
        if down or right:
            mean = tensor.mean((-2, -1), keepdim=True)
            tensor = F.pad(tensor - mean, (0, right, 0, down)) + mean
        return tensor
