# SPDX-License-Identifier: Apache-2.0
"""Colours and textures of the ground of a generated world, by season, as one table to look up by pixel."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from geoloc_models.world.shapes import Field


@dataclass(frozen=True)
class Material:
    """Colours of a surface when plants are green and when they rest, and its texture in per cent."""

    green: tuple[tuple[int, int, int], tuple[int, int, int]]
    resting: tuple[tuple[int, int, int], tuple[int, int, int]]
    coarse: float
    middle: float
    fine: float


def _hard(first: tuple[int, int, int], second: tuple[int, int, int], *texture: float) -> Material:
    return Material((first, second), (first, second), *texture)


MATERIALS = {
    "grass": Material(((92, 104, 62), (136, 128, 88)), ((118, 108, 76), (134, 116, 88)), 7, 8, 8),
    "lawn": Material(((84, 106, 58), (124, 126, 80)), ((112, 110, 74), (136, 122, 90)), 4, 5, 5),
    "garden": Material(((86, 98, 60), (132, 116, 86)), ((108, 98, 72), (128, 106, 82)), 7, 12, 10),
    "yard": Material(((138, 124, 98), (108, 110, 74)), ((140, 122, 100), (116, 106, 80)), 6, 9, 8),
    "verge": Material(((102, 112, 66), (146, 136, 94)), ((128, 116, 82), (146, 126, 96)), 6, 8, 9),
    "forest": Material(((62, 70, 44), (86, 80, 56)), ((100, 84, 64), (84, 72, 56)), 6, 10, 12),
    "soil": _hard((158, 128, 98), (134, 104, 78), 8, 9, 7),
    "bank": _hard((128, 110, 82), (104, 96, 68), 6, 10, 9),
    "gravel": _hard((164, 154, 138), (142, 130, 112), 4, 6, 7),
    "concrete": _hard((188, 184, 174), (170, 164, 152), 3, 4, 3),
    "paving": _hard((176, 164, 150), (158, 142, 128), 3, 5, 5),
    "asphalt": _hard((124, 122, 120), (108, 106, 106), 4, 4, 3),
    "worn": _hard((136, 133, 129), (118, 116, 114), 4, 4, 3),
    "patch": _hard((96, 95, 96), (88, 87, 88), 3, 3, 3),
    "sidewalk": _hard((170, 164, 154), (152, 146, 136), 3, 5, 4),
    "marking": _hard((206, 204, 196), (176, 174, 168), 3, 8, 4),
    "track": _hard((168, 146, 116), (142, 122, 94), 6, 8, 7),
    "fence": _hard((98, 82, 66), (84, 74, 60), 4, 10, 12),
    "pool": _hard((92, 172, 190), (84, 160, 184), 1, 1, 1),
    "water": _hard((76, 92, 84), (70, 84, 78), 4, 2, 3),
    "pond": _hard((92, 110, 92), (82, 98, 84), 4, 2, 3),
}

NAMES = list(MATERIALS)

CODE = {name: index for index, name in enumerate(NAMES)}

FIRST_FIELD = 64
SOFT = ("lawn", "garden", "yard", "soil")  # drawn under walks and drives

# Crop: first and second colour, coarse, middle and fine texture, streaks along the rows (fine, broad) in per
# cent, distance of the wheel tracks in metres (0: none).
CROPS_GREEN = [
    ((186, 164, 112), (168, 146, 98), 5, 4, 5, 6, 5, 20.0),  # ripe grain
    ((206, 184, 132), (180, 156, 110), 5, 5, 6, 11, 7, 0.0),  # stubble
    ((86, 98, 60), (102, 110, 68), 4, 5, 6, 8, 4, 0.0),  # maize
    ((106, 116, 70), (124, 128, 80), 5, 5, 5, 6, 4, 24.0),  # beet
    ((126, 136, 78), (146, 142, 90), 5, 5, 5, 6, 6, 20.0),  # grain, turning
    ((148, 118, 92), (126, 98, 76), 7, 6, 6, 10, 8, 0.0),  # tilled
    ((104, 116, 68), (142, 132, 88), 8, 8, 7, 3, 6, 0.0),  # clover
]

CROPS_RESTING = [
    ((136, 112, 88), (114, 94, 76), 9, 6, 6, 9, 9, 0.0),  # ploughed
    ((118, 98, 80), (102, 84, 68), 8, 6, 6, 12, 8, 0.0),  # ploughed, wet
    ((156, 130, 102), (136, 110, 86), 8, 6, 6, 10, 9, 0.0),  # harrowed
    ((168, 148, 112), (146, 124, 94), 6, 6, 7, 12, 8, 0.0),  # old stubble
    ((108, 112, 70), (130, 116, 82), 7, 6, 5, 7, 6, 20.0),  # winter grain
    ((122, 116, 76), (104, 104, 64), 8, 8, 7, 4, 6, 0.0),  # catch crop
]

MEADOW = (((104, 116, 68), (142, 134, 90), 6, 8, 7, 4, 7, 0.0), ((122, 112, 78), (142, 122, 92), 6, 8, 8, 3, 5, 0.0))

SCRUB = (((112, 108, 72), (148, 126, 92), 9, 13, 10, 0, 0, 0.0), ((126, 106, 82), (150, 122, 96), 9, 13, 10, 0, 0, 0.0))

WATERS = np.array([(70, 88, 78), (98, 110, 88), (54, 66, 62), (112, 114, 92), (88, 118, 102), (62, 80, 84)])
"""Rivers and ponds: algae, silt, depth."""


def material_table(fields: list[Field], tones: list[str], green: float, rng: np.random.Generator) -> np.ndarray:
    """(14, rows) float32: two colours, coarse, middle, fine, streaks fine and broad, cos, sin, wheel tracks.

    tones: materials of the single plots, which have a row each after the fields. green: 1 summer, 0 winter.
    """
    table = np.zeros((FIRST_FIELD + len(fields) + len(tones), 14), np.float32)
    for name, material in MATERIALS.items():
        row = table[CODE[name]]
        row[:6] = green * np.ravel(material.green) + (1 - green) * np.ravel(material.resting)
        # The same asphalt is light in one acquisition and dark in another: wet, worn, seen against the sun.
        row[:6] += rng.normal(0, 14) + np.tile(rng.normal(0, 2, 3), 2)
        row[6:9] = material.coarse, material.middle, material.fine
    crops = CROPS_GREEN if green > 0.5 else CROPS_RESTING
    for number, parcel in enumerate(fields):
        if parcel.use == "crop":
            crop = crops[rng.integers(len(crops))]
        elif parcel.use == "scrub":
            crop = SCRUB[green < 0.5]
        else:
            crop = MEADOW[green < 0.5]
        row = table[FIRST_FIELD + number]
        row[:6] = np.ravel(crop[:2]) + np.tile(rng.normal(0, 2.5, 3) + rng.normal(0, 7), 2)
        row[6:11] = crop[2:7]
        row[11:13] = math.cos(parcel.angle_rad), math.sin(parcel.angle_rad)
        row[13] = crop[7]
    for number, name in enumerate(tones):
        row = table[FIRST_FIELD + len(fields) + number]
        row[:] = table[CODE[name]]
        if name in ("water", "pond"):
            row[:6] = np.tile(WATERS[rng.integers(len(WATERS))] + rng.normal(0, 4, 3), 2)
            row[3:6] -= 8
            continue
        row[:6] += np.tile(rng.normal(0, 2, 3) + rng.normal(0, 9), 2)
        row[:6] += rng.normal(0, 0.25) * np.tile(row[3:6] - row[:3], 2)  # greener or drier
    table[:, 6:11] /= 100
    return np.ascontiguousarray(table.T)


def tree_colours(green: float, rng: np.random.Generator) -> np.ndarray:
    """(256, 3) float32 colour of each tree tint."""
    t = np.linspace(0, 1, 127)[:, None]
    leafy = (1 - t) * np.array([66, 84, 46]) + t * np.array([108, 116, 66])
    autumn = (1 - t) * np.array([112, 92, 66]) + t * np.array([126, 106, 84])
    t = np.linspace(0, 1, 128)[:, None]
    needles = (1 - t) * np.array([54, 64, 44]) + t * np.array([80, 86, 56])
    colours = np.zeros((256, 3), np.float32)
    colours[1:128] = green * leafy + (1 - green) * autumn + rng.normal(0, 4, (127, 3))
    colours[128:] = needles + rng.normal(0, 3, (128, 3)) + rng.normal(0, 3, 3)
    return colours


def smooth_noise(rng: np.random.Generator, knots: int, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) float32 noise with knots x knots free values."""
    grid = rng.standard_normal((knots, knots), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))
