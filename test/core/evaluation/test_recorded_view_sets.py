# SPDX-License-Identifier: Apache-2.0
"""Sets with coordinates: labels are where the view really is, whatever the raster, the flight or the stress."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from geoloc_models.datasets.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14
from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine, EngineSpec
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.view_sets import PairProtocol, PairSample, PairSet, Ul14Pairs
from geoloc_models.evaluation.views import evaluate_set
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine
from geoloc_ros.core.evaluation.recorded_view_sets import FlightFrames, TwoDateRasters, open_set

EXACT = PairProtocol(crop_m=150.0, view_m=60.0, attitude_deg=0.0, height_percent=0.0, seed=2, limit=6)


def samples(pair_set: PairSet) -> list[PairSample]:
    drawn = [pair_set.draw(index) for index in range(len(pair_set))]
    assert None not in drawn
    return [sample for sample in drawn if sample is not None]


def misfit_m(sample: PairSample) -> float:
    """Distance between the label and where template matching finds the view."""
    found = np.array(
        NccEngine(EngineSpec("net", "cpu", 96, 16, (0.2, 2.0))).infer(sample.query, sample.search_map).peak_xy_px
    )
    return float(np.hypot(*(found - sample.target_xy_px))) * sample.gsd_m


@pytest.fixture(scope="module")
def rasters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of one textured ground of 400 m, on grids that are shifted by 3.3 m and differ in pixel size."""
    folder = tmp_path_factory.mktemp("data") / "crossdate" / "town"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(6)
    ground = sum(
        cv2.resize(rng.uniform(0, 80, (n, n, 3)).astype(np.float32), (1600, 1600), interpolation=cv2.INTER_CUBIC)
        for n in (20, 80, 320)
    )
    for name, gsd_m, west in (("pre", 0.5, 500_000.0), ("post", 0.6, 500_003.3)):
        step = gsd_m / 0.25
        matrix = np.array([[step, 0, 4 * (west - 500_000.0) + step / 2 - 0.5], [0, step, step / 2 - 0.5]])
        side = round(396 / gsd_m)
        pixels = cv2.warpAffine(ground, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        if name == "post":
            pixels[: side // 3, : side // 3] = 0  # nobody flew there
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8",
            crs="EPSG:32633", transform=from_origin(west, 5_300_000, gsd_m, gsd_m), nodata=0,
        ) as raster:  # fmt: skip
            raster.write(np.clip(pixels, 1 if name == "pre" else 0, 255).astype(np.uint8).transpose(2, 0, 1))
    return folder


def test_views_of_one_raster_lie_where_the_label_says_in_the_other(rasters: Path) -> None:
    town = TwoDateRasters(rasters / "pre.tif", rasters / "post.tif", "town", EXACT)
    for sample in samples(town):
        assert sample.gsd_m == pytest.approx(0.6, abs=0.002)
        assert sample.search_map.shape == (250, 250, 3)
        assert misfit_m(sample) < 0.4
    names = [sample.name for sample in samples(town)]
    assert [name.split()[-1] for name in names] == ["first", "second"] * 3


def test_rasters_are_only_searched_where_both_have_data(rasters: Path) -> None:
    town = TwoDateRasters(rasters / "pre.tif", rasters / "post.tif", "town", dataclasses.replace(EXACT, limit=None))
    for index in range(0, len(town), 20):
        sample = town.draw(index)
        assert sample is not None
        assert np.unique(sample.search_map.reshape(-1, 3), axis=0).shape[0] > 5000
        offset = np.array(sample.target_xy_px) / sample.search_map.shape[0] - 0.5
        assert np.abs(offset).max() <= 0.43


def test_a_stress_keeps_place_and_map(rasters: Path) -> None:
    plain = samples(TwoDateRasters(rasters / "pre.tif", rasters / "post.tif", "town", EXACT))
    for stress in ("heading", "heading-10", "height-20", "height-30", "both", "night"):
        protocol = dataclasses.replace(EXACT, stress=stress)
        stressed = samples(TwoDateRasters(rasters / "pre.tif", rasters / "post.tif", "town", protocol))
        for one, other in zip(plain, stressed, strict=True):
            assert one.target_xy_px == other.target_xy_px
            np.testing.assert_array_equal(one.search_map, other.search_map)
            assert np.abs(one.query.astype(int) - other.query).mean() > 5


@pytest.mark.parametrize("source", ["rasters", "frames"])
def test_true_heading_and_scale_bring_a_view_into_register(
    source: str, rasters: Path, small_flight: Path, likeness: Callable[..., float]
) -> None:
    for seed in range(3):
        protocol = dataclasses.replace(EXACT, seed=seed, limit=2, stress="both")
        chosen: PairSet = FlightFrames(small_flight, protocol)
        if source == "rasters":
            chosen = TwoDateRasters(rasters / "pre.tif", rasters / "post.tif", "town", protocol)
        for sample in samples(chosen):
            assert abs(sample.heading_deg) == pytest.approx(10.0)
            assert min(abs(sample.scale - 0.8), abs(sample.scale - 1.2)) < 1e-9
            true = likeness(sample, sample.heading_deg, sample.scale)
            assert true > 0.85
            others = [(-sample.heading_deg, sample.scale), (sample.heading_deg, 1 / sample.scale), (0.0, 1.0)]
            assert max(likeness(sample, *other) for other in others) < true - 0.1
    plain = FlightFrames(small_flight, EXACT).draw(0)
    assert plain is not None and (plain.heading_deg, plain.scale) == (0.0, 1.0)


def test_frames_lie_where_the_label_says(small_flight: Path) -> None:
    protocol = PairProtocol(crop_m=130.0, seed=1, limit=5)
    flight = FlightFrames(small_flight, protocol)
    assert len(flight) == 5
    for sample in samples(flight):
        assert 50.0 < sample.height_m < 70.0
        assert misfit_m(sample) < 0.5


def test_a_damaged_frame_is_no_sample(small_flight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_flight, tmp_path / "flight")
    table = (folder / "flight.csv").read_text().splitlines()
    (folder / "frames" / table[1].split(",")[0]).write_bytes(b"no image")
    tilted = table[2].split(",")
    table[2] = ",".join([*tilted[:5], "0.707107", "0", "0", "0.707107"])  # the camera looks at the horizon
    (folder / "flight.csv").write_text("\n".join(table) + "\n")
    flight = FlightFrames(folder, PairProtocol(crop_m=130.0))
    assert [flight.draw(index) is None for index in range(4)] == [True, True, False, False]


def test_a_stressed_frame_turns_about_the_same_place(small_flight: Path) -> None:
    """Turned back by hand, the view of unknown heading is the plain one again."""
    plain, turned = (
        FlightFrames(small_flight, PairProtocol(crop_m=130.0, seed=1, limit=2, stress=stress)).draw(1)
        for stress in ("none", "heading")
    )
    assert plain is not None and turned is not None
    assert turned.target_xy_px[0] * turned.gsd_m == pytest.approx(plain.target_xy_px[0] * plain.gsd_m, abs=0.5)
    side = min(plain.query.shape[0], turned.query.shape[0]) // 2
    best = -1.0
    for angle_deg in range(0, 360, 2):
        matrix = cv2.getRotationMatrix2D(((turned.query.shape[1] - 1) / 2,) * 2, angle_deg, turned.gsd_m / plain.gsd_m)
        matrix[:, 2] += (plain.query.shape[0] - turned.query.shape[0]) / 2
        back = cv2.warpAffine(turned.query, matrix, plain.query.shape[1::-1])
        middle = np.s_[side // 2 : -side // 2, side // 2 : -side // 2]
        best = max(best, float(np.corrcoef(back[middle].ravel(), plain.query[middle].ravel())[0, 1]))
    assert best > 0.9


@pytest.fixture(scope="module")
def ul14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ul14")
    settings = SyntheticSettings(train_places=0, views=3, gsd_m=1.0, map_sizes_px=(700, 1000))
    list(write_synthetic_ul14(folder, settings))
    return folder


class Middle(Engine):
    """Always answers with the middle of a map of 384, and notes what it was given."""

    spec = EngineSpec("middle", "cpu", query_px=128, map_multiple_px=16, gsd_range_m=(0.2, 2.0))

    def __init__(self) -> None:
        self.shapes: set[tuple[int, int]] = set()

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        self.shapes.add((query.shape[0], search_map.shape[0]))
        return self.answer(search_map.shape[0])

    def answer(self, side_px: int) -> Heatmap:
        flat = np.full((2, 2), 0.25, np.float32)
        return Heatmap(flat, float(side_px), (192.0, 192.0), 100.0 * np.eye(2), 0.5, 2.0)


def test_ul14_is_fed_and_scored_as_published(ul14: Path) -> None:
    pairs = Ul14Pairs(ul14, PairProtocol())
    middle = Middle()
    (score,) = evaluate_set(pairs, {"middle": middle})
    assert middle.shapes == {(128, 384)}
    assert len(score.samples) == 6
    by_name = {sample.name: sample for sample in score.samples}
    for pair in pairs.chosen:
        sample = by_name[f"{pair.sequence} {pair.satellite.name}"]
        # An answer in the middle is as wrong as the published offset says, in degrees, metres and pixels.
        assert sample.error_m == pytest.approx(pair.offset * pair.size_m / 2, abs=0.02 * pair.size_m)
        assert sample.offset == pytest.approx(pair.offset, abs=0.02)
        row, col = (int(384 * share) for share in pair.target)
        relative = np.hypot((192 - col) / 384, (192 - row) / 384)
        assert sample.rds == pytest.approx(float(np.exp(-10 * relative / 2**0.5)), abs=1e-6)
        assert sample.height_m == pair.height_m
        variances_px2 = np.diag(middle.answer(384).covariance_px)
        assert sample.sigma_m == pytest.approx(variances_px2.mean() ** 0.5 * pair.size_m / 384, rel=1e-6)
    figures = score.summary()
    assert [row["at"] for row in figures["by_map_size_m"]] == [206.0, 294.0]
    assert sum(row["samples"] for row in figures["by_offset"]) == 6
    assert {row["at"] for row in figures["by_height_m"]} == {80.0, 90.0, 100.0}


def test_sets_by_name(rasters: Path, small_flight: Path, ul14: Path) -> None:
    root = rasters.parents[1]
    town = open_set(root, "town", EXACT, [], None)
    assert isinstance(town, TwoDateRasters) and "90 m in maps of 300 m" in town.about
    assert isinstance(open_set(root, str(small_flight), EXACT, [130.0], None), FlightFrames)
    assert isinstance(open_set(ul14.parent, ul14.name, EXACT, [], None), Ul14Pairs)
    with pytest.raises(GeolocError, match=r"no set 'village'.*pre\.tif"):
        open_set(root, "village", EXACT, [], None)


def test_sizes_are_pooled_and_share_the_limit(rasters: Path) -> None:
    pooled = open_set(rasters.parents[1], "town", EXACT, [120.0, 180.0], 60.0)
    sides = [round(sample.search_map.shape[0] * sample.gsd_m) for sample in samples(pooled)]
    assert sides == [120, 180] * 3


def test_joplin_and_village(shared_data: Path) -> None:
    for name in ("joplin", "village"):
        drawn = open_set(shared_data, name, PairProtocol(limit=2), [], None)
        for sample in samples(drawn):
            assert sample.search_map.shape[0] * sample.gsd_m == pytest.approx(300.0, abs=1.0)
    assert misfit_m(samples(open_set(shared_data, "village", PairProtocol(limit=1), [], None))[0]) < 1.0
