# SPDX-License-Identifier: Apache-2.0
"""Opening and searching galleries: what is refused, what a search returns, areas, flat images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Geod
from rasterio.enums import Resampling

from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.relocalization.gallery import Area, Gallery, GalleryInfo, is_flat, probe, probe_rows, write_header

DIM = 24
INFO = GalleryInfo("map.tif", "0" * 12, "small-1234", (100.0,), 50.0, 0, 0)
LAT, LON = 47.85, 15.0


def write_gallery(path: Path, tiles: int = 60, source: RasterMap | None = None, **changes: np.ndarray) -> Path:
    """A gallery of random vectors on a diagonal line about (LAT, LON); `changes` replace arrays."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((tiles, DIM))
    lat = np.linspace(LAT - 0.0005, LAT + 0.0005, tiles)
    lon = np.linspace(LON - 0.0005, LON + 0.0005, tiles)
    size = np.full(tiles, 100.0)
    rows = probe_rows(tiles) if tiles else []
    probes = (
        np.zeros((len(rows), 16, 16, 3))
        if source is None
        else np.stack([probe(source, lat[r], lon[r], size[r]) for r in rows])
    )
    arrays: dict[str, np.ndarray] = {
        "lat_deg": lat,
        "lon_deg": lon,
        "size_m": size.astype(np.float32),
        "vectors": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16),
        "probes": probes.astype(np.uint8),
        **changes,
    }
    kinds = {"float64": "F64", "float32": "F32", "float16": "F16", "uint8": "U8"}
    header = write_header(INFO, {name: (kinds[str(a.dtype)], a.shape) for name, a in arrays.items()})
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    return path


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(write_gallery(tmp_path_factory.mktemp("gallery") / "map.gallery"))


def some_queries(gallery: Gallery, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((count, gallery.dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def in_area(gallery: Gallery, area: Area) -> np.ndarray:
    """Rows by the geodesic's own length."""
    many = np.full(len(gallery), area.lon_deg), np.full(len(gallery), area.lat_deg)
    apart = Geod(ellps="WGS84").inv(*many, gallery.lon_deg, gallery.lat_deg)[2]
    return np.flatnonzero(np.asarray(apart) <= area.radius_m)


def test_a_search_ranks_all_products(gallery: Gallery) -> None:
    asked = some_queries(gallery)
    matches = gallery.search(asked, 7)
    products = asked @ gallery.vectors.astype(np.float32).T
    np.testing.assert_array_equal(matches.tile, np.argsort(-products, axis=1)[:, :7])
    np.testing.assert_allclose(matches.score, -np.sort(-products, axis=1)[:, :7], atol=1e-6)
    np.testing.assert_array_equal(matches.lat_deg, gallery.lat_deg[matches.tile])
    np.testing.assert_array_equal(matches.lon_deg, gallery.lon_deg[matches.tile])
    assert (matches.size_m == 100).all()


def test_an_area_comes_before_the_ranking(gallery: Gallery) -> None:
    """The best of the area are found although the map's best lie elsewhere; its border is the geodesic's."""
    asked = some_queries(gallery)
    area = Area(LAT + 0.0002, LON + 0.0001, 25.0)
    rows = in_area(gallery, area)
    assert 5 < len(rows) < 40
    np.testing.assert_array_equal(gallery.within(area), rows)
    products = asked @ gallery.vectors[rows].astype(np.float32).T
    matches = gallery.search(asked, 3, area)
    np.testing.assert_array_equal(matches.tile, rows[np.argsort(-products, axis=1)[:, :3]])
    assert not np.array_equal(matches.tile, gallery.search(asked, 3).tile)


def test_areas_beside_the_antimeridian_and_elsewhere(tmp_path: Path) -> None:
    lon = np.linspace(179.9995, 180.0005, 60)
    gallery = Gallery(write_gallery(tmp_path / "a", lon_deg=(lon + 180) % 360 - 180))
    area = Area(LAT, 180.0, 30.0)
    np.testing.assert_array_equal(gallery.within(area), in_area(gallery, area))
    assert 10 < len(gallery.within(area)) < 50
    assert gallery.search(some_queries(gallery), 4, Area(-LAT, 0.0, 5000.0)).tile.shape == (5, 0)


def test_more_tiles_than_there_are_gives_all(gallery: Gallery) -> None:
    matches = gallery.search(some_queries(gallery), 1000)
    np.testing.assert_array_equal(np.sort(matches.tile), np.tile(np.arange(60), (5, 1)))
    area = Area(LAT, LON, 20.0)
    assert matches.tile.shape[1] > gallery.search(some_queries(gallery), 1000, area).tile.shape[1] > 0


def places_by_hand(
    gallery: Gallery, asked: np.ndarray, count: int, rows: np.ndarray, apart_m: float
) -> list[tuple[int, int]]:
    """(tile, query) of places: every tile in turn, compared with every place so far by the geodesic."""
    products = asked @ gallery.vectors[rows].astype(np.float32).T
    geod = Geod(ellps="WGS84")
    places: list[tuple[int, int]] = []
    for column in np.argsort(-products.max(0)):
        row = int(rows[column])
        apart = [
            geod.inv(gallery.lon_deg[row], gallery.lat_deg[row], gallery.lon_deg[p], gallery.lat_deg[p])[2]
            for p, _ in places
        ]
        if len(places) < count and all(distance_m >= apart_m for distance_m in apart):
            places.append((row, int(products[:, column].argmax())))
    return places


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """500 tiles at random within 1 km across the antimeridian, near ones alike so that the best lie together."""
    rng = np.random.default_rng(8)
    east_m, north_m = rng.uniform(-500, 500, (2, 500))
    lat, lon = LocalEnu(LAT, 180.0).to_geodetic(east_m, north_m)
    waves = rng.normal(0, 1 / 150, (2, DIM)), rng.uniform(0, 6.28, DIM)
    vectors = np.cos(np.stack((east_m, north_m), 1) @ waves[0] + waves[1])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = {"lat_deg": lat, "lon_deg": lon, "vectors": vectors.astype(np.float16)}
    return Gallery(write_gallery(tmp_path_factory.mktemp("city") / "city.gallery", 500, **places))


@pytest.mark.parametrize("apart_m", [0.0, 60.0, 250.0, 5000.0])
@pytest.mark.parametrize("area", [None, Area(LAT, -179.999, 300.0)])
@pytest.mark.parametrize("headings", [1, 5])
def test_places_lie_apart(city: Gallery, apart_m: float, area: Area | None, headings: int) -> None:
    """Also where the first matches are all of one place, and where fewer places than asked for exist."""
    asked = some_queries(city, headings)
    asked[:1] = city.vectors[17]
    rows = np.arange(len(city)) if area is None else in_area(city, area)
    right = places_by_hand(city, asked, 6, rows, apart_m)
    assert len(right) == {0.0: 6, 60.0: 6, 5000.0: 1}.get(apart_m, len(right))
    found = city.search_places(asked, 6, area, apart_m)
    assert list(zip(found.tile.tolist(), found.query.tolist(), strict=True)) == right
    np.testing.assert_allclose(
        found.score, (asked[found.query] * city.vectors[found.tile].astype(np.float32)).sum(1), atol=1e-6
    )
    np.testing.assert_array_equal(found.lon_deg, city.lon_deg[found.tile])
    assert (found.size_m == 100).all()


def test_places_where_there_are_none_and_impossible_ones(city: Gallery) -> None:
    assert city.search_places(some_queries(city), 3, Area(-LAT, 0.0, 500.0), 50.0).tile.shape == (0,)
    assert len(city.search_places(some_queries(city), 9999, None, 0.0).tile) == len(city)
    with pytest.raises(GeolocError, match="places are to be -1 m apart; give 0 or more"):
        city.search_places(some_queries(city), 3, None, -1)
    with pytest.raises(GeolocError, match="0 tiles are asked for"):
        city.search_places(some_queries(city), 0, None, 50.0)


@pytest.mark.parametrize(
    ("vectors", "count", "area", "told"),
    [
        (np.ones((1, DIM)), 0, None, "0 tiles are asked for"),
        (np.ones((1, DIM + 1)), 3, None, r"queries are \(1, 25\), the gallery's vectors have 24 numbers"),
        (np.full((1, DIM), np.nan), 3, None, "a query's vector holds numbers that are not finite"),
        (np.ones((1, DIM)), 3, Area(LAT, LON, 0.0), r"radius of the search is 0\.0 m; it must be positive"),
        (np.ones((1, DIM)), 3, Area(95.0, LON, 9.0), r"latitude 95\.0, longitude 15\.0 is no place on Earth"),
    ],
)
def test_impossible_searches_are_refused(
    gallery: Gallery, vectors: np.ndarray, count: int, area: Area | None, told: str
) -> None:
    with pytest.raises(GeolocError, match=told):
        gallery.search(vectors, count, area)


@pytest.mark.parametrize("kept", [4, 100, -1, -200])
def test_truncated_galleries_are_refused(kept: int, tmp_path: Path) -> None:
    path = write_gallery(tmp_path / "map.gallery")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(GeolocError, match=r"map\.gallery is (truncated|no gallery)"):
        Gallery(path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is an empty file: build the gallery again"),
        (b"II*\0" + bytes(5000), r"is truncated or no gallery|is no gallery"),
        (b"\x02" + bytes(7) + b"{}", "is no gallery, or a damaged one"),
    ],
)
def test_other_files_are_refused(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "map.gallery"
    path.write_bytes(data)
    with pytest.raises(GeolocError, match=told):
        Gallery(path)
    path.unlink()
    with pytest.raises(GeolocError, match=r"cannot read gallery .*: No such file.*geoloc gallery build"):
        Gallery(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tiles": 0}, "holds no tiles: build the gallery again, of a map with data"),
        ({"lat_deg": np.zeros(59)}, "its arrays do not fit together"),
        ({"probes": np.zeros((3, 16, 16, 3), np.uint8)}, "its arrays do not fit together"),
    ],
)
def test_galleries_that_make_no_sense_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match=told):
        Gallery(write_gallery(tmp_path / "map.gallery", **changes))


def test_a_gallery_of_other_weights_is_refused(gallery: Gallery) -> None:
    Gallery(gallery.path, "small-1234")
    with pytest.raises(GeolocError, match=r"was made with the weights small-1234, not small-9999"):
        Gallery(gallery.path, "small-9999")


def test_a_gallery_knows_its_map(tmp_path: Path, write_patchwork: Callable[..., Path]) -> None:
    """A recompressed copy with overviews under another name is the map; one that looks different is not."""
    original = write_patchwork(tmp_path / "a.tif")
    with RasterMap(original) as source:
        south, west, north, east = source.bounds_deg
        line = {
            "lat_deg": np.linspace(south + 0.0006, north - 0.0006, 60),
            "lon_deg": np.linspace(west + 0.002, east - 0.0008, 60),
        }
        places = [(line["lat_deg"][row], line["lon_deg"][row]) for row in probe_rows(60)]
        probes = np.stack([probe(source, *place, 100.0) for place in places])
        path = write_gallery(tmp_path / "map.gallery", probes=probes, **line)
        Gallery(path, source=source)
    copied = tmp_path / "b.tif"
    with rasterio.open(original) as raster:
        profile = {**raster.profile, "compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64}
        with rasterio.open(copied, "w", **profile) as copy:
            copy.write(raster.read())
            copy.build_overviews([2, 4], Resampling.average)
    with RasterMap(copied) as source:
        Gallery(path, source=source)
    with (
        RasterMap(write_patchwork(tmp_path / "c.tif", seed=1)) as other,
        pytest.raises(GeolocError, match=r"is of another map than this one, map\.tif: at .* differ by \d+ grey levels"),
    ):
        Gallery(path, source=other)


def test_a_map_that_does_not_answer_is_not_taken_for_another(gallery: Gallery) -> None:
    class Gone:
        def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
            image = np.zeros((size_px, size_px, 3), np.uint8)
            return MapCrop(image, lat_deg, lon_deg, size_m, 1.0, 0.0, CropStatus.TIMED_OUT, "no data in 10 s")

    with pytest.raises(GeolocError, match="cannot be compared with its gallery: no data in 10 s"):
        Gallery(gallery.path, source=Gone())


def test_one_colour_is_told_from_a_picture(small_retriever: Path, gallery: Gallery) -> None:
    """Sensor noise does not make an image of one colour into content; a search with one does not fail."""
    rng = np.random.default_rng(0)
    flat = np.full((320, 320, 3), (90, 120, 30), np.uint8)
    noisy = np.clip(flat + rng.normal(0, 8, flat.shape), 0, 255).astype(np.uint8)
    field = flat.copy()
    field[:, :160] += 20
    assert is_flat(flat) and is_flat(noisy) and is_flat(flat[:1, :1]) and is_flat(flat[:0])
    assert not is_flat(field)
    assert not is_flat(rng.integers(0, 256, (8, 8, 3), np.uint8))
    retriever, _ = load_retriever(small_retriever, "cpu")
    assert retriever.dim == gallery.dim
    matches = gallery.search(retriever.embed(flat[None]), 3)
    assert np.isfinite(matches.score).all() and matches.tile.shape == (1, 3)


def test_the_description_comes_back(gallery: Gallery) -> None:
    assert gallery.info == INFO
    assert replace(gallery.info, stride_m=1.0) != INFO
    assert len(gallery) == 60 and gallery.method == "exact"
    assert gallery.bounds_deg == pytest.approx((LAT - 5e-4, LON - 5e-4, LAT + 5e-4, LON + 5e-4))
