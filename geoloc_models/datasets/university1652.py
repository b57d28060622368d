# SPDX-License-Identifier: Apache-2.0
"""University-1652 (Zheng et al., ACM MM 2020), drone and satellite images of buildings, in its published layout.

    train/{drone,satellite}/<id>/*.jpg|*.jpeg                                  701 ids; 54 drone, 1 satellite
    test/{query_drone,gallery_satellite,query_satellite,gallery_drone}/<id>/*  701 queried, 951 in the galleries

The label of an image is the number that names its folder; street and google images are not read. `load_train` and
`load_test` raise GeolocError at a fault; `scan` lists all of them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from geoloc_models.datasets.faults import Fault, list_folders, list_images
from geoloc_models.errors import GeolocError

ROLES = {
    "train": ("drone", "satellite"),
    "test": ("query_drone", "gallery_satellite", "query_satellite", "gallery_drone"),
}
"""Folders of each split; all are needed."""

DISTANCES = ("long", "middle", "short")
"""The three rounds of a flight: 18 images each, descending from 256 m to 121.5 m."""
ANGLE_STEP_DEG = 20
PER_ROUND = 360 // ANGLE_STEP_DEG


@dataclass(frozen=True)
class LabelledImage:
    """One image and the number of its building."""

    path: Path
    label: int


def load_train(root: Path) -> dict[str, list[LabelledImage]]:
    """Images of `drone` and `satellite`; GeolocError names the first fault."""
    return _load(root, "train")


def load_test(root: Path) -> dict[str, list[LabelledImage]]:
    """Images of the four roles of the two tasks; GeolocError names the first fault."""
    return _load(root, "test")


def _load(root: Path, split: str) -> dict[str, list[LabelledImage]]:
    if not (root / split).is_dir():
        raise GeolocError(f"{root} has no folder {split}; give the root of a data set in the University-1652 layout")
    images, faults = scan(root, split)
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise GeolocError(f"{faults[0]}{more}")
    return images


def scan(root: Path, split: str) -> tuple[dict[str, list[LabelledImage]], list[Fault]]:
    """The images of a split by role, and all faults: folders missing, empty, of no number, or without counterpart."""
    faults: list[Fault] = []
    images: dict[str, list[LabelledImage]] = {}
    for role in ROLES[split]:
        folder = root / split / role
        if not folder.is_dir():
            faults.append(Fault(folder, "is missing; restore it"))
            continue
        images[role] = _role(folder, faults)
    pairs = [("drone", "satellite"), ("satellite", "drone")]
    if split == "test":
        pairs = [("query_drone", "gallery_satellite"), ("query_satellite", "gallery_drone")]
    for role, other in pairs:
        if role in images and other in images:
            known = {image.label for image in images[other]}
            for label in sorted({image.label for image in images[role]} - known):
                text = f"building {label:04d} has no image in {other}; restore it or remove the building"
                faults.append(Fault(root / split / role, text))
    return images, faults


def _role(folder: Path, faults: list[Fault]) -> list[LabelledImage]:
    found = []
    for place in list_folders(folder):
        if not place.name.isdigit():
            faults.append(Fault(place, "is named by no number; folders are the buildings' numbers, such as 0839"))
            continue
        of_place = list_images(place)
        if not of_place:
            faults.append(Fault(place, "holds no image; restore or remove it"))
        found += [LabelledImage(path, int(place.name)) for path in of_place]
    if not found:
        faults.append(Fault(folder, "holds no building; restore its folders"))
    return found


def capture_of(path: Path) -> tuple[str, int] | None:
    """(distance, angle in degrees) from which a drone image was taken, by its number; None without one.

    image-01 to image-54 follow the flight: three rounds of 18 images 20 degrees apart, each lower and nearer. That is
    read from the data set's description; the files themselves do not contain it.
    """
    match = re.fullmatch(r"image-(\d+)", path.stem)
    if match is None or not 1 <= int(match[1]) <= PER_ROUND * len(DISTANCES):
        return None
    round_number, step = divmod(int(match[1]) - 1, PER_ROUND)
    return DISTANCES[round_number], step * ANGLE_STEP_DEG


def read_image(path: Path, side_px: int) -> np.ndarray:
    """Image as (side_px, side_px, 3) uint8 RGB, bicubic with antialiasing; alpha and palettes are resolved."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC))
    except (OSError, ValueError, SyntaxError) as error:
        raise GeolocError(f"cannot read image {path} ({error}); restore it or leave it out") from error
