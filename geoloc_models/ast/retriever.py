# SPDX-License-Identifier: Apache-2.0
"""AST (Attention-guided Segment Transformer): one unit vector an image, alike for images of one place."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geoloc_models.ast.presets import AstPreset
from geoloc_models.ast.segment_tokens import assign_groups, segment_tokens
from geoloc_models.ast.trunk import AstTrunk, TrunkOutput, load_trunk
from geoloc_models.devices import choose_device
from geoloc_models.errors import GeolocError

View = Literal["drone", "satellite"]
RunTrunk = Callable[[Tensor], TrunkOutput]
"""Of images (B, 3, input_px, input_px) uint8 RGB on the CPU."""


class PartHead(nn.Module):
    """Features of one part (B, C) -> (B, width), and its class logits if there are classes."""

    def __init__(self, channels: int, width: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(width, classes) if classes else None
        nn.init.kaiming_normal_(self.project.weight, mode="fan_out")
        nn.init.zeros_(self.project.bias)
        if self.classify is not None:
            nn.init.normal_(self.classify.weight, std=0.001)
            nn.init.zeros_(self.classify.bias)

    def forward(self, part: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.dropout(self.norm(self.project(part)))
        return features, None if self.classify is None else self.classify(features)


class SegmentTransformer(nn.Module):
    """The network of a preset.

    classes: number of places in training; 0 builds the network without classifiers, for inference. Without sharing
    (table 9) the trunks of the two views differ, the heads do not.
    """

    def __init__(self, shape: AstPreset, classes: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = AstTrunk(shape.trunk, shape.input_px, shape.blocks)
        self.satellite_trunk = None if shape.shared else AstTrunk(shape.trunk, shape.input_px, shape.blocks)
        parts = shape.groups + 1
        self.heads = nn.ModuleList(
            PartHead(self.trunk.channels, shape.head_width, shape.dropout, classes)
            for _ in range(parts if shape.head_width else 0)
        )
        self.dim = parts * (shape.head_width or self.trunk.channels)

    def start_from(self, weights: Path) -> None:
        """Load a checkpoint into the trunk, or into both."""
        for trunk in self.trunks():
            load_trunk(trunk, weights)

    def trunks(self) -> list[AstTrunk]:
        """The trunk, or those of drone and satellite."""
        return [self.trunk] if self.satellite_trunk is None else [self.trunk, self.satellite_trunk]

    def trunk_of(self, view: View) -> AstTrunk:
        """The trunk that sees this view."""
        return self.satellite_trunk if view == "satellite" and self.satellite_trunk is not None else self.trunk

    def parts(self, out: TrunkOutput) -> Tensor:
        """Class token, then the segment tokens from most to least attended: (B, 1 + groups, C) float32."""
        class_token = out.class_token.float()[:, None]
        if not self.shape.groups:
            return class_token
        assigned = assign_groups(out.scores, self.shape.groups, self.shape.strategy)
        segments = segment_tokens(out.patches, out.scores, assigned, self.shape.groups, self.shape.weighted)
        return torch.cat((class_token, segments), dim=1)

    def describe(self, parts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, P, W) and class logits (B, P, K) of parts (B, P, C); without heads the parts themselves."""
        if not self.heads:
            return parts, None
        pairs = [head(parts[:, index]) for index, head in enumerate(self.heads)]
        features = torch.stack([feature for feature, _ in pairs], dim=1)
        logits = [logit for _, logit in pairs if logit is not None]
        return features, torch.stack(logits, dim=1) if logits else None

    def forward(self, images: Tensor, view: View = "drone") -> tuple[Tensor, Tensor | None]:
        """Features and logits of images (B, 3, input_px, input_px), RGB in 0..255."""
        return self.describe(self.parts(self.trunk_of(view)(images)))


def descriptor(features: Tensor) -> Tensor:
    """(B, P, W) -> (B, P W): parts at unit length over sqrt(P), joined; a product is the mean of the parts' cosines."""
    unit = functional.normalize(features.float(), dim=-1) / features.shape[1] ** 0.5
    return unit.flatten(1)


def fast_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has matrix units for it, else float32."""
    return torch.bfloat16 if device.type == "cuda" or torch.cpu._is_amx_tile_supported() else torch.float32


class Retriever:
    """A network ready to embed images.

    dim: length of a vector; input_px: side at which images are seen (others are resized); weights_id: names the
    weights, so that vectors of different weights are never compared; engine: runtime and arithmetic of the trunk.
    """

    def __init__(
        self,
        network: SegmentTransformer,
        weights_id: str,
        device: str = "auto",
        trunk: RunTrunk | None = None,
        engine: str = "",
    ) -> None:
        """trunk: what runs the trunk of both views, instead of PyTorch, and the name of that engine."""
        self._device = choose_device(device)
        self._network = network.eval().requires_grad_(False).to(self._device)
        self._run_trunk, self.engine = trunk, engine
        if trunk is None:
            # The trunks are nearly all of the work; heads and segment tokens stay in float32.
            fast = fast_type(self._device)
            for own in self._network.trunks():
                own.vit.to(fast)
            self.engine = "torch-bf16" if fast == torch.bfloat16 else "torch-float32"
        self.weights_id = weights_id
        self.dim = network.dim
        self.input_px = network.shape.input_px
        self.groups = network.shape.groups
        self.grid = network.trunk.grid
        if trunk is not None:
            del self._network.trunk.vit  # its weights are in the engine

    @torch.inference_mode()
    def embed(self, images: np.ndarray, view: View = "drone", batch: int = 16) -> np.ndarray:
        """Unit vectors (B, dim) float32 of images (B, H, W, 3) uint8 RGB, `batch` at a time.

        A product of two vectors is the mean cosine over the parts. GeolocError: another shape or type.
        """
        _check(images)
        chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
        vectors = [self._vectors(self._tensor(chunk), view) for chunk in chunks]
        return torch.cat(vectors).cpu().numpy() if vectors else np.zeros((0, self.dim), np.float32)

    def _vectors(self, images: Tensor, view: View) -> Tensor:
        return descriptor(self._network.describe(self._network.parts(self._trunk(images, view)))[0])

    def _trunk(self, images: Tensor, view: View) -> TrunkOutput:
        if self._run_trunk is not None:
            return self._run_trunk(images)
        out: TrunkOutput = self._network.trunk_of(view)(images)
        return out

    def embed_stream(
        self,
        images: Iterable[np.ndarray],
        view: View = "drone",
        batch: int = 16,
        advance: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """As `embed`, for images (H, W, 3) that come one by one; `advance(count)` after each batch."""
        vectors: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        for image in images:
            waiting.append(resize(image, self.input_px))
            if len(waiting) == batch:
                vectors.append(self.embed(np.stack(waiting), view, batch))
                advance(len(waiting))
                waiting = []
        if waiting:
            vectors.append(self.embed(np.stack(waiting), view, batch))
            advance(len(waiting))
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def attention(self, images: np.ndarray, view: View = "drone") -> tuple[np.ndarray, np.ndarray]:
        """Scores (B, grid, grid) float32 of the patches and their groups, int64, 0 the most attended."""
        _check(images)
        out = self._trunk(self._tensor(images), view)
        shape = self._network.shape
        if shape.groups:
            assigned = assign_groups(out.scores, shape.groups, shape.strategy)
        else:
            assigned = torch.zeros_like(out.scores, dtype=torch.int64)
        grid = (-1, self.grid, self.grid)
        return out.scores.reshape(grid).cpu().numpy(), assigned.reshape(grid).cpu().numpy()

    def _tensor(self, images: np.ndarray) -> Tensor:
        sized = np.stack([resize(image, self.input_px) for image in images])
        return torch.from_numpy(sized).to(self._device).permute(0, 3, 1, 2)


def resize(image: np.ndarray, side_px: int) -> np.ndarray:
    """(H, W, C) uint8 to (side_px, side_px, C): averaged when it shrinks, bicubic when it grows."""
    if image.shape[:2] == (side_px, side_px):
        return np.ascontiguousarray(image)
    shrinks = min(image.shape[:2]) > side_px
    return cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise GeolocError(f"images are {images.shape} {images.dtype}: expected (number, height, width, 3) uint8 RGB")
