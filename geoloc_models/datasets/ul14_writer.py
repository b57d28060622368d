# SPDX-License-Identifier: Apache-2.0
"""Writes the UL14 layout that `ul14.py` reads: sizes, names and labels as published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from geoloc_models.datasets.ul14 import GPS_FILE, LABEL_FILES, Corners

TRAIN_MAP_PX = 1280
TRAIN_MAP_GSD_M = 0.46
"""Not published; the authors' generator suggests it, and it makes 512-1000 px the range of the test maps."""
TRAIN_VIEW_PX, TEST_VIEW_PX, TEST_MAP_PX = 512, 256, 768
CENTRE_COVERAGE = 0.95
"""Share of a test map's side over which the target is spread."""
JPEG_QUALITY = 92


@dataclass(frozen=True)
class LabelledMap:
    """One map of a test sequence."""

    image: np.ndarray  # (n, n, 3) uint8 RGB
    target: tuple[float, float]  # (row, col) fractions
    corners: Corners
    map_size_px: int  # in pixels of ul14.MAP_PIXEL_M


def sequence_name(place: str, height_m: float, index: int) -> str:
    """<Place>_<Height>_<Index>; the height in whole metres."""
    return f"{place}_{round(height_m)}_{index}"


def draw_target(rng: np.random.Generator) -> tuple[float, float]:
    """Position of the UAV on a test map: (row, col) fractions, uniform over its central 95 %."""
    row, col = rng.uniform(0.5 - CENTRE_COVERAGE / 2, 0.5 + CENTRE_COVERAGE / 2, 2)
    return float(row), float(col)


def write_train_item(folder: Path, view: np.ndarray, maps: Sequence[np.ndarray]) -> None:
    """Write one train sequence: the view, and maps with the UAV at their exact centres."""
    _write_image(folder / "UAV" / "0.JPG", view)
    for number, image in enumerate(maps):
        _write_image(folder / "Satellite" / f"{number}.tif", image)


def write_test_sequence(
    folder: Path, view: np.ndarray, maps: Sequence[LabelledMap], lat_deg: float, lon_deg: float
) -> None:
    """Write one test sequence: the view, its maps, their labels and corners, and the UAV's place."""
    _write_image(folder / "UAV" / "0.JPG", view)
    labels, infos = {}, {}
    for number, entry in enumerate(maps):
        name = f"{number}.jpg"
        _write_image(folder / "Satellite" / name, entry.image)
        row, col = entry.target
        labels[name] = [round(row * entry.image.shape[0], 3), round(col * entry.image.shape[1], 3)]
        infos[name] = {
            "tl_E": entry.corners.tl_lon_deg,
            "tl_N": entry.corners.tl_lat_deg,
            "br_E": entry.corners.br_lon_deg,
            "br_N": entry.corners.br_lat_deg,
            # X runs down as in the published files, where it goes with the label's first number.
            "center_distribute_X": 1 - 2 * row,
            "center_distribute_Y": 1 - 2 * col,
            "map_size": entry.map_size_px,
        }
    _write_json(folder / LABEL_FILES[0], labels)
    _write_json(folder / GPS_FILE, {"UAV": {"E": lon_deg, "N": lat_deg}, "Satellite": infos})


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A TIFF as published, but with JPEG inside: a tenth of the size.
    compression = {"compression": "jpeg"} if path.suffix == ".tif" else {}
    Image.fromarray(image).save(path, quality=JPEG_QUALITY, **compression)


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
