# SPDX-License-Identifier: Apache-2.0
"""get_map through the graph, against the same crop taken directly."""

from pathlib import Path

import numpy as np
import pytest
from geoloc_ros.srv import GetMap
from harness import Scene, Spinner, call, draw_map, parameters
from rclpy.node import Node

from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.messages.maps import crop_from_response
from geoloc_ros.nodes.map_server_node import MapServerNode


def ask(spinner: Spinner, request: GetMap.Request, **values: object) -> MapCrop:
    """Start a map server with these parameters and ask it once."""
    spinner.add(MapServerNode(parameter_overrides=parameters(**values)))
    client = spinner.add(Node("asker")).create_client(GetMap, "get_map")
    return crop_from_response(request, call(client, request))


def request_at(lat_deg: float, lon_deg: float, size_m: float = 150.0, size_px: int = 300) -> GetMap.Request:
    return GetMap.Request(latitude_deg=lat_deg, longitude_deg=lon_deg, size_m=size_m, size_px=size_px)


def test_crop_is_that_of_the_raster(spinner: Spinner, scene: Scene) -> None:
    crop = ask(spinner, request_at(*scene.place), map=str(scene.path))
    assert (crop.status, crop.coverage) == (CropStatus.OK, 1.0)
    with RasterMap(scene.path) as raster:
        expected = raster.crop(*scene.place, 150.0, 300)
    np.testing.assert_array_equal(crop.image, expected.image)


def test_list_of_maps_has_the_uppermost_first(spinner: Spinner, scene: Scene, tmp_path: Path) -> None:
    top = draw_map(tmp_path / "top.tif", side_px=700, gsd_m=0.5)
    lat_deg, lon_deg = scene.frame.to_geodetic(-120.0, 120.0)
    crop = ask(spinner, request_at(lat_deg, lon_deg, 60.0, 120), map=[str(top), str(scene.path)])
    with RasterMap(top) as raster:
        np.testing.assert_array_equal(crop.image, raster.crop(lat_deg, lon_deg, 60.0, 120).image)


def test_edge_and_outside(spinner: Spinner, scene: Scene) -> None:
    lat_deg, lon_deg = scene.frame.to_geodetic(-240.0, 0.0)
    crop = ask(spinner, request_at(lat_deg, lon_deg), map=str(scene.path))
    assert crop.status is CropStatus.PARTLY_COVERED
    assert crop.coverage == pytest.approx(0.5, abs=0.02)
    assert "%" in crop.text


def test_far_away(spinner: Spinner, scene: Scene) -> None:
    crop = ask(spinner, request_at(10.0, 20.0), map=str(scene.path))
    assert crop.status is CropStatus.OUT_OF_BOUNDS
    assert "does not cover 10.000000, 20.000000" in crop.text


@pytest.mark.parametrize(
    ("size_m", "size_px"), [(0.0, 100), (-5.0, 100), (float("nan"), 100), (100.0, 0), (100.0, 100_000)]
)
def test_impossible_crop(spinner: Spinner, scene: Scene, size_m: float, size_px: int) -> None:
    crop = ask(spinner, request_at(*scene.place, size_m, size_px), map=str(scene.path))
    assert crop.status is CropStatus.UNREADABLE
    assert crop.text


@pytest.mark.parametrize("fault", ["no file", "no raster", "no crs", "not set", "colour"])
def test_bad_map_is_answered_with_the_reason(spinner: Spinner, tmp_path: Path, fault: str) -> None:
    values: dict[str, object] = {"map": str(tmp_path / "map.tif")}
    expected = "map.tif"
    if fault == "no raster":
        (tmp_path / "map.tif").write_bytes(b"II*\0 this is no image")
    elif fault == "no crs":
        draw_map(tmp_path / "map.tif", 200, crs=None)
        expected = "CRS"
    elif fault == "not set":
        values, expected = {}, "no map is set"
    elif fault == "colour":
        draw_map(tmp_path / "map.tif", 200)
        values["nodata_rgb"], expected = "black", "nodata_rgb is 'black'"
    crop = ask(spinner, request_at(27.0, 117.0), **values)
    assert crop.status is CropStatus.UNREADABLE
    assert expected in crop.text or "coordinate reference system" in crop.text
