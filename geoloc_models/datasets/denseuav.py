# SPDX-License-Identifier: Apache-2.0
"""DenseUAV (Dai et al., 2023), drone and satellite images by place, in its published layout.

    Dense_GPS_train.txt, Dense_GPS_test.txt    (or Dense_GPS_ALL.txt for both)
    train/drone/<id>/H80.JPG H90.JPG H100.JPG
    train/satellite/<id>/H80.tif H80_old.tif H90.tif ...
    test/query_drone/<id>/..., test/gallery_satellite/<id>/...   (query_satellite, gallery_drone likewise)

A text line is "<path ending in /<id>/<file>> E<longitude> N<latitude> <height above ground>"; the letters say
which number is which, whatever their order. `load_train` and `load_test` raise GeolocError at a fault; `scan`
lists all of them.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from geoloc_models.datasets.faults import Fault, list_folders, list_images, raise_first
from geoloc_models.errors import GeolocError

ROLES = {
    "train": ("drone", "satellite"),
    "test": ("query_drone", "gallery_satellite", "query_satellite", "gallery_drone"),
}
"""Folders of each split."""

NEEDED_ROLES = ("drone", "satellite", "query_drone", "gallery_satellite")
"""The others serve the reverse task, satellite to drone, and may be missing."""


@dataclass(frozen=True)
class Position:
    """Where an image was taken."""

    lat_deg: float
    lon_deg: float
    height_m: float  # above ground


@dataclass(frozen=True)
class DenseUavImage:
    """One image of one place."""

    path: Path
    place_id: str
    position: Position


def load_train(root: str | Path) -> dict[str, list[DenseUavImage]]:
    """Images of `drone` and `satellite`; GeolocError names the first fault."""
    return _load(root, "train")


def load_test(root: str | Path) -> dict[str, list[DenseUavImage]]:
    """Images of `query_drone`, `gallery_satellite` and, where present, of the reverse task's two folders."""
    return _load(root, "test")


def _load(root: str | Path, split: str) -> dict[str, list[DenseUavImage]]:
    if not (Path(root) / split).is_dir():
        raise GeolocError(f"{root} has no folder {split}; give the root of a data set in the DenseUAV layout")
    images, faults = scan(Path(root), split)
    raise_first(faults)
    return images


def scan(root: Path, split: str) -> tuple[dict[str, list[DenseUavImage]], list[Fault]]:
    """The sound images of a split by role, and all faults of the others."""
    faults: list[Fault] = []
    names = (f"Dense_GPS_{split}.txt", "Dense_GPS_ALL.txt")
    text = next((root / name for name in names if (root / name).is_file()), None)
    if text is None:
        faults.append(Fault(root / names[0], f"is missing, and so is {names[1]}; restore one of them"))
        return {}, faults
    positions = read_positions(text, faults)
    images: dict[str, list[DenseUavImage]] = {}
    for role in ROLES[split]:
        folder = root / split / role
        if folder.is_dir():
            images[role] = _role(folder, positions, text, faults)
        elif role in NEEDED_ROLES:
            faults.append(Fault(folder, "is missing; restore it"))
    return images, faults


def read_positions(path: Path, faults: list[Fault]) -> dict[str, dict[str, Position]]:
    """Positions of a text file by place id and file stem; lines that cannot be read become faults."""
    positions: dict[str, dict[str, Position]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault(path, f"cannot be read as UTF-8 text: {error}"))
        return positions
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parsed = _parse_line(line)
        if isinstance(parsed, str):
            faults.append(Fault(path, f"line {number} {parsed}"))
        else:
            file, position = parsed
            positions.setdefault(file.parent.name, {})[file.stem] = position
    return positions


def _parse_line(line: str) -> tuple[PurePosixPath, Position] | str:
    """(file, position) of a line, or what is wrong with it."""
    match = re.fullmatch(r"(.+?)((?:\s+[EN]?[-+]?[0-9.]+){3})\s*", line)
    if match is None:
        return f"is '{line.strip()}', not '<path> E<longitude> N<latitude> <height>'"
    numbers: dict[str, float] = {}
    for token in match[2].split():
        letter = token[0] if token[0] in "EN" else "height"
        try:
            numbers[letter] = float(token.removeprefix(letter))
        except ValueError:
            return f"holds '{token}', which is no number"
    if len(numbers) < 3:
        return "must have one number with E, one with N and a height without a letter"
    if abs(numbers["N"]) > 90 or abs(numbers["E"]) > 180:
        return f"names latitude {numbers['N']:g}, longitude {numbers['E']:g}, which is no place on Earth"
    file = PurePosixPath(match[1].strip().replace("\\", "/"))
    if not file.parent.name:
        return f"names the file '{file}' without the folder of its place"
    return file, Position(numbers["N"], numbers["E"], numbers["height"])


def _role(
    folder: Path, positions: dict[str, dict[str, Position]], text: Path, faults: list[Fault]
) -> list[DenseUavImage]:
    """The images of one folder of places."""
    images = []
    for place in list_folders(folder):
        of_place = positions.get(place.name)
        if of_place is None:
            faults.append(Fault(place, f"has no line in {text.name}; add its position or remove it"))
            continue
        paths = list_images(place)
        if not paths:
            faults.append(Fault(place, "holds no image; restore H80, H90 and H100"))
        for path in paths:
            # A map of another year (H80_old.tif) stands where the drone of its height stood.
            position = of_place.get(path.stem.removesuffix("_old"), next(iter(of_place.values())))
            images.append(DenseUavImage(path, place.name, position))
    return images
