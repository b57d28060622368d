# SPDX-License-Identifier: Apache-2.0
"""Sets of samples to evaluate on: a view, a map that shows its place, and where in the map it lies.

Images of two dates that training never saw (a simulated view of one date is searched in the other, in both
directions) and the test split of UL14. Rasters and flights, which need coordinates, are in the module
`geoloc_ros.core.evaluation.recorded_view_sets`.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from geoloc_models.datasets.homography import ground_from_view, warp
from geoloc_models.datasets.image_pairs import ImagePair, calibrates, list_pairs, read_rgb
from geoloc_models.datasets.ul14 import Corners, Ul14TestPair, load_test
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.stress import STRESSES, ViewErrors

MAX_CENTRE_OFFSET = 0.425
"""Largest offset of the view's centre from the map's in each axis, in sides of the map."""

_TRIES = 50


@dataclass(frozen=True)
class PairProtocol:
    """How samples are drawn. Angles and errors are the largest of a uniform draw."""

    crop_m: float = 200.0
    view_m: float = 70.0
    """Ground side that a view would have without errors of attitude and height."""
    attitude_deg: float = 6.0
    height_percent: float = 7.0
    seed: int = 0
    limit: int | None = None
    part: Literal["all", "calibration", "judging"] = "all"
    """Which held-out pairs: those that `datasets.image_pairs.calibrates` leaves to calibration, the others, or both."""
    stress: str = "none"
    """A name of `geoloc_models.evaluation.stress.STRESSES`: the same samples with one thing gone wrong."""

    def __post_init__(self) -> None:
        if not 0 < self.view_m < self.crop_m:
            raise GeolocError(
                f"a view of {self.view_m:g} m does not fit a search map of {self.crop_m:g} m; "
                "give --view-m below --crop-m"
            )
        if not 0 <= self.attitude_deg <= 30 or not 0 <= self.height_percent <= 50:
            raise GeolocError(
                f"errors of {self.attitude_deg:g} ° and {self.height_percent:g} % are out of range: "
                "give 0 to 30 degrees and 0 to 50 %"
            )
        if self.limit is not None and self.limit < 1:
            raise GeolocError(f"a limit of {self.limit} samples leaves nothing to measure; give at least 1")

    def draw_errors(self, rng: np.random.Generator, name: str) -> ViewErrors:
        """Errors of one view; a stress draws from its own stream, so everything else stays the same."""
        roll, pitch, yaw = np.deg2rad(rng.uniform(-self.attitude_deg, self.attitude_deg, 3))
        scale = 1 + rng.uniform(-self.height_percent, self.height_percent) / 100
        return self.stressed_errors(ViewErrors(roll, pitch, yaw, scale), name)

    def stressed_errors(self, errors: ViewErrors, name: str) -> ViewErrors:
        """The errors after the stress; `name` is the sample's."""
        geometry = STRESSES[self.stress].geometry
        return geometry(errors, self._stress_rng(name)) if geometry else errors

    def stressed_image(self, image: np.ndarray, name: str) -> np.ndarray:
        """The view after the stress; `name` is the sample's."""
        change = STRESSES[self.stress].image
        return change(image, self._stress_rng(name)) if change else image

    def _stress_rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(f"{self.stress} {name}".encode())))


@dataclass(frozen=True)
class PairSample:
    """A view, the map to search, and where the view's principal ray hits the ground of the map."""

    name: str
    query: np.ndarray
    """(h, h, 3) uint8 RGB, of the protocol's view_m if attitude and height were right."""
    search_map: np.ndarray
    """(H, H, 3) uint8 RGB."""
    gsd_m: float
    """Of the search map."""
    target_xy_px: tuple[float, float]
    """Pixel-edge coordinates of search_map."""
    height_m: float = float("nan")
    """Of the camera above ground, where it is known."""
    same_gsd: bool = True
    """False if the ground that the view spans is unknown, as in UL14: it is then only resized."""
    corners: Corners | None = None
    """Of the map, where the truth is in degrees: errors are then taken on the sphere."""
    heading_deg: float = float("nan")
    """True heading, to be added to the assumed one, clockwise seen from above; NaN where it is not known."""
    scale: float = float("nan")
    """True height over assumed height; NaN where it is not known."""


class PairSet(Protocol):
    """Samples that can be drawn one by one, the same for the same seed, independent of other draws."""

    name: str
    about: str
    """What is searched in what, for the table's title."""

    def __len__(self) -> int: ...

    def draw(self, index: int) -> PairSample | None:
        """One sample; None if no view fits there."""
        ...


class Pooled:
    """Several sets as one, for instance one for each size of the search map."""

    def __init__(self, sets: Sequence[PairSet]) -> None:
        """sets: one or more, which are drawn from in turn, so that a limited run sees them all."""
        self.name = sets[0].name
        self.about = "; ".join(dict.fromkeys(one.about for one in sets))
        self._chosen = sorted(((one, index) for one in sets for index in range(len(one))), key=lambda pair: pair[1])

    def __len__(self) -> int:
        return len(self._chosen)

    def draw(self, index: int) -> PairSample | None:
        """The sample of whichever set has it."""
        one, inner = self._chosen[index]
        return one.draw(inner)


class HeldOutPairs:
    """Views of one date in maps of the other, from pairs of images that training never saw."""

    def __init__(self, root: Path, source: str, protocol: PairProtocol, views: int = 1) -> None:
        """source: as in data.pairs; views: how many are drawn from every pair and direction.

        Images too small to hold a whole search map are left out; GeolocError if that leaves none.
        """
        self.name = source
        self.about = (
            f"views of {protocol.view_m:g} m in maps of {protocol.crop_m:g} m of another date, "
            f"attitude ±{protocol.attitude_deg:g}°, height ±{protocol.height_percent:g} %"
        )
        self.protocol = protocol
        pairs = list_pairs(root, source, held_out=True)
        if protocol.part != "all":
            pairs = [pair for pair in pairs if calibrates(pair.name) == (protocol.part == "calibration")]
            self.about += f", {protocol.part} half"
        # The header alone would do, but JPEGs of this size decode in a millisecond or two.
        sides_m = {
            pair.name: min(*read_rgb(pair.first).shape[:2], *read_rgb(pair.second).shape[:2]) * pair.gsd_m
            for pair in pairs
        }
        large = [pair for pair in pairs if sides_m[pair.name] >= protocol.crop_m]
        if not large:
            raise GeolocError(
                f"no held-out {source} image spans {protocol.crop_m:g} m; the largest spans "
                f"{max(sides_m.values(), default=0.0):.0f} m: give a smaller --crop-m"
            )
        both = [(pair, swapped) for pair in large for swapped in (False, True)]
        order = np.random.default_rng(protocol.seed).permutation(len(both))
        self.chosen = [(*both[index], view) for view in range(views) for index in order][: protocol.limit]

    def __len__(self) -> int:
        return len(self.chosen)

    def draw(self, index: int) -> PairSample | None:
        """One sample; None if no view fits."""
        pair, swapped, view = self.chosen[index]
        return draw_sample(pair, swapped, view, self.protocol)


def draw_sample(pair: ImagePair, swapped: bool, view: int, protocol: PairProtocol) -> PairSample | None:
    """The `view`-th sample of a pair and direction (swapped: map from the second date); None if no view fits."""
    map_image, view_image = read_rgb(pair.first), read_rgb(pair.second)
    view_from_map = np.vstack([pair.second_from_first, [0.0, 0.0, 1.0]])
    gsd_m = pair.gsd_m
    if swapped:
        map_image, view_image = view_image, map_image
        gsd_m /= float(np.sqrt(np.linalg.det(view_from_map[:2, :2])))
        view_from_map = np.linalg.inv(view_from_map)
    rng = np.random.default_rng((protocol.seed, zlib.crc32(pair.name.encode()), swapped, view))
    crop_px, view_px = round(protocol.crop_m / gsd_m), round(protocol.view_m / gsd_m)
    places = _place(map_image, view_image, view_from_map, crop_px, view_px, rng)
    if places is None:
        return None
    corner_xy, target_xy = places
    name = f"{pair.name} {'second' if swapped else 'first'}{f' {view}' if view else ''}"
    errors = protocol.draw_errors(rng, name)
    ground = shift(corner_xy + target_xy) @ view_homography(view_px, errors)
    query = warp(view_image, view_from_map @ ground, view_px)
    return PairSample(
        name=name,
        query=protocol.stressed_image(query, name),
        search_map=warp(map_image, shift(corner_xy), crop_px),
        gsd_m=gsd_m,
        target_xy_px=(float(target_xy[0]), float(target_xy[1])),
        heading_deg=math.degrees(errors.yaw_rad),
        scale=errors.scale,
    )


def view_homography(view_px: int, errors: ViewErrors) -> np.ndarray:
    """(3, 3) from pixels of a view to ground pixels about its centre, for a camera with these errors."""
    return ground_from_view(view_px, view_px, errors.roll_rad, errors.pitch_rad, errors.yaw_rad, errors.scale)


def shift(xy: np.ndarray) -> np.ndarray:
    """(3, 3) translation by (x, y)."""
    return np.array([[1.0, 0.0, xy[0]], [0.0, 1.0, xy[1]], [0.0, 0.0, 1.0]])


def _place(
    map_image: np.ndarray,
    view_image: np.ndarray,
    view_from_map: np.ndarray,
    crop_px: int,
    view_px: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Top-left corner of the search map in its image, and the view's centre in the search map, (x, y) px.

    The map stays inside its image wherever the offset allows, so that there is something to search; the
    view's nominal square stays inside both images.
    """
    size = np.array([map_image.shape[1], map_image.shape[0]], dtype=np.float64)
    view_size = np.array([view_image.shape[1], view_image.shape[0]], dtype=np.float64)
    square = view_px / 2 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    for _ in range(_TRIES):
        offset = crop_px * rng.uniform(-MAX_CENTRE_OFFSET, MAX_CENTRE_OFFSET, 2)
        # Centres for which both the map and the view lie inside; if there are none, the view decides.
        low = np.maximum(crop_px / 2, view_px / 2 - offset)
        high = np.minimum(size - crop_px / 2, size - view_px / 2 - offset)
        centre = rng.uniform(np.minimum(low, high), np.maximum(low, high))
        corner = np.round(centre - crop_px / 2)
        target = crop_px / 2 + offset
        on_map = corner + target + square
        on_view = on_map @ view_from_map[:2, :2].T + view_from_map[:2, 2]
        if all(((xy >= 0) & (xy <= limit)).all() for xy, limit in ((on_map, size), (on_view, view_size))):
            return corner, target
    return None


class Ul14Pairs:
    """Every view of UL14's test split in each of its maps (DRL paper, section IV-A2)."""

    def __init__(self, root: Path, protocol: PairProtocol) -> None:
        """root: the folder that holds `test`; GeolocError at the first fault of the data."""
        self.name = root.name
        self.about = "test views in their maps of several sizes, resized as published"
        self.protocol = protocol
        pairs = load_test(root)
        order = np.random.default_rng(protocol.seed).permutation(len(pairs))
        self.chosen = [pairs[index] for index in order[: protocol.limit]]

    def __len__(self) -> int:
        return len(self.chosen)

    def draw(self, index: int) -> PairSample:
        """The view with its stress, and the whole stored map."""
        pair = self.chosen[index]
        name = f"{pair.sequence} {pair.satellite.name}"
        search_map = read_rgb(pair.satellite)
        return PairSample(
            name=name,
            query=self.protocol.stressed_image(self._view(pair, name), name),
            search_map=search_map,
            gsd_m=pair.size_m / search_map.shape[1],
            target_xy_px=(pair.target[1] * search_map.shape[1], pair.target[0] * search_map.shape[0]),
            height_m=pair.height_m,
            same_gsd=False,
            corners=pair.corners,
        )

    def _view(self, pair: Ul14TestPair, name: str) -> np.ndarray:
        """The stored view; turned and scaled about its centre where a stress asks for it."""
        view = read_rgb(pair.uav)
        errors = self.protocol.stressed_errors(ViewErrors(), name)
        if errors == ViewErrors():
            return view
        # Only the image itself can be turned: its corners then show the mean colour.
        middle = np.array([view.shape[1], view.shape[0]]) / 2
        return warp(view, shift(middle) @ view_homography(view.shape[1], errors), view.shape[1])
