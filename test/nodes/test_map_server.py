# SPDX-License-Identifier: Apache-2.0
"""get_map through the graph, against the same crop taken directly."""

from pathlib import Path

import numpy as np
import pytest
from geoloc_ros.srv import GetMap
from harness import Scene, Spinner, call, draw_map, parameters
from rclpy.node import Node

from geoloc_ros.core.maps.bands import Block
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
    ("size_m", "size_px", "limit"),
    [
        (0.0, 100, "at most 100000 m"),
        (-5.0, 100, "at most 100000 m"),
        (float("nan"), 100, "at most 100000 m"),
        (1e6, 4, "at most 100000 m"),
        (1e9, 4, "at most 100000 m"),
        (100.0, 0, "1 to 8192"),
        (100.0, 100_000, "1 to 8192"),
    ],
)
def test_impossible_crop(spinner: Spinner, scene: Scene, size_m: float, size_px: int, limit: str) -> None:
    crop = ask(spinner, request_at(*scene.place, size_m, size_px), map=str(scene.path))
    assert crop.status is CropStatus.INVALID
    assert limit in crop.text


@pytest.mark.parametrize("place", [(412.78, 9.0), (49.0, 412.78), (float("nan"), 9.0), (49.0, float("inf"))])
def test_impossible_place(spinner: Spinner, scene: Scene, place: tuple[float, float]) -> None:
    crop = ask(spinner, request_at(*place), map=str(scene.path))
    assert crop.status is CropStatus.INVALID
    assert "latitude within ±90 and longitude within ±180" in crop.text


def test_crop_of_few_pixels_and_much_ground(spinner: Spinner, scene: Scene) -> None:
    """The largest crop shows the map in its middle pixel, and of one that misses it the reason is true."""
    crop = ask(spinner, request_at(*scene.place, 100_000.0, 201), map=str(scene.path))
    assert crop.status in (CropStatus.PARTLY_COVERED, CropStatus.OUT_OF_BOUNDS)
    crop = ask(spinner, request_at(*scene.place, 100_000.0, 4), map=str(scene.path))
    assert crop.status is CropStatus.OUT_OF_BOUNDS
    assert "pixels of 25000 m miss the map" in crop.text


@pytest.mark.parametrize("fault", [MemoryError("19 TB"), KeyError("band"), SystemError("gdal")])
def test_source_that_fails_in_a_way_of_its_own(spinner: Spinner, scene: Scene, fault: Exception) -> None:
    """Whatever a source does, the request is answered and the next one served."""
    server = spinner.add(MapServerNode(parameter_overrides=parameters(map=str(scene.path))))
    assert server._map is not None
    client = spinner.add(Node("asker")).create_client(GetMap, "get_map")
    (layer,) = server._map._layers
    working = layer.read_stored

    def failing(*_: object) -> Block:
        raise fault

    layer.read_stored = failing
    request = request_at(*scene.place)
    crop = crop_from_response(request, call(client, request))
    assert crop.status is CropStatus.UNREADABLE
    assert str(fault.args[0]) in crop.text
    layer.read_stored = working
    assert crop_from_response(request, call(client, request)).status is CropStatus.OK


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
