# SPDX-License-Identifier: Apache-2.0
"""Faults of a data set, file by file, and small readers that report them instead of raising."""

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from geoloc_models.errors import GeolocError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".tif", ".tiff", ".png")
"""Of the published sets, in any case."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged or no images at all."""


@dataclass(frozen=True)
class Fault:
    """One fault: the file, and one sentence with the fault and its remedy."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def raise_first(faults: Sequence[Fault]) -> None:
    """GeolocError with the first fault and how many more there are; nothing without faults."""
    if faults:
        more = f" ({len(faults) - 1} more; `geoloc dataset check` lists them)" if len(faults) > 1 else ""
        raise GeolocError(f"{faults[0]}{more}")


def list_images(folder: Path) -> list[Path]:
    """All images of a folder, numbers in their names in order of size (2.jpg before 10.jpg)."""
    if not folder.is_dir():
        return []
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=lambda path: _natural(path.name))


def list_folders(folder: Path) -> list[Path]:
    """All folders in a folder, in natural order; none if it is missing."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"([0-9]+)", name)]


def image_size_px(path: Path, faults: list[Fault]) -> tuple[int, int] | None:
    """(height, width) from the image's header; None and a fault if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE:
        faults.append(Fault(path, "is no readable image; restore it or remove it"))
        return None


def read_json(path: Path, faults: list[Fault]) -> dict[str, Any] | None:
    """The object of a UTF-8 JSON file; None and a fault if it is missing, damaged or no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        faults.append(Fault(path, "is missing; restore it"))
    except OSError as error:
        faults.append(Fault(path, f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        faults.append(Fault(path, f"is not UTF-8 from byte {error.start} on; save it as UTF-8"))
    except json.JSONDecodeError as error:
        faults.append(
            Fault(path, f"is damaged JSON in line {error.lineno}, column {error.colno}: {error.msg}; restore it")
        )
    else:
        if isinstance(values, dict):
            return values
        faults.append(Fault(path, f"holds a {type(values).__name__} where an object {{...}} belongs"))
    return None
