# SPDX-License-Identifier: Apache-2.0
"""What all engines of a network share: images in, features cached where they serve again, calibrated logits out."""

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoloc_models.drl.alignment import Alignment, PoseSpread, align
from geoloc_models.drl.alignment_head import AlignmentHead, block_matches
from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.engines import Engine, EngineSpec
from geoloc_models.engines.parts import Parts, Tensors
from geoloc_models.errors import GeolocError
from geoloc_models.weights import LoadedWeights

MAP_CACHE_MIB = 64
"""Size of the cache of map features: eight maps of 430 px a side, as a search of the whole map takes at once."""


@dataclass(frozen=True)
class Aligner:
    """Aligns the views of one call of an engine by their descriptors: of views (B K, C, h, w) and maps (B, C, H, W)."""

    head: AlignmentHead
    views: Tensor
    maps: Tensor

    def align(self, index: int, centre_xy_px: tuple[float, float], spread: PoseSpread | None = None) -> Alignment:
        """View `index` on its map, around where its centre is expected; spread: what is known of its pose."""
        of_map = index * len(self.maps) // len(self.views)
        view, search_map = self.views[index : index + 1], self.maps[of_map : of_map + 1]
        return align(block_matches(self.head, view, search_map, centre_xy_px), spread)


@dataclass(frozen=True)
class Answers:
    """What an engine found in one call.

    logits: (B K, R, C) float32, calibrated, comparable across maps. stride_px: pixels between their nodes. aligner:
    None where the network has no head for alignment.
    """

    logits: np.ndarray
    stride_px: float
    aligner: Aligner | None


class NetworkEngine(Engine):
    """A network on a device in one arithmetic."""

    def __init__(
        self,
        loaded: LoadedWeights,
        device: torch.device,
        name: str,
        *,
        takes_tensors: bool = False,
        keeps_maps: bool = False,
    ) -> None:
        self._device = device
        self._temperature = loaded.info.temperature
        info, multiple_px = loaded.info, loaded.model.multiple_px
        if isinstance(loaded.model, HybridMixFusion):
            multiple_px = math.lcm(multiple_px, round(loaded.model.cell_px(info.query_px)))
        self.spec = EngineSpec(
            weights_id=loaded.id,
            device=str(device),
            query_px=info.query_px,
            map_multiple_px=multiple_px,
            gsd_range_m=(info.gsd_min_m, info.gsd_max_m),
            name=name,
            takes_tensors=takes_tensors,
            keeps_maps=keeps_maps,
        )

    @abstractmethod
    def raw_answers(self, queries: np.ndarray, search_maps: np.ndarray) -> tuple[Tensor, Aligner | None]:
        """Logits as in `answers`, of maps of sides that the network takes: (B K, 1, R, C), not calibrated, on any
        device; and what aligns the views, if the network can.
        """

    def forget_maps(self) -> None:
        """Empty the cache of map features, if there is one: the next call computes them anew."""

    def __call__(self, query: np.ndarray | Tensor, search_map: np.ndarray) -> Heatmap:
        """As `infer`."""
        return self.infer(query, search_map)

    def infer(self, query: np.ndarray | Tensor, search_map: np.ndarray) -> Heatmap:
        """query: (h, w, 3), search_map: (H, W, 3); uint8 RGB, north-up, at the same ground sample distance.

        With `spec.takes_tensors` the query may lie on the engine's device already. GeolocError: other shapes or types,
        or a map smaller than the query.
        """
        logits, stride_px = self.logits(query[None], search_map[None])
        return heatmap_from_logits(logits[0], stride_px)

    def logits(self, queries: np.ndarray | Tensor, search_maps: np.ndarray) -> tuple[np.ndarray, float]:
        """Logits and stride of `answers`."""
        found = self.answers(queries, search_maps)
        return found.logits, found.stride_px

    @torch.inference_mode()
    def answers(self, queries: np.ndarray | Tensor, search_maps: np.ndarray) -> "Answers":
        """Queries (B K, h, w, 3) over maps (B, H, W, 3).

        K consecutive queries share a map, whose own features are computed once and cached; one query alone is searched
        in each map, and its features are computed once. Logits compare across maps. Images and errors as in `infer`.
        """
        _check(queries, search_maps)
        if len(queries) > 1 and len(queries) % len(search_maps):
            raise GeolocError(
                f"{len(queries)} query views do not divide among {len(search_maps)} maps: give as many for each map."
            )
        padded = self._padded(search_maps)
        views: Any = queries
        if isinstance(queries, np.ndarray):
            views = self._padded(queries)
        elif any(side % self.spec.map_multiple_px for side in queries.shape[1:3]):
            views = self._padded(queries.cpu().numpy())
        raw, aligner = self.raw_answers(views, padded)
        logits = raw[:, 0].float().cpu().numpy()
        stride_px = padded.shape[2] / (logits.shape[-1] - 1)
        # Nodes over the padding are no places.
        rows, columns = (int(side / stride_px) + 1 for side in search_maps.shape[1:3])
        return Answers(logits[:, :rows, :columns] / np.float32(self._temperature), stride_px, aligner)

    def usual_sides_px(self) -> range:
        """Sides of the search maps of a flight that knows roughly where it is: up to two and a half views."""
        step = self.spec.map_multiple_px
        return range(-(-(self.spec.query_px + step) // step) * step, 5 * self.spec.query_px // 2 + 1, step)

    def warm_up(self, sides_px: Iterable[int], maps: int = 1) -> None:
        """Search so many maps of each of these sides at once: the first call for a size compiles and allocates."""
        blank = np.zeros((1, self.spec.query_px, self.spec.query_px, 3), np.uint8)
        for side in sides_px:
            # Different ones: equal maps are computed once.
            shades = np.arange(maps, dtype=np.uint8)[:, None, None, None]
            self.logits(blank, np.broadcast_to(shades, (maps, side, side, 3)))
        self.forget_maps()

    def _padded(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, 3), padded with each image's mean colour to sides that the network takes."""
        down, right = (-side % self.spec.map_multiple_px for side in images.shape[1:3])
        if not down and not right:
            return images
        count, height, width, _ = images.shape
        mean = np.round(images.mean((1, 2), keepdims=True)).astype(np.uint8)
        padded = np.broadcast_to(mean, (count, height + down, width + right, 3)).copy()
        padded[:, :height, :width] = images
        return padded


class PartsEngine(NetworkEngine):
    """A network run part by part; what differs between these engines is `run`."""

    def __init__(self, loaded: LoadedWeights, parts: Parts, device: torch.device, name: str) -> None:
        super().__init__(loaded, device, name, takes_tensors=True, keeps_maps="map" in parts.parts)
        self._parts = parts
        # A batch of maps gains nothing on a CPU, and each size of it costs a compilation.
        self._one_by_one = device.type == "cpu"
        self._maps = _CachedMapFeatures(MAP_CACHE_MIB << 20)
        self._last_query: tuple[int, Tensors] | None = None

    @abstractmethod
    def run(self, part: str, inputs: Tensors) -> Tensors:
        """One part of the network, whose inputs and outputs lie on the engine's device."""

    def raw_answers(self, queries: np.ndarray, search_maps: np.ndarray) -> tuple[Tensor, Aligner | None]:
        """As NetworkEngine."""
        query_px = queries.shape[2]
        query = self._query_features(queries)
        self._last_query = (query_px, query)
        search = self._map_features(search_maps, query, query_px)
        views, maps = len(queries), len(search_maps)
        if views == 1:
            query = tuple(feature.expand(maps, *feature.shape[1:]) for feature in query)
        mixed: Tensors = ()
        if "mix" in self._parts.parts:
            of_map, of_view = self._parts.mix_inputs(query, search)
            if views > maps:
                of_map = tuple(feature.repeat_interleave(views // maps, 0) for feature in of_map)
            mixed = self.run("mix", (*of_map, *of_view))
        logits = self._parts.finish(query, search, mixed, (search_maps.shape[1], search_maps.shape[2]))
        described, head = self._parts.descriptors(query, search), self._parts.alignment
        # Clones, for engines answer in buffers of their own that the next call overwrites.
        aligner = Aligner(head, *(one.clone() for one in described)) if described and head else None
        return logits, aligner

    def _query_features(self, queries: np.ndarray | Tensor) -> Tensors:
        """Features of each view, those of equal ones computed once."""
        query_px = queries.shape[2]
        if isinstance(queries, Tensor) or len(queries) == 1:
            return self.run("query", self._inputs(queries, query_px))
        unlike: list[int] = []
        rows: list[int] = []
        for view in queries:
            row = next((row for row, index in enumerate(unlike) if np.array_equal(queries[index], view)), len(unlike))
            if row == len(unlike):
                unlike.append(len(rows))
            rows.append(row)
        features = self.run("query", self._inputs(queries[unlike], query_px))
        return features if len(unlike) == len(queries) else tuple(feature[rows] for feature in features)

    @torch.inference_mode()
    def prepare(self, search_map: np.ndarray) -> None:
        """As Engine."""
        if self._last_query is not None and self.spec.keeps_maps:
            # Of the view's features only their sizes matter here.
            query_px, query = self._last_query
            self._map_features(self._padded(search_map[None]), query, query_px)

    def forget_maps(self) -> None:
        """As NetworkEngine."""
        self._maps.clear()

    def _map_features(self, maps: np.ndarray, query: Tensors, query_px: int) -> Tensors:
        """Features of each map, computed for those that are not cached."""
        if not self.spec.keeps_maps:
            return (self._upload(maps),)
        found = [self._maps.get(image, query_px) for image in maps]
        missing = [index for index, features in enumerate(found) if features is None]
        for chosen in [[index] for index in missing] if self._one_by_one else [missing] if missing else []:
            features = self.run("map", self._inputs(maps[chosen], query_px))
            features = self._parts.cacheable(features, query)
            for place, index in enumerate(chosen):
                # A copy, for engines answer in buffers of their own that the next call overwrites.
                own = tuple(feature[place : place + 1].clone() for feature in features)
                found[index] = own
                self._maps.put(maps[index], query_px, own)
        whole = [features for features in found if features is not None]
        return whole[0] if len(whole) == 1 else tuple(torch.cat(level) for level in zip(*whole, strict=True))

    def _inputs(self, images: np.ndarray | Tensor, query_px: int) -> Tensors:
        uploaded = images if isinstance(images, Tensor) else self._upload(images)
        return (uploaded, *self._parts.geometry(images.shape[1], images.shape[2], query_px))

    def _upload(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self._device)


class _CachedMapFeatures:
    """Features of the map crops used last, found by the very pixels: nothing else can be answered for a crop."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[object, ...], tuple[np.ndarray, Tensors]] = OrderedDict()

    def get(self, image: np.ndarray, query_px: int) -> Tensors | None:
        """Features of this crop for queries of this side, if they are cached."""
        key = _fingerprint(image, query_px)
        entry = self._entries.get(key)
        # Two crops may share the few pixels of the key; only all of them show that they are the same.
        if entry is None or not np.array_equal(entry[0], image):
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, image: np.ndarray, query_px: int, features: Tensors) -> None:
        """Cache a crop's features and drop those used longest ago."""
        self._drop(_fingerprint(image, query_px))
        self._entries[_fingerprint(image, query_px)] = (image.copy(), features)
        self._bytes += _size(image, features)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Drop all."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: tuple[object, ...]) -> None:
        if key in self._entries:
            self._bytes -= _size(*self._entries.pop(key))


def _fingerprint(image: np.ndarray, query_px: int) -> tuple[object, ...]:
    return image.shape, query_px, image[::29, ::31].tobytes()


def _size(image: np.ndarray, features: Tensors) -> int:
    return image.nbytes + sum(feature.numel() * feature.element_size() for feature in features)


def _check(queries: np.ndarray | Tensor, search_maps: np.ndarray) -> None:
    for name, images in (("query", queries), ("search map", search_maps)):
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype not in (np.uint8, torch.uint8):
            raise GeolocError(f"{name} is {images.shape[1:]} {images.dtype}: expected (height, width, 3) uint8 RGB")
    if any(side < least for side, least in zip(search_maps.shape[1:3], queries.shape[1:3], strict=True)):
        raise GeolocError(
            f"search map {search_maps.shape[1:3]} is smaller than the query {queries.shape[1:3]}: ask for a larger crop"
        )
