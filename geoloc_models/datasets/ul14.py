# SPDX-License-Identifier: Apache-2.0
"""UL14, the data set of the DRL paper (arXiv 2208.06561), in its published layout.

    train/<Place>_<Height>_<Index>/UAV/0.JPG          camera view
                                   Satellite/*.tif    map, the UAV at its exact centre; several: pick one
    test/<Place>_<Height>_<Index>/UAV/0.JPG           (val/ likewise)
                                  Satellite/0.jpg ... 11.jpg
                                  labels.json         {"0.jpg": [row, col]}, pixels of the stored map
                                  GPS_info.json       {"UAV": {"E", "N"}, "Satellite": {"0.jpg": {"tl_E", ...}}}

Positions on a map are (row, col) fractions of its height and width from the top-left corner's outer edge.
`load_train` and `load_test` raise GeolocError at a fault; `scan_train` and `scan_test` list all of them.
"""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_models.datasets.faults import Fault, image_size_px, list_folders, list_images, raise_first, read_json
from geoloc_models.errors import GeolocError

MAP_PIXEL_M = 0.294
"""Ground length of the pixel in which `map_size` counts."""

MAP_SIZES_PX = tuple(range(700, 1801, 100))
"""The twelve test maps of one view: 205.8 m to 529.2 m across."""

LABEL_FILES = ("labels.json", "label.json")
GPS_FILE = "GPS_info.json"
CONSISTENT_PX = 2.0
"""Up to this a labelled pixel agrees with the UAV's coordinates, in pixels of the stored map."""


@dataclass(frozen=True)
class Corners:
    """Outer corners of a north-up map, degrees; positions in between are linear in both."""

    tl_lat_deg: float
    tl_lon_deg: float
    br_lat_deg: float
    br_lon_deg: float

    def to_geodetic(self, row: Any, col: Any) -> tuple[Any, Any]:
        """(lat_deg, lon_deg) of (row, col) fractions, floats or arrays.

        The published evaluation takes row / 384 for the place of a heatmap's cell, its top edge; exact is
        (row + 0.5) / 384, its middle. They are half an output pixel apart, 0.27 to 0.69 m.
        """
        lat_deg = self.tl_lat_deg + (self.br_lat_deg - self.tl_lat_deg) * row
        lon_deg = self.tl_lon_deg + (self.br_lon_deg - self.tl_lon_deg) * col
        return lat_deg, lon_deg

    def to_fractions(self, lat_deg: Any, lon_deg: Any) -> tuple[Any, Any]:
        """(row, col) fractions of places in degrees, floats or arrays; the inverse of the above."""
        row = (lat_deg - self.tl_lat_deg) / (self.br_lat_deg - self.tl_lat_deg)
        col = (lon_deg - self.tl_lon_deg) / (self.br_lon_deg - self.tl_lon_deg)
        return row, col


@dataclass(frozen=True)
class Ul14TrainItem:
    """One camera view with the maps centred on it."""

    uav: Path
    satellites: tuple[Path, ...]
    place: str
    height_m: float  # above ground


@dataclass(frozen=True)
class Ul14TestPair:
    """One camera view and one map that shows its place."""

    uav: Path
    satellite: Path
    target: tuple[float, float]  # (row, col), fractions of the stored map
    corners: Corners
    map_size_px: float  # in pixels of MAP_PIXEL_M
    centre_distribute: tuple[float, float]  # (X, Y) as stored: 2 (map's centre - UAV) / map size
    place: str
    height_m: float  # above ground
    lat_deg: float  # of the UAV
    lon_deg: float
    stored_px: tuple[int, int]  # (height, width) of the map's file

    @property
    def sequence(self) -> str:
        """Name of the pair's folder, <Place>_<Height>_<Index>."""
        return self.satellite.parent.parent.name

    @property
    def size_m(self) -> float:
        """Side of the map."""
        return self.map_size_px * MAP_PIXEL_M

    @property
    def offset(self) -> float:
        """Distance of the UAV from the map's centre in half sides, as the rings of the paper count it."""
        return math.hypot(*self.centre_distribute)


@dataclass(frozen=True)
class Consistency:
    """How well labels agree with coordinates: medians over pairs, in pixels of the stored maps."""

    pairs: int
    median_px: float
    transposed_px: float  # the same with every label's row and column exchanged
    median_m: float

    @property
    def transposed(self) -> bool:
        """Whether the data fit only with rows and columns exchanged."""
        return self.median_px > CONSISTENT_PX and self.transposed_px <= CONSISTENT_PX

    @property
    def problem(self) -> str:
        """One sentence if the set as a whole is not consistent, else empty."""
        if not self.pairs or self.median_px <= CONSISTENT_PX:
            return ""
        if self.transposed:
            return (
                f"labels miss the UAV's coordinates by {self.median_px:.1f} px (median), but fit to "
                f"{self.transposed_px:.1f} px with rows and columns exchanged: either the labels are "
                "[col, row] or the corners were written transposed; exchange one of them"
            )
        return (
            f"labels miss the UAV's coordinates by {self.median_px:.1f} px ({self.median_m:.1f} m, median) where "
            f"{CONSISTENT_PX:g} px are allowed; labels, corners and UAV positions are not of the same data"
        )


def load_train(root: str | Path) -> list[Ul14TrainItem]:
    """All items of <root>/train; GeolocError names the first fault."""
    items, faults = scan_train(_split(root, "train"))
    raise_first(faults)
    return items


def load_test(root: str | Path, split: str = "test") -> list[Ul14TestPair]:
    """All pairs of <root>/<split>; GeolocError names the first fault; inconsistent labels cause a warning."""
    pairs, faults = scan_test(_split(root, split))
    raise_first(faults)
    if problem := consistency(pairs).problem:
        warnings.warn(f"{Path(root) / split}: {problem}", stacklevel=2)
    return pairs


def _split(root: str | Path, split: str) -> Path:
    folder = Path(root) / split
    if not folder.is_dir():
        raise GeolocError(f"{root} has no folder {split}; give the root of a data set in the UL14 layout")
    return folder


def scan_train(folder: Path) -> tuple[list[Ul14TrainItem], list[Fault]]:
    """The sound items of a train folder, and all faults of the others."""
    items: list[Ul14TrainItem] = []
    faults: list[Fault] = []
    for sequence in list_folders(folder):
        name = _parse_name(sequence, faults)
        uav, satellites = _images(sequence, faults)
        if name and uav and satellites:
            items.append(Ul14TrainItem(uav, tuple(satellites), *name))
    if not items and not faults:
        faults.append(Fault(folder, "holds no folders <Place>_<Height>_<Index>; give a UL14 train folder"))
    return items, faults


def scan_test(folder: Path) -> tuple[list[Ul14TestPair], list[Fault]]:
    """The sound pairs of a test or val folder, and all faults of the others."""
    pairs: list[Ul14TestPair] = []
    faults: list[Fault] = []
    for sequence in list_folders(folder):
        pairs += _scan_sequence(sequence, faults)
    if not pairs and not faults:
        faults.append(Fault(folder, "holds no folders <Place>_<Height>_<Index>; give a UL14 test folder"))
    return pairs, faults


def residuals_px(pairs: Sequence[Ul14TestPair], transposed: bool = False) -> np.ndarray:
    """Distance between label and UAV coordinates on each stored map, (N,) px."""
    result = np.empty(len(pairs))
    for index, pair in enumerate(pairs):
        row, col = pair.corners.to_fractions(pair.lat_deg, pair.lon_deg)
        label_row, label_col = pair.target[::-1] if transposed else pair.target
        height, width = pair.stored_px
        result[index] = math.hypot((row - label_row) * height, (col - label_col) * width)
    return result


def consistency(pairs: Sequence[Ul14TestPair]) -> Consistency:
    """Compare every label with the UAV's coordinates; the test that every set must pass."""
    if not pairs:
        return Consistency(0, math.nan, math.nan, math.nan)
    plain = residuals_px(pairs)
    metres = plain * [pair.size_m / pair.stored_px[0] for pair in pairs]
    return Consistency(
        pairs=len(pairs),
        median_px=float(np.median(plain)),
        transposed_px=float(np.median(residuals_px(pairs, transposed=True))),
        median_m=float(np.median(metres)),
    )


def _parse_name(sequence: Path, faults: list[Fault]) -> tuple[str, float] | None:
    """(place, height_m) of a folder <Place>_<Height>_<Index>; the place may hold underscores."""
    match = re.fullmatch(r"(.+)_[Hh]?([0-9]+(?:\.[0-9]+)?)m?_([^_]+)", sequence.name)
    if match is None:
        faults.append(Fault(sequence, "is not named <Place>_<Height>_<Index>; rename it"))
        return None
    return match[1], float(match[2])


def _images(sequence: Path, faults: list[Fault]) -> tuple[Path | None, list[Path]]:
    """The camera view and the maps of one sequence."""
    uavs = list_images(sequence / "UAV")
    satellites = list_images(sequence / "Satellite")
    if not uavs:
        faults.append(Fault(sequence / "UAV", "holds no image; restore 0.JPG"))
    if not satellites:
        faults.append(Fault(sequence / "Satellite", "holds no image; restore the maps"))
    return (uavs[0] if uavs else None), satellites


def _scan_sequence(sequence: Path, faults: list[Fault]) -> list[Ul14TestPair]:
    """The sound pairs of one test sequence."""
    name = _parse_name(sequence, faults)
    uav, satellites = _images(sequence, faults)
    label_path = next((sequence / file for file in LABEL_FILES if (sequence / file).is_file()), None)
    labels = read_json(label_path or sequence / LABEL_FILES[0], faults)
    gps_path = sequence / GPS_FILE
    gps = read_json(gps_path, faults)
    if name is None or uav is None or label_path is None or labels is None or gps is None:
        return []
    place = _place(gps.get("UAV"))
    if place is None:
        faults.append(Fault(gps_path, '"UAV" is not {"E": longitude, "N": latitude} in degrees; restore the file'))
        return []
    maps = gps.get("Satellite")
    maps = maps if isinstance(maps, dict) else {}
    stored = {satellite.name for satellite in satellites}
    faults += [
        Fault(sequence / "Satellite" / missing, f"is missing, but {label_path.name} labels it")
        for missing in sorted(labels.keys() - stored)
    ]
    pairs = []
    for satellite in satellites:
        size_px = image_size_px(satellite, faults)
        target = _target(satellite, label_path, labels, size_px, faults)
        info = _map_info(satellite, gps_path, maps, faults)
        if target is not None and info is not None and size_px is not None:
            pairs.append(Ul14TestPair(uav, satellite, target, *info, *name, *place, size_px))
    return pairs


def _place(values: Any) -> tuple[float, float] | None:
    """(lat_deg, lon_deg) of {"E", "N"}; None if it is no place on Earth."""
    try:
        lat_deg, lon_deg = float(values["N"]), float(values["E"])
    except (KeyError, TypeError, ValueError):
        return None
    return (lat_deg, lon_deg) if abs(lat_deg) <= 90 and abs(lon_deg) <= 180 else None


def _target(
    satellite: Path, label_path: Path, labels: dict[str, Any], size_px: tuple[int, int] | None, faults: list[Fault]
) -> tuple[float, float] | None:
    """A map's label as fractions."""
    if satellite.name not in labels:
        faults.append(Fault(label_path, f"has no label for {satellite.name}; add it or remove the map"))
        return None
    try:
        row_px, col_px = (float(value) for value in labels[satellite.name])
    except (TypeError, ValueError):
        faults.append(
            Fault(label_path, f"label of {satellite.name} is {labels[satellite.name]!r}, not [row, col] in pixels")
        )
        return None
    if size_px is None:
        return None
    height, width = size_px
    if not (0 <= row_px <= height and 0 <= col_px <= width):
        faults.append(
            Fault(
                label_path,
                f"label [{row_px:g}, {col_px:g}] of {satellite.name} lies outside its {height}x{width} px; "
                "labels are [row, col] in pixels of the stored map",
            )
        )
        return None
    return row_px / height, col_px / width


def _map_info(
    satellite: Path, gps_path: Path, maps: dict[str, Any], faults: list[Fault]
) -> tuple[Corners, float, tuple[float, float]] | None:
    """(corners, map size, centre distribution) of one map."""
    values = maps.get(satellite.name)
    if not isinstance(values, dict):
        faults.append(Fault(gps_path, f"has no corners for {satellite.name}; add them or remove the map"))
        return None
    keys = ("tl_N", "tl_E", "br_N", "br_E", "map_size", "center_distribute_X", "center_distribute_Y")
    try:
        numbers = [float(values[key]) for key in keys]
    except (KeyError, TypeError, ValueError) as error:
        faults.append(Fault(gps_path, f"{satellite.name} lacks the number {error}; it needs {', '.join(keys)}"))
        return None
    corners, map_size_px = Corners(*numbers[:4]), numbers[4]
    if not all(math.isfinite(number) for number in numbers) or map_size_px <= 0:
        faults.append(Fault(gps_path, f"{satellite.name} has a map_size or corner that is no number"))
        return None
    if max(abs(corners.tl_lat_deg), abs(corners.br_lat_deg)) > 90:
        faults.append(
            Fault(
                gps_path,
                f"{satellite.name} has a corner at latitude {corners.tl_lat_deg:g}; N is latitude, E is longitude",
            )
        )
        return None
    if corners.tl_lat_deg <= corners.br_lat_deg or corners.tl_lon_deg >= corners.br_lon_deg:
        faults.append(
            Fault(gps_path, f"{satellite.name} has its top-left corner not north-west of the bottom-right one")
        )
        return None
    return corners, map_size_px, (numbers[5], numbers[6])
