# SPDX-License-Identifier: Apache-2.0
"""Whether a map will do for the localizer in a Gazebo world: it must show the ground, but be another image of it."""

import math
from pathlib import Path

import cv2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.simulation.gazebo import World

SAME_PICTURE = 0.97
"""Likeness from which on two images count as one. Other dates of the same ground have 0.1 to 0.7."""


def check_served_map(world: World, served: Path, same_map: bool) -> str:
    """A warning about the map that the localizer is to search in this world, or nothing.

    GeolocError if the map does not show the ground or, without `same_map`, if it is the very image that the camera
    sees: fixes on that are too good to say anything.
    """
    with RasterMap(served) as source:
        like = likeness(world, source)
    if like is None:
        raise GeolocError(
            f"{served} does not show the ground of {world.sdf} about {world.plan.lat_deg:.5f}, "
            f"{world.plan.lon_deg:.5f}; serve a map of that place"
        )
    if like < SAME_PICTURE:
        return ""
    if not same_map:
        raise GeolocError(
            f"{served} is the very image that lies on the ground of {world.sdf} (likeness {like:.3f}): serve a "
            "map of another date or source, or give same_map:=true for a test that says nothing about accuracy"
        )
    return f"{served} is the image that lies on the ground: accuracy in this world says nothing about real flights"


def likeness(world: World, served: RasterMap) -> float | None:
    """How much a served map looks like the world's ground: the best correlation of grey levels over a few squares.

    About 1 for the same image, whatever file it comes from; None where the map shows nothing of the ground.
    GeolocError if a texture or the map cannot be read.
    """
    frame = LocalEnu(world.plan.lat_deg, world.plan.lon_deg)
    found = []
    tiles = world.plan.tiles
    for tile in tiles[:: math.ceil(len(tiles) / 9)]:
        image = cv2.imread(str(world.ground / tile.file), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise GeolocError(f"{world.ground / tile.file} is no image; make the world anew")
        side = min(512, *image.shape)
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        east_m = tile.east_m + (left + side / 2 - tile.width_px / 2) * world.plan.gsd_m
        north_m = tile.north_m - (top + side / 2 - tile.height_px / 2) * world.plan.gsd_m
        drawn, covered = served.draw(frame, east_m, north_m, side * world.plan.gsd_m, side)
        mask = covered > 0
        if np.count_nonzero(mask) < 0.1 * mask.size:
            continue
        ours = image[top : top + side, left : left + side][mask].astype(np.float64)
        theirs = cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)[mask].astype(np.float64)
        # Ground of one colour says nothing.
        is_flat = min(ours.std(), theirs.std()) < 1.0
        found.append(0.0 if is_flat else float(np.asarray(np.corrcoef(ours, theirs))[0, 1]))
    return max(found, default=None)
