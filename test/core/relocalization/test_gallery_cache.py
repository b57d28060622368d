# SPDX-License-Identifier: Apache-2.0
"""Galleries are made in the size that photos ask for, once, and again after a change of the map."""

from collections.abc import Callable
from pathlib import Path

import pytest

from geoloc_models.ast.retriever import Retriever
from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.relocalization.gallery import Area
from geoloc_ros.core.relocalization.gallery_cache import GalleryCache, default_folder

WriteMap = Callable[..., Path]


@pytest.fixture(scope="module")
def retriever(small_retriever: Path) -> Retriever:
    return load_retriever(str(small_retriever), "cpu")[0]


def test_made_once_and_again_for_another_map(tmp_path: Path, write_patchwork: WriteMap, retriever: Retriever) -> None:
    path = write_patchwork(tmp_path / "map.tif")
    made: list[tuple[float, int]] = []

    def advance(side_m: float, done: int, total: int) -> None:
        if done == total:
            made.append((side_m, total))

    for _ in range(2):
        with RasterMap(path) as source:
            cache = GalleryCache(path, source, retriever, folder=tmp_path / "kept", advance=advance)
            # 70 m would show more of a tile of 128 m than there is in the photo; 64 m it is, for 120 m too.
            assert cache.gallery(70.0) is cache.gallery(110.0)
            assert cache.gallery(70.0).info.tile_m == (64.0,)
    assert [side_m for side_m, _ in made] == [64.0]
    write_patchwork(path, seed=1)
    with RasterMap(path) as source:
        GalleryCache(path, source, retriever, folder=tmp_path / "kept", advance=advance).gallery(70.0)
    assert len(made) == 2
    assert default_folder().parts[-2:] == ("geoloc", "galleries")


def test_an_area_alone(tmp_path: Path, write_patchwork: WriteMap, retriever: Retriever) -> None:
    path = write_patchwork(tmp_path / "map.tif")
    with RasterMap(path) as source:
        south, west, north, east = source.bounds_deg
        place = (south + north) / 2, (west + east) / 2
        cache = GalleryCache(path, source, retriever, Area(*place, 60.0), tmp_path / "kept")
        gallery = cache.gallery(70.0)
        east_m, north_m = LocalEnu(*place).to_enu(gallery.lat_deg, gallery.lon_deg)
        assert 60.0 < max(abs(east_m).max(), abs(north_m).max()) <= 60.0 + 33.0
        # At the map's edge there is half of the area only.
        edge = GalleryCache(path, source, retriever, Area(place[0], east, 20.0), tmp_path / "kept")
        assert edge.gallery(70.0).lon_deg.max() > place[1]
        far = GalleryCache(path, source, retriever, Area(50.0, 8.0, 60.0), tmp_path / "kept")
        with pytest.raises(GeolocError, match=r"the map spans .* not 50.00000, 8.00000: give another place"):
            far.gallery(70.0)


def test_the_maps_own_gallery_is_taken_where_its_tiles_fit(
    tmp_path: Path, write_patchwork: WriteMap, retriever: Retriever
) -> None:
    path = write_patchwork(tmp_path / "map.tif")
    with RasterMap(path) as source:
        made = GalleryCache(path, source, retriever, folder=tmp_path / "kept").gallery(70.0)
        made.path.rename(tmp_path / "map.tif.gallery")
        cache = GalleryCache(path, source, retriever, folder=tmp_path / "kept")
        assert cache.gallery(100.0).path == tmp_path / "map.tif.gallery"
        assert cache.gallery(200.0).info.tile_m == (128.0,)


def test_a_map_that_is_smaller_than_a_photo(tmp_path: Path, write_patchwork: WriteMap, retriever: Retriever) -> None:
    path = write_patchwork(tmp_path / "map.tif", width_m=300, height_m=180)
    with RasterMap(path) as source:
        assert GalleryCache(path, source, retriever, folder=tmp_path / "kept").gallery(900.0).info.tile_m == (128.0,)
