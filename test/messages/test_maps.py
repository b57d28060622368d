# SPDX-License-Identifier: Apache-2.0
"""Map crops through the service, and heatmaps over them."""

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from builtin_interfaces.msg import Time
from geoloc_ros.srv import GetMap

from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.messages.maps import crop_from_response, grid_from_heatmap, image_from_heatmap, response_from_crop
from geoloc_ros.messages.reading import rgb_from_image

STAMP = Time(sec=1455008967, nanosec=200000123)


def pixels(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that chroma subsampling and demosaicing lose little."""
    coarse = np.random.default_rng(3).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def crop_of(image: np.ndarray, status: CropStatus = CropStatus.OK) -> MapCrop:
    return MapCrop(image, 27.1, 112.8, 200.0, 200.0 / len(image), 1.0, status, "covered")


def test_crop_goes_through_the_service() -> None:
    crop = crop_of(pixels(64, 64))
    request = GetMap.Request(latitude_deg=27.1, longitude_deg=112.8, size_m=200.0, size_px=64)
    response = response_from_crop(crop, GetMap.Response())
    back = crop_from_response(request, response)
    np.testing.assert_array_equal(back.image, crop.image)
    assert (back.lat_deg, back.lon_deg, back.size_m, back.gsd_m) == (27.1, 112.8, 200.0, 3.125)
    assert (back.status, back.text, back.coverage) == (CropStatus.OK, "covered", 1.0)
    # The origin is the north-west corner, 100 m from the centre each way.
    east_m, north_m = LocalEnu(27.1, 112.8).to_enu(response.origin_latitude_deg, response.origin_longitude_deg)
    np.testing.assert_allclose([east_m, north_m], [-100.0, 100.0], atol=1e-3)


def test_crop_reply_that_breaks_its_rules_is_unreadable() -> None:
    request = GetMap.Request(latitude_deg=27.1, longitude_deg=112.8, size_m=200.0, size_px=32)
    response = response_from_crop(crop_of(pixels(64, 64)), GetMap.Response())
    back = crop_from_response(request, response)
    assert back.status is CropStatus.UNREADABLE
    assert "64x64 px instead of 32" in back.text


def test_crop_without_pixels() -> None:
    crop = crop_of(pixels(64, 64), CropStatus.OUT_OF_BOUNDS)
    response = response_from_crop(crop, GetMap.Response())
    assert len(response.image.data) == 0
    request = GetMap.Request(latitude_deg=27.1, longitude_deg=112.8, size_m=200.0, size_px=64)
    assert crop_from_response(request, response).status is CropStatus.OUT_OF_BOUNDS


def test_heatmap_grid_lies_where_the_peak_is() -> None:
    """The hottest cell's centre, in the map frame, is the place of the peak in the crop."""
    logits = np.zeros((17, 17), np.float32)
    logits[4, 12] = 12.0
    heatmap = heatmap_from_logits(logits, 4.0)
    crop = crop_of(pixels(64, 64))
    frame = LocalEnu(27.099, 112.801)
    grid = grid_from_heatmap(heatmap, crop, frame, STAMP, "map")
    data = np.array(grid.data).reshape(grid.info.height, grid.info.width)
    row, col = np.unravel_index(data.argmax(), data.shape)
    assert data.max() == 100
    east_m = grid.info.origin.position.x + (col + 0.5) * grid.info.resolution
    north_m = grid.info.origin.position.y + (row + 0.5) * grid.info.resolution
    lat_deg, lon_deg = crop.pixel_to_geodetic(12 * 4.0, 4 * 4.0)
    np.testing.assert_allclose([east_m, north_m], frame.to_enu(lat_deg, lon_deg), atol=0.05)


def test_heatmap_image() -> None:
    logits = np.zeros((17, 17), np.float32)
    logits[4, 12] = 12.0
    heatmap = heatmap_from_logits(logits, 4.0)
    grey = image_from_heatmap(heatmap, 64, False, STAMP, "map")
    pixels = rgb_from_image(grey)[..., 0]
    assert pixels.max() == 255
    row, col = np.unravel_index(pixels.argmax(), pixels.shape)
    assert max(abs(row - 16), abs(col - 48)) <= 1
    red = rgb_from_image(image_from_heatmap(heatmap, 64, True, STAMP, "map"))[row, col]
    assert red[0] > 2 * max(red[1], red[2])
