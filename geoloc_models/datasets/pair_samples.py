# SPDX-License-Identifier: Apache-2.0
"""Training samples: search maps drawn by random scale crop and camera views of the other date over them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from geoloc_models.datasets.augmentation import build_over, degrade, occlude
from geoloc_models.datasets.homography import ground_from_view, warp
from geoloc_models.datasets.image_pairs import ImagePair, read_rgb
from geoloc_models.errors import GeolocError

_TRIES = 1000


@dataclass(frozen=True)
class SampleSettings:
    """How samples are drawn. Angles and errors are the largest of a uniform draw."""

    map_px: int = 288
    query_px: int = 96
    queries: int = 6
    """Views per search map: the map's convolutional features are shared between them."""
    map_scale: tuple[float, float] = (0.55, 1.7)
    """Source pixels of `first` per map pixel; the side of the crop is this times map_px (RSC, DRL paper III-D)."""
    cover: float = 0.85
    """RSC's C: a view's centre lies within +-cover/2 of the map's side from its centre."""
    tilt_deg: float = 15.0
    heading_deg: float = 15.0
    height_share: float = 0.15
    same_date: float = 0.15
    """Share of samples whose view comes from the map's own date."""


class PairSamples(Dataset[dict[str, torch.Tensor]]):
    """Endless samples: `map` (3, H, W), `query` (K, 3, h, w), uint8, and `target` (K, 2): (row, col),
    pixel edges of the map; `gsd_m` (K,): metres per map pixel; `map_from_query` (K, 3, 3): homographies between pixel
    edges, of a plane.

    All images are held in memory, decoded once. Sample `index` depends on `seed` and on itself alone, so that a
    stream is the same for any number of workers and processes, and after any interruption.
    """

    def __init__(self, pairs: list[ImagePair], settings: SampleSettings, seed: int = 0) -> None:
        self.pairs = pairs
        self.settings = settings
        self.seed = seed
        self.queries = settings.queries
        self._images: dict[Path, np.ndarray] = {p: read_rgb(p) for pair in pairs for p in (pair.first, pair.second)}
        self._paths = list(self._images)
        weights = np.array([p.weight * min(1.0, min(self._images[p.first].shape[:2]) / 400) for p in pairs])
        self._shares = weights / weights.sum()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        for _ in range(_TRIES):
            sample = self.draw(self.pairs[rng.choice(len(self.pairs), p=self._shares)], rng)
            if sample is not None:
                return sample
        raise GeolocError(
            f"no view of {self.settings.query_px} px fits a map of {self.settings.map_px} px in any of the "
            f"{len(self.pairs)} pairs: give larger images, or pairs that overlap more"
        )

    def draw(self, pair: ImagePair, rng: np.random.Generator) -> dict[str, torch.Tensor] | None:
        """One search map and its views; None if this pair's views would not fit."""
        s = self.settings
        map_image, view_image = self._images[pair.first], self._images[pair.second]
        view_from_map = np.vstack([pair.second_from_first, [0, 0, 1]])
        if rng.random() < 0.5:
            map_image, view_image, view_from_map = view_image, map_image, np.linalg.inv(view_from_map)
        if rng.random() < s.same_date:
            view_image, view_from_map = map_image, np.eye(3)
        height, width = map_image.shape[:2]
        # The crop may exceed the image by an eighth (mean fill), never more: the search map must be mostly valid.
        widest = min(s.map_scale[1], 1.12 * min(height, width) / s.map_px)
        scale = np.exp(rng.uniform(np.log(min(s.map_scale[0], widest * 0.8)), np.log(widest)))
        turn = rng.integers(4) * np.pi / 2
        mirror = rng.choice([-1.0, 1.0])
        side = scale * s.map_px
        slack = np.array([width, height]) - side
        centre = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * np.maximum(slack, 0.06 * side)
        c, q = np.cos(turn), np.sin(turn)
        linear = scale * np.array([[c, -q], [q, c]]) @ np.diag([mirror, 1.0])
        image_from_map = _affine(linear, centre - linear @ np.full(2, s.map_px / 2))
        queries, targets, placements = [], [], []
        for _ in range(s.queries):
            drawn = self._view(image_from_map, view_from_map, map_image.shape, view_image, rng)
            if drawn is None:
                return None
            query, map_from_query = drawn
            queries.append(query)
            placements.append(map_from_query)
            # The principal ray's ground point is the view's place, whatever its tilt.
            targets.append(map_from_query @ [s.query_px / 2, s.query_px / 2, 1.0])
        search_map = warp(map_image, image_from_map, s.map_px)
        if rng.random() < 0.3:
            search_map = build_over(search_map, self._any_image(rng), rng, most=0.25)
        search_map = degrade(search_map, rng, 0.4)
        return {
            "map": torch.from_numpy(search_map).permute(2, 0, 1),
            "query": torch.from_numpy(np.stack(queries)).permute(0, 3, 1, 2),
            "target": torch.tensor(np.array([(y / w, x / w) for x, y, w in targets]), dtype=torch.float32),
            "map_from_query": torch.tensor(np.array(placements), dtype=torch.float32),
            "gsd_m": torch.full((len(targets),), scale * pair.gsd_m, dtype=torch.float32),
        }

    def _any_image(self, rng: np.random.Generator) -> np.ndarray:
        return self._images[self._paths[rng.integers(len(self._paths))]]

    def _view(
        self,
        image_from_map: np.ndarray,
        view_from_map: np.ndarray,
        map_shape: tuple[int, ...],
        view_image: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """One view and its homography (3, 3) to the map, pixel edges; None if none would fit."""
        s = self.settings
        reach = 0.45 * s.query_px
        limits = np.array([map_shape[1], map_shape[0]])
        view_limits = np.array([view_image.shape[1], view_image.shape[0]])
        for _ in range(20):
            target = s.map_px * (0.5 + s.cover * rng.uniform(-0.5, 0.5, 2))
            corners = target + reach * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
            on_map = _apply(image_from_map, corners)
            on_view = _apply(view_from_map, on_map)
            if (on_map > 0).all() and (on_map < limits).all() and (on_view > 0).all() and (on_view < view_limits).all():
                break
        else:
            return None
        tilt = np.deg2rad(s.tilt_deg) * rng.uniform() ** 1.5
        axis = rng.uniform(0, 2 * np.pi)
        homography = ground_from_view(
            s.query_px,
            s.query_px,
            roll_rad=tilt * np.cos(axis),
            pitch_rad=tilt * np.sin(axis),
            yaw_rad=np.deg2rad(s.heading_deg) * rng.uniform(-1, 1),
            scale=1 + s.height_share * rng.uniform(-1, 1),
        )
        map_from_query = np.array([[1, 0, target[0]], [0, 1, target[1]], [0, 0, 1.0]]) @ homography
        query = warp(view_image, view_from_map @ image_from_map @ map_from_query, s.query_px)
        if rng.random() < 0.3:
            query = build_over(query, self._any_image(rng), rng, most=0.4)
        if rng.random() < 0.25:
            query = occlude(query, rng)
        return degrade(query, rng), map_from_query


def _affine(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.vstack([np.column_stack([linear, shift]), [0, 0, 1.0]])


def _apply(matrix: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    homogeneous = points_xy @ matrix[:, :2].T + matrix[:, 2]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack maps to (B, 3, H, W); join queries and what is known of each to (B * K, ...), K consecutive ones a map."""
    of_queries = [name for name in samples[0] if name != "map"]
    return {
        "map": torch.stack([s["map"] for s in samples]),
        **{name: torch.cat([s[name] for s in samples]) for name in of_queries},
    }
