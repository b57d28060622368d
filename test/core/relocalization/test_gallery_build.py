# SPDX-License-Identifier: Apache-2.0
"""Galleries built of small maps: where tiles lie, what is left out, and that no kill and no helper changes a bit."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyproj import Geod
from safetensors.numpy import load_file

from geoloc_models.ast.retriever import Retriever
from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.errors import GeolocError
from geoloc_models.training.processes import Processes
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.relocalization import gallery_build
from geoloc_ros.core.relocalization.gallery import Area, Gallery
from geoloc_ros.core.relocalization.gallery_build import GalleryBuild, TileLattice

ALONE = Processes(0, 1, torch.device("cpu"))
GEOD = Geod(ellps="WGS84")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_patchwork: Callable[..., Path]) -> Iterator[RasterMap]:
    with RasterMap(write_patchwork(tmp_path_factory.mktemp("map") / "map.tif")) as opened:
        yield opened


@pytest.fixture(scope="module")
def retriever(small_retriever: Path) -> Retriever:
    return load_retriever(small_retriever, "cpu")[0]


@pytest.fixture
def build(source: RasterMap, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GalleryBuild:
    """Parts of 16 tiles, batches of 4."""
    monkeypatch.setattr(gallery_build, "PART_TILES", 16)
    return GalleryBuild("map.tif", source, retriever, tmp_path / "map.gallery", (60.0, 100.0), 40.0, batch=4)


@pytest.mark.parametrize(("lat", "lon"), [(0.0, 10.0), (48.0, -70.0), (-65.0, 179.996)])
def test_tiles_cover_the_bounds(lat: float, lon: float) -> None:
    """Neighbours at most a stride apart and not much less, the outer tiles' edges on the bounds; antimeridian too."""
    east, _, _ = GEOD.fwd(lon, lat, 90.0, 1000.0)
    _, north, _ = GEOD.fwd(lon, lat, 0.0, 700.0)
    lattice = TileLattice((lat, lon, north, east), (120.0,), 50.0)
    lats, lons, sizes = lattice.places(np.arange(len(lattice)))
    assert (sizes == 120.0).all() and (np.abs(lons) <= 180.0).all()
    rows = np.flatnonzero(np.diff(lats)) + 1
    assert len(rows) + 1 == 13, "580 m in steps of up to 50 m"
    columns = np.diff(np.r_[0, rows, len(lats)])
    assert set(columns) <= {18, 19}, "about 880 m in steps of up to 50 m"
    _, _, along = GEOD.inv(lons[0], lats[0], lons[1], lats[1])
    _, _, between = GEOD.inv(lons[0], lats[0], lons[rows[0]], lats[rows[0]])
    assert 47.0 < along < 50.01 and 47.0 < between < 50.01
    for place, corner in ((0, (lon, lat)), (len(lattice) - 1, (east, north))):
        _, _, apart = GEOD.inv(*corner, lons[place], lats[place])
        assert apart == pytest.approx(60.0 * 2**0.5, abs=0.5)


@pytest.mark.parametrize(
    ("tile_m", "stride_m", "told"),
    [
        ((500.0,), 50.0, r"the map spans 480 x 36\d m, less than a tile of 500 m"),
        ((60.0, 400.0), 50.0, "less than a tile of 400 m: give a smaller --tile-m"),
        ((60.0, 100.0), 70.0, "a stride of 70 m leaves gaps between tiles of 60 m"),
        ((-60.0,), 50.0, "tiles of -60 m every 50 m: both must be positive"),
        ((), 50.0, "both must be positive"),
    ],
)
def test_impossible_tiles_are_refused(
    build: GalleryBuild, tile_m: tuple[float, ...], stride_m: float, told: str
) -> None:
    with pytest.raises(GeolocError, match=told):
        replace(build, tile_m=tile_m, stride_m=stride_m).run(ALONE)


def test_a_gallery_holds_what_the_network_makes_of_the_tiles(build: GalleryBuild) -> None:
    """Read by the format's own library; tiles without data and of one colour are left out and counted."""
    seen: list[tuple[int, int]] = []
    report = build.run(ALONE, lambda done, total: seen.append((done, total)))
    assert report is not None
    lattice = TileLattice(build.source.bounds_deg, build.tile_m, build.stride_m)
    assert seen == [(n, len(lattice)) for n in range(1, len(lattice) + 1)]
    arrays = load_file(build.out)
    kept = [
        crop
        for place in zip(*lattice.places(np.arange(len(lattice))), strict=True)
        if (crop := build.source.crop(*map(float, place), 32)).coverage >= 0.5
        and np.ptp(crop.image, axis=(0, 1)).max() > 8
    ]
    assert report.tiles == len(kept) == len(arrays["vectors"])
    assert report.info.without_data > 0 and report.info.of_one_colour > 0
    assert report.tiles + report.info.without_data + report.info.of_one_colour == len(lattice)
    for name, values in (("lat_deg", [c.lat_deg for c in kept]), ("lon_deg", [c.lon_deg for c in kept])):
        np.testing.assert_array_equal(arrays[name], values)
    np.testing.assert_array_equal(arrays["size_m"], np.float32([c.size_m for c in kept]))
    vectors = build.retriever.embed(np.stack([crop.image for crop in kept]), "satellite")
    assert (vectors * arrays["vectors"]).sum(1).min() > 0.999
    assert report.bytes == build.out.stat().st_size
    assert [path.name for path in build.out.parent.iterdir()] == ["map.gallery"], "parts are gone"


def test_a_killed_build_ends_like_a_whole_one(build: GalleryBuild) -> None:
    whole = replace(build, out=build.out.with_name("whole.gallery"))
    report = whole.run(ALONE)
    assert report is not None

    def stop(done: int, total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.run(ALONE, stop)
    assert not build.out.exists()
    resumed = build.run(ALONE)
    assert resumed is not None
    assert resumed.done_now == report.done_now - 48, "three parts of 16 tiles were done"
    assert build.out.read_bytes() == whole.out.read_bytes()


def test_several_processes_make_the_same_gallery(build: GalleryBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(build, out=build.out.with_name("whole.gallery"))
    whole.run(ALONE)
    barrier = threading.Barrier(2)
    monkeypatch.setattr(Processes, "wait_for_all", lambda self: barrier.wait())
    monkeypatch.setattr(gallery_build, "_POLL_S", 0.01)
    reports = {}

    def work(rank: int) -> None:
        reports[rank] = build.run(Processes(rank, 2, torch.device("cpu")))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports[1] is None
    assert reports[0] is not None and 0 < reports[0].done_now < len(TileLattice(
        build.source.bounds_deg, build.tile_m, build.stride_m
    ))  # fmt: skip
    assert build.out.read_bytes() == whole.out.read_bytes()


def test_parts_of_another_build_are_refused(build: GalleryBuild) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.run(ALONE, stop)
    with pytest.raises(GeolocError, match=r"map\.gallery\.parts holds parts of a build with another stride_m"):
        replace(build, stride_m=30.0).run(ALONE)
    for part in range(20):
        build._part(part).write_bytes(b"cut")
    with pytest.raises(GeolocError, match=r"00000000\.safetensors is damaged: delete it and run"):
        build.run(ALONE)


def test_a_gallery_is_not_overwritten(build: GalleryBuild) -> None:
    build.out.write_bytes(b"mine")
    with pytest.raises(GeolocError, match=r"map\.gallery is there already: delete it"):
        build.run(ALONE)


def test_a_map_without_pictures_is_refused(
    build: GalleryBuild, tmp_path: Path, write_patchwork: Callable[..., Path]
) -> None:
    with (
        RasterMap(write_patchwork(tmp_path / "thin.tif", width_m=120)) as empty,
        pytest.raises(
            GeolocError, match=r"map map\.tif has no tile to embed: \d+ without data, \d+ of one colour; check"
        ),
    ):
        replace(build, source=empty).run(ALONE)


def test_a_map_that_fails_keeps_what_is_done(build: GalleryBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RasterMap.crop
    cut = 0

    def failing(self: RasterMap, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        nonlocal cut
        cut += size_px == 32
        crop = real(self, lat_deg, lon_deg, size_m, size_px)
        return replace(crop, status=CropStatus.UNREADABLE, text="disk gone") if cut > 40 else crop

    monkeypatch.setattr(RasterMap, "crop", failing)
    with pytest.raises(GeolocError, match=r"the map cannot be read at .*disk gone; what is done is kept"):
        build.run(ALONE)
    assert build._part(0).is_file() and not build._part(2).is_file()


def test_large_galleries_get_codes(build: GalleryBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_build, "EXACT_TILES", 50)
    build.run(ALONE)
    gallery = Gallery(build.out)
    assert gallery.method.startswith("exact over candidates from codes of ")
    asked = np.asarray(gallery.vectors[::9], np.float32)
    assert (gallery.search(asked, 1).tile[:, 0] == np.arange(0, len(gallery), 9)).mean() > 0.9
    area = Area(float(gallery.lat_deg[9]), float(gallery.lon_deg[9]), 1.0)
    assert gallery.search(asked[1:2], 1, area).tile[0, 0] == 9
