# SPDX-License-Identifier: Apache-2.0
"""A small generated data set in the UL14 layout, for tests and for trying things out.

Every place is a generated world of its own; a view is a turned and colour-shifted piece of its map, so what a
network learns here is to find a texture again, nothing about real images.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoloc_models.datasets.homography import render_view, warp
from geoloc_models.datasets.ul14 import MAP_PIXEL_M, MAP_SIZES_PX, Corners
from geoloc_models.datasets.ul14_writer import (
    TEST_MAP_PX,
    TEST_VIEW_PX,
    TRAIN_MAP_GSD_M,
    TRAIN_MAP_PX,
    TRAIN_VIEW_PX,
    LabelledMap,
    draw_target,
    sequence_name,
    write_test_sequence,
    write_train_item,
)
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import EARTH_RADIUS_M
from geoloc_models.world.generate import generate_world

HEIGHTS_M = (80.0, 90.0, 100.0)
VIEW_PER_HEIGHT = 1.1
"""Ground side of a view per metre of height: a camera of 58 degrees."""
WORLD_M = 800.0
SPREAD_M = 150.0
"""UAV positions keep within this of a world's centre, per axis."""
MAX_YAW_RAD = math.radians(10)


@dataclass(frozen=True)
class SyntheticSettings:
    """How much to make."""

    train_places: int = 2
    test_places: int = 1
    views: int = 6  # a place; they go through the heights, every third one moves on to a new position
    gsd_m: float = 0.5  # of the worlds, 0.1 to 1.0: coarser is faster
    map_sizes_px: Sequence[int] = MAP_SIZES_PX  # of the test maps
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train_places, self.test_places) < 0 or self.views < 1:
            raise GeolocError(
                f"{self.train_places} train places, {self.test_places} test places and {self.views} views a place: "
                "give no negative number and at least one view"
            )

    @property
    def sequences(self) -> int:
        """How many folders come out."""
        return (self.train_places + self.test_places) * self.views


def write_synthetic_ul14(root: str | Path, settings: SyntheticSettings | None = None) -> Iterator[Path]:
    """Write <root>/train and <root>/test and yield every sequence's folder once it is done.

    The same settings give the same data set. The root must be empty or new: GeolocError otherwise.
    """
    settings = settings or SyntheticSettings()
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise GeolocError(f"{root} is not empty; give a new folder")
    return _write(root, settings)


def _write(root: Path, settings: SyntheticSettings) -> Iterator[Path]:
    for number in range(settings.train_places + settings.test_places):
        split = "train" if number < settings.train_places else "test"
        place = _Place(number, settings)
        for view in range(settings.views):
            yield place.write(root / split, view, settings.map_sizes_px)


class _Place:
    """A generated world with UAV positions, in pixels of its image."""

    def __init__(self, number: int, settings: SyntheticSettings) -> None:
        self.name = f"Place{number + 1}"
        self.rng = np.random.default_rng([settings.seed, number])
        self.gsd_m = settings.gsd_m
        self.world = generate_world(WORLD_M, settings.gsd_m, int(self.rng.integers(2**31))).date1
        # Not the world's own coordinates but a plain sphere's, on which the corners' rule is exact.
        self.lat_deg, self.lon_deg = 30.0 + 0.1 * number, 120.0
        middle, spread = self.world.shape[0] / 2, SPREAD_M / settings.gsd_m
        positions = -(-settings.views // len(HEIGHTS_M))
        self.positions_xy_px = self.rng.uniform(middle - spread, middle + spread, (positions, 2))

    def write(self, folder: Path, view: int, map_sizes_px: Sequence[int]) -> Path:
        """Write the place's view of that number as a sequence into a train or test folder."""
        index, height_m = view // len(HEIGHTS_M), HEIGHTS_M[view % len(HEIGHTS_M)]
        position = self.positions_xy_px[index]
        sequence = folder / sequence_name(self.name, height_m, index)
        if folder.name == "train":
            side_m = TRAIN_MAP_PX * TRAIN_MAP_GSD_M
            image, _ = self._map(position, (0.5, 0.5), side_m, TRAIN_MAP_PX)
            write_train_item(sequence, self._view(position, height_m, TRAIN_VIEW_PX), [image])
            return sequence
        maps = []
        for size_px in map_sizes_px:
            target = draw_target(self.rng)
            image, corners = self._map(position, target, size_px * MAP_PIXEL_M, TEST_MAP_PX)
            maps.append(LabelledMap(image, target, corners, size_px))
        lat_deg, lon_deg = self._geodetic(*position)
        write_test_sequence(sequence, self._view(position, height_m, TEST_VIEW_PX), maps, lat_deg, lon_deg)
        return sequence

    def _view(self, position_xy_px: np.ndarray, height_m: float, out_px: int) -> np.ndarray:
        side_px = VIEW_PER_HEIGHT * height_m / self.gsd_m
        yaw_rad = self.rng.uniform(-MAX_YAW_RAD, MAX_YAW_RAD)
        x, y = (float(value) for value in position_xy_px)
        view = render_view(self.world, (x, y), side_px, out_px, yaw_rad=yaw_rad)
        gain, shift = self.rng.uniform(0.8, 1.2, 3), self.rng.uniform(-12, 12, 3)
        return np.clip(np.rint(view * gain + shift), 0, 255).astype(np.uint8)

    def _map(
        self, position_xy_px: np.ndarray, target: tuple[float, float], side_m: float, out_px: int
    ) -> tuple[np.ndarray, Corners]:
        """The square of side_m with the position at the target's fractions."""
        side_px = side_m / self.gsd_m
        left, top = position_xy_px[0] - target[1] * side_px, position_xy_px[1] - target[0] * side_px
        scale = side_px / out_px
        image = warp(self.world, np.array([[scale, 0, left], [0, scale, top], [0, 0, 1.0]]), out_px)
        return image, Corners(*self._geodetic(left, top), *self._geodetic(left + side_px, top + side_px))

    def _geodetic(self, x_px: float, y_px: float) -> tuple[float, float]:
        """(lat_deg, lon_deg) of a point of the image."""
        degrees = math.degrees(self.gsd_m / EARTH_RADIUS_M)
        lat_deg = self.lat_deg - float(y_px) * degrees
        return lat_deg, self.lon_deg + float(x_px) * degrees / math.cos(math.radians(self.lat_deg))
