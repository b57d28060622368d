# SPDX-License-Identifier: Apache-2.0
"""Pairs of aerial images of one ground at two dates, and camera views simulated over them.

The layouts read here are those of `<root>/pairs/levir`, `<root>/pairs/srif`, `<root>/pairs/dsifn` and
`<root>/tiles/*`; what is held out is decided by the scene's name alone, so that training and evaluation agree.
"""

import csv
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from geoloc_models.errors import GeolocError


@dataclass(frozen=True)
class ImagePair:
    """Two images of the same ground.

    second_from_first: (2, 3) similarity that takes pixel-edge coordinates of `first` to those of `second`;
    gsd_m: ground sample distance of `first`; weight: how often the pair is drawn in training.
    """

    name: str
    source: str
    first: Path
    second: Path
    gsd_m: float
    second_from_first: np.ndarray
    weight: float = 1.0


def scene_of(name: str) -> str:
    """The scene that an image was cut from: neighbours of one scene must not be split over train and test."""
    match = re.search(r"istrain_(?:True|False)_\d+", name)
    return match.group(0) if match else name


def is_held_out(name: str) -> bool:
    """Whether the scene of this image is held out from training (about a fifth of all scenes)."""
    return zlib.crc32(scene_of(name).encode()) % 5 == 0


_OVERLAPPING = frozenset(
    f"istrain_True_{scene}" for scene in (2, 19, 24, 33, 37, 39, 46, 64, 66, 71, 83, 91, 96, 184, 190)
)
"""Held-out scenes that show ground of a training scene under another number: found by matching patches of both dates
against all training images. They are neither trained on nor judged by."""


def calibrates(name: str) -> bool:
    """Whether a held-out scene is the half that calibration may see; the other half judges the calibration."""
    return zlib.crc32(scene_of(name).encode()) % 10 == 0


def list_pairs(root: Path, source: str, held_out: bool | None = None) -> list[ImagePair]:
    """Pairs of `source` ("levir", "srif", "dsifn", "naip", "tiles") under `root`; held_out None gives all."""
    if source not in _LISTERS:
        raise GeolocError(f"unknown pair source {source!r}: choose one of {', '.join(_LISTERS)}")
    pairs = list(_LISTERS[source](root))
    if held_out is not None:
        pairs = [p for p in pairs if is_held_out(p.name) == held_out and scene_of(p.name) not in _OVERLAPPING]
    if not pairs:
        raise GeolocError(f"no {source} pairs under {root}: expected the layout {_LAYOUTS[source]}")
    return pairs


_IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _two_folders(folder: Path, source: str, gsd_m: float, weight: float) -> Iterator[ImagePair]:
    for first in sorted((folder / "A").glob("*.*")):
        second = folder / "B" / first.name
        if second.is_file():
            yield ImagePair(first.stem, source, first, second, gsd_m, _IDENTITY, weight)


def _levir(root: Path) -> Iterator[ImagePair]:
    return _two_folders(root / "pairs" / "levir", "levir", 0.5, 1.0)


def _dsifn(root: Path) -> Iterator[ImagePair]:
    return _two_folders(root / "pairs" / "dsifn", "dsifn", 2.0, 0.3)


def _srif(root: Path) -> Iterator[ImagePair]:
    folder = root / "pairs" / "srif"
    table = folder / "similarity_1_to_2.csv"
    if not table.is_file():
        return
    with table.open(newline="") as handle:
        for row in csv.DictReader(handle):
            matrix = np.array(
                [[float(row[k]) for k in ("a11", "a12", "tx")], [float(row[k]) for k in ("a21", "a22", "ty")]]
            )
            names = (folder / f"{row['pair']}_{i}.jpg" for i in (1, 2))
            yield ImagePair(f"srif_{row['pair']}", "srif", next(names), next(names), 0.2, matrix)


def _tiles(root: Path) -> Iterator[ImagePair]:
    for path in sorted((root / "tiles").glob("*/*.*")):
        # One image of one date serves as both: photometric and geometric change comes from augmentation.
        yield ImagePair(path.stem, "tiles", path, path, 0.2, _IDENTITY, 0.5)


def _naip(root: Path) -> Iterator[ImagePair]:
    images = sorted((root / "pairs" / "naip").glob("*.jpg"))
    for first, second in itertools.combinations(images, 2):
        # Really 5 m a pixel. Taken as 1 m it shows that fields, crops and shores change.
        yield ImagePair(f"{first.stem}_{second.stem}", "naip", first, second, 1.0, _IDENTITY, 0.04)


_LISTERS = {"levir": _levir, "srif": _srif, "dsifn": _dsifn, "naip": _naip, "tiles": _tiles}

_LAYOUTS = {
    "levir": "pairs/levir/{A,B}/<name>.jpg",
    "srif": "pairs/srif/<id>_{1,2}.jpg with similarity_1_to_2.csv",
    "dsifn": "pairs/dsifn/{A,B}/<name>.jpg",
    "naip": "pairs/naip/<date>.jpg",
    "tiles": "tiles/<set>/<name>.jpg",
}


def read_rgb(path: Path) -> np.ndarray:
    """Image as (H, W, 3) uint8 RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise GeolocError(f"cannot read image {path}: it is missing or damaged; restore it or leave it out")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
