# SPDX-License-Identifier: Apache-2.0
"""Map crops through the service get_map, and heatmaps over them as image and grid."""

from __future__ import annotations

import array
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import Image

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.messages.reading import rgb_from_image
from geoloc_ros.messages.sensors import header, image_from_rgb
from geoloc_ros.srv import GetMap

if TYPE_CHECKING:  # this brings the network along, which the map server does not need
    from geoloc_models.drl.heatmap import Heatmap


def response_from_crop(crop: MapCrop, response: GetMap.Response) -> GetMap.Response:
    """Fill a GetMap response; the image stays empty where the crop has none."""
    response.status = int(crop.status)
    response.text = crop.text
    response.coverage = float(crop.coverage)
    response.gsd_m = float(crop.gsd_m)
    response.crs = f"+proj=aeqd +lat_0={crop.lat_deg!r} +lon_0={crop.lon_deg!r} +datum=WGS84 +units=m +no_defs"
    if crop.status in (CropStatus.OK, CropStatus.PARTLY_COVERED):
        origin_deg = crop.pixel_to_geodetic(0.0, 0.0)
        response.origin_latitude_deg, response.origin_longitude_deg = origin_deg
        response.image = image_from_rgb(crop.image, Time(), "map")
    return response


def crop_from_response(request: GetMap.Request, response: GetMap.Response) -> MapCrop:
    """The crop that was asked for; a reply that breaks its own rules counts as UNREADABLE."""
    status, text = CropStatus(response.status), response.text
    if status not in (CropStatus.OK, CropStatus.PARTLY_COVERED):
        return empty_crop(request, status, text)
    try:
        image = rgb_from_image(response.image)
        if image.shape[:2] != (request.size_px, request.size_px):
            raise GeolocError(f"it is {image.shape[1]}x{image.shape[0]} px instead of {request.size_px}")
    except GeolocError as error:
        return empty_crop(request, CropStatus.UNREADABLE, f"the map server's image is unusable: {error}")
    # A copy, as the pixels of a message are read-only and PyTorch wants them writable.
    return replace(empty_crop(request, status, text), image=image.copy(), coverage=response.coverage)


def empty_crop(request: GetMap.Request, status: CropStatus, text: str) -> MapCrop:
    """A crop without an image (0 x 0 pixels) of the place that was asked for."""
    return MapCrop(
        image=np.zeros((0, 0, 3), dtype=np.uint8),
        lat_deg=request.latitude_deg,
        lon_deg=request.longitude_deg,
        size_m=request.size_m,
        gsd_m=request.size_m / max(1, request.size_px),
        coverage=0.0,
        status=status,
        text=text,
    )


def image_from_heatmap(heatmap: Heatmap, size_px: int, colour: bool, stamp: Time, frame_id: str) -> Image:
    """The probability map stretched so that the most probable place is white (mono8) or red (rgb8)."""
    grey = _stretched(heatmap.resized(size_px, size_px), 255)
    if not colour:
        message = Image(height=size_px, width=size_px, encoding="mono8", step=size_px)
        message.header = header(stamp, frame_id)
        message.data = array.array("B", grey.tobytes())
        return message
    rgb = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return image_from_rgb(rgb, stamp, frame_id)


def grid_from_heatmap(
    heatmap: Heatmap, crop: MapCrop, map_frame: LocalEnu, stamp: Time, frame_id: str
) -> OccupancyGrid:
    """The probability map as 0..100 (100: most probable) in `map_frame`, one cell around each node."""
    grid = OccupancyGrid()
    grid.header = header(stamp, frame_id)
    rows, columns = heatmap.probability.shape
    cell_m = heatmap.stride_px * crop.gsd_m
    east_m, north_m = map_frame.to_enu(crop.lat_deg, crop.lon_deg)
    grid.info.map_load_time = stamp
    grid.info.resolution = float(cell_m)
    grid.info.width, grid.info.height = columns, rows
    # A node lies in the middle of its cell; the first row of a grid is the southern one.
    grid.info.origin.position.x = east_m - crop.size_m / 2 - cell_m / 2
    grid.info.origin.position.y = north_m + crop.size_m / 2 - (rows - 0.5) * cell_m
    grid.info.origin.orientation.w = 1.0
    grid.data = array.array("b", _stretched(heatmap.probability, 100)[::-1].astype(np.int8).tobytes())
    return grid


def _stretched(values: np.ndarray, top: int) -> np.ndarray:
    """uint8 of the same shape with the largest value at `top`."""
    largest = float(values.max())
    return np.rint(values * (top / largest if largest > 0 else 0.0)).astype(np.uint8)
