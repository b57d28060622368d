# SPDX-License-Identifier: Apache-2.0
"""`rectify` on a GPU: what the view needs of the image goes there once, and the view stays there.

Where its pixels lie is computed on the CPU, by the same code, in half a millisecond; what takes time there is to halve
and sample an image of millions of pixels. Nothing here waits for the device.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rectify import RectifiedView, halved, sampled_at


class DeviceRectifier:
    """Rectifies for an engine on a device; one frame at a time, as its buffers serve the next one again."""

    def __init__(self, device: str) -> None:
        """device: "cuda", "cuda:1"...; "cpu" gives the same views."""
        self._device = torch.device(device)
        self._buffers: dict[torch.dtype, tuple[Tensor, torch.cuda.Event]] = {}

    @torch.inference_mode()
    def __call__(
        self,
        image: np.ndarray,
        camera: CameraModel,
        rotation_enu_from_optical: np.ndarray,
        height_m: float,
        gsd_m: float,
        size_px: int,
    ) -> RectifiedView:
        """As `rectify`, with the view's pixels on the device; what is halved is not rounded in between."""
        sampling = sampled_at(image, camera, rotation_enu_from_optical, height_m, gsd_m, size_px)
        part, u, v = sampling.window(image)
        pixels = self._upload(part).permute(2, 0, 1)[None].float()
        for _ in range(sampling.halvings):
            pixels = F.avg_pool2d(pixels, 2)
            u, v = halved(u, v)
        height, width = pixels.shape[2:]
        # PyTorch counts from -1 to 1 between the image's outer edges.
        places = np.stack([(2 * u + 1) / width - 1, (2 * v + 1) / height - 1, sampling.seen], dtype=np.float32)
        x, y, seen = self._upload(places)
        grid = torch.stack([x, y], dim=-1)[None]
        view = F.grid_sample(pixels, grid, "bilinear", "border", align_corners=False)[0]
        if sampling.coverage < 1.0:
            mean = (view * seen).sum((1, 2), keepdim=True) / seen.sum()
            view = torch.where(seen > 0, view, mean)
        pixels = view.round().to(torch.uint8).permute(1, 2, 0).contiguous()
        return RectifiedView(pixels, gsd_m, sampling.centre_m, sampling.coverage)

    def _upload(self, array: np.ndarray) -> Tensor:
        """A copy on the device, through pinned memory where that is a GPU."""
        if self._device.type != "cuda":
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        if dtype not in self._buffers or self._buffers[dtype][0].numel() < array.size:
            self._buffers[dtype] = torch.empty(array.size, dtype=dtype, pin_memory=True), torch.cuda.Event()
        buffer, copied = self._buffers[dtype]
        copied.synchronize()  # long ago, unless the frame before was refused
        pinned = buffer[: array.size].view(array.shape)
        np.copyto(pinned.numpy(), array)
        uploaded = pinned.to(self._device, non_blocking=True)
        copied.record(torch.cuda.current_stream(self._device))
        return uploaded
