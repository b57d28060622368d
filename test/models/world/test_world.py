# SPDX-License-Identifier: Apache-2.0
"""The generated world: repeatable, two dates that differ in look but not in place, georeferenced as stated."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from geoloc_models.errors import GeolocError
from geoloc_models.world.generate import World, generate_world
from geoloc_models.world.layout import make_layout
from geoloc_ros.cli.main import main

SIZE_M, GSD_M = 420.0, 0.5


@pytest.fixture(scope="module")
def world() -> World:
    return generate_world(SIZE_M, GSD_M, seed=3)


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def edges(image: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(grey(image), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


def test_pictures_have_the_asked_form(world: World) -> None:
    for image in (world.date1, world.date2):
        assert image.shape == (840, 840, 3)
        assert image.dtype == np.uint8
        assert 50 < image.mean() < 190
        assert grey(image).std() > 15
        # No flat colours: nearly every 4 m patch has texture.
        patches = grey(image).reshape(105, 8, 105, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
        assert np.mean(patches.std(axis=1) < 1.0) < 0.01
    assert world.size_m == pytest.approx(SIZE_M)


def test_a_seed_repeats_to_the_last_pixel_and_another_differs() -> None:
    one, again, other = (generate_world(150.0, 0.5, seed) for seed in (5, 5, 6))
    assert np.array_equal(one.date1, again.date1)
    assert np.array_equal(one.date2, again.date2)
    assert np.array_equal(one.shift_grid_m, again.shift_grid_m)
    assert np.mean(one.date1 != other.date1) > 0.5


@pytest.mark.parametrize("seed", [3, 4])
def test_dates_differ_in_look_but_structures_align(seed: int, world: World) -> None:
    pair = world if seed == 3 else generate_world(SIZE_M, GSD_M, seed)
    assert np.corrcoef(grey(pair.date1).ravel(), grey(pair.date2).ravel())[0, 1] < 0.85
    assert np.abs(pair.date1.astype(int) - pair.date2).mean() > 12

    # Displacement of date 2 measured by phase correlation of edges, window by window, against the stated one.
    window_px, half_m, residuals, stated = 210, 210 * GSD_M / 2, [], []
    taper = cv2.createHanningWindow((window_px, window_px), cv2.CV_32F)
    first, second = edges(pair.date1), edges(pair.date2)
    knots = pair.shift_grid_m.shape[0]
    for top in range(0, 840 - window_px + 1, 105):
        for left in range(0, 840 - window_px + 1, 105):
            part = np.s_[top : top + window_px, left : left + window_px]
            (right_px, down_px), _ = cv2.phaseCorrelate(first[part], second[part], taper)
            at = np.array([left * GSD_M + half_m, top * GSD_M + half_m]) / SIZE_M * (knots - 1)
            shift = bilinear(pair.shift_grid_m, at)
            residuals.append(np.hypot(*(np.array([right_px, down_px]) * GSD_M - shift)))
            stated.append(np.hypot(*shift))
    assert np.median(residuals) < 0.7
    assert np.quantile(residuals, 0.9) < 1.5
    assert 0.1 < np.median(stated) < 2.5


def bilinear(grid: np.ndarray, at: np.ndarray) -> np.ndarray:
    x0, y0 = np.minimum(np.floor(at).astype(int), grid.shape[0] - 2)
    fx, fy = at - [x0, y0]
    top = grid[y0, x0] * (1 - fx) + grid[y0, x0 + 1] * fx
    bottom = grid[y0 + 1, x0] * (1 - fx) + grid[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


def test_both_geotiffs_lie_on_the_same_ground(world: World, tmp_path: Path) -> None:
    opened = []
    for date in (1, 2):
        world.write_geotiff(tmp_path / f"date{date}.tif", date)
        with rasterio.open(tmp_path / f"date{date}.tif") as source:
            opened.append((source.crs, source.transform, source.shape))
            assert source.is_tiled
            assert source.compression is not None
            assert source.overviews(1) == [2, 4, 8, 16]
            image = source.read().transpose(1, 2, 0).astype(int)
            assert np.abs(image - (world.date1 if date == 1 else world.date2)).mean() < 6
            lon, lat = Transformer.from_crs(source.crs, "EPSG:4326", always_xy=True).transform(
                *(source.transform @ (420.0, 420.0))
            )
            assert (lat, lon) == pytest.approx((world.lat_deg, world.lon_deg), abs=1e-7)
    assert opened[0] == opened[1]
    assert opened[0][1].a == GSD_M
    assert opened[0][1].e == -GSD_M


def test_command_writes_both_maps_and_a_preview(tmp_path: Path) -> None:
    arguments = ["sim", "world", "--out", str(tmp_path / "w"), "--size-m", "120", "--gsd-m", "0.4", "--seed", "2"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["map_date1.tif", "map_date2.tif", "preview.png"]
    with rasterio.open(tmp_path / "w" / "map_date2.tif") as source:
        assert source.shape == (300, 300)


def test_southern_and_western_places_get_their_zone() -> None:
    assert generate_world(100.0, 1.0, 0, -33.4, -70.6).epsg == 32719


def test_nothing_is_built_on_roads_or_in_the_river() -> None:
    layout = make_layout(900.0, np.random.default_rng(8))
    ways = np.zeros((900, 900), np.uint8)
    for road in layout.roads:
        if road.kind in ("main", "street", "lane"):
            cv2.polylines(ways, [np.round(road.points).astype(np.int32)], False, 1, round(road.width_m))
    assert layout.river is not None
    cv2.polylines(ways, [np.round(layout.river[:, :2]).astype(np.int32)], False, 1, 10)
    built = np.zeros_like(ways)
    for building in layout.buildings:
        cv2.fillPoly(built, [np.round(building.outline()).astype(np.int32)], 1)
    assert len(layout.buildings) > 50
    assert np.sum(built & ways) < 0.02 * built.sum()
    # A few buildings come and go between the dates, most stay.
    stay = np.mean([building.dates == (True, True) for building in layout.buildings])
    assert 0.8 < stay < 1.0


@pytest.mark.parametrize(
    ("size_m", "gsd_m", "match"), [(50, 0.3, "100 m"), (500, 5.0, "0.1 to 1.0"), (9e3, 0.1, "12000")]
)
def test_user_mistakes(size_m: float, gsd_m: float, match: str, world: World, tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match=match):
        generate_world(size_m, gsd_m, 0)
    with pytest.raises(GeolocError, match="date is 3"):
        world.write_geotiff(tmp_path / "x.tif", 3)
