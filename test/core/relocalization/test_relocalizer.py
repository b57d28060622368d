# SPDX-License-Identifier: Apache-2.0
"""Search of the whole map with the networks that ship: found where the vehicle is, lost where it is not."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.ast.retriever import Retriever
from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.training.processes import Processes
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.motion import clockwise
from geoloc_ros.core.relocalization.gallery import Area, Gallery
from geoloc_ros.core.relocalization.gallery_build import GalleryBuild
from geoloc_ros.core.relocalization.relocalizer import Relocalizer
from geoloc_ros.core.simulation.simulator import CameraSimulator

CAMERA = CameraModel(320, 240, np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]]))
HEIGHT_M = 100.0
ALONE = Processes(0, 1, torch.device("cpu"))


@dataclass
class World:
    """A map with its gallery, a camera over it and another camera over other ground."""

    raster: RasterMap
    gallery: Gallery
    retriever: Retriever
    engine: TorchEngine
    here: CameraSimulator
    elsewhere: CameraSimulator
    home: LocalEnu

    def relocalizer(self, settings: LocalizerSettings | None = None) -> Relocalizer:
        return Relocalizer(self.engine, self.retriever, self.gallery, self.raster, settings)

    def localizer(self, settings: LocalizerSettings | None = None) -> Localizer:
        return Localizer(self.engine, self.raster, settings, self.relocalizer(settings))

    def frame(
        self,
        stamp_s: float,
        east_m: float,
        north_m: float,
        camera: CameraSimulator | None = None,
        heading_error_deg: float = 0.0,
        height_error: float = 0.0,
    ) -> Frame:
        """Seen with the image's top to 30 degrees; the vehicle reports it with errors, the height's a share of it."""
        picture = (camera or self.here).render(*self.home.to_geodetic(east_m, north_m), HEIGHT_M, nadir_rotation(30.0))
        return Frame(picture, stamp_s, nadir_rotation(30.0 - heading_error_deg), HEIGHT_M * (1 + height_error), CAMERA)

    def error_m(self, place: tuple[float, float], east_m: float, north_m: float) -> float:
        east, north = self.home.to_enu(*place)
        return math.hypot(east - east_m, north - north_m)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, small_retriever: Path, write_texture: Callable[[Path, int], Path]
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    here, elsewhere = write_texture(folder / "map.tif", 0), write_texture(folder / "other.tif", 1)
    retriever = load_retriever(small_retriever, "cpu")[0]
    with RasterMap(here) as raster:
        GalleryBuild("map.tif", raster, retriever, folder / "map.gallery", (80.0,), 40.0).run(ALONE)
        south, west, north, east = raster.bounds_deg
        yield World(
            raster,
            Gallery(folder / "map.gallery", retriever.weights_id, raster),
            retriever,
            TorchEngine("mix_compact", "cpu"),
            CameraSimulator(here, CAMERA),
            CameraSimulator(elsewhere, CAMERA),
            LocalEnu((south + north) / 2, (west + east) / 2),
        )


def fly(world: World, localizer: Localizer, frames: int, **view: object) -> tuple[Estimate, float]:
    """North-east at 20 m/s until the first fix; the last estimate and its true place's distance."""
    for step in range(frames):
        east, north = -100.0 + 7.0 * step, -60.0 + 7.0 * step
        estimate = localizer.process(world.frame(0.5 * step, east, north, **view))  # type: ignore[arg-type]
        if estimate.valid:
            return estimate, world.error_m((estimate.lat_deg, estimate.lon_deg), east, north)
    return estimate, math.nan


def test_a_start_without_prior_is_found_and_then_tracked(world: World) -> None:
    localizer = world.localizer()
    estimate, error_m = fly(world, localizer, 10)
    assert estimate.valid, estimate.reason
    assert error_m < 3.0
    assert localizer.state == State.TRACKING
    best = estimate.candidates[0]
    assert best.frames >= 3 and best.log_odds > math.log(1000.0)
    assert {"odometry", "rectify", "retrieve", "crop", "network", "post", "total"} == set(estimate.latencies_ms)
    after = localizer.process(
        world.frame(estimate.stamp_s + 0.5, -93.0 + 14.0 * estimate.stamp_s, -53.0 + 14.0 * estimate.stamp_s)
    )
    assert after.valid and not after.candidates, after.reason


def test_ground_that_the_map_does_not_show_is_found_nowhere(world: World) -> None:
    localizer = world.localizer()
    estimate, _ = fly(world, localizer, 20, camera=world.elsewhere)
    assert not estimate.valid
    assert localizer.state in (State.LOST, State.RELOCALIZING)
    assert math.isnan(estimate.lat_deg) and estimate.filtered is None
    assert "lost" in estimate.reason or "searching" in estimate.reason


@pytest.mark.parametrize("heading_error_deg", [-95.0, 170.0])
def test_a_wrong_heading_is_found_too_if_it_is_not_trusted(world: World, heading_error_deg: float) -> None:
    localizer = world.localizer(LocalizerSettings.of({"pose.heading_trusted": False}))
    estimate, error_m = fly(world, localizer, 12, heading_error_deg=heading_error_deg)
    assert estimate.valid, estimate.reason
    assert error_m < 8.0
    turn = (estimate.candidates[0].heading_deg - heading_error_deg + 180.0) % 360.0 - 180.0
    assert abs(turn) <= 20.0


@pytest.fixture(scope="module")
def aligning(world: World) -> World:
    """The same with a network that aligns."""
    return replace(world, engine=TorchEngine("mix_hybrid", "cpu"))


@pytest.mark.parametrize(
    ("heading_error_deg", "height_error"), [(20.0, 0.0), (0.0, 0.3), (-20.0, -0.25)], ids=["heading", "height", "both"]
)
def test_a_wrong_pose_is_found_out_by_the_search_and_goes_on_with_the_track(
    aligning: World, heading_error_deg: float, height_error: float
) -> None:
    localizer = aligning.localizer()
    errors = {"heading_error_deg": heading_error_deg, "height_error": height_error}
    estimate, error_m = fly(aligning, localizer, 8, **errors)
    assert estimate.valid, estimate.reason
    assert error_m < 5.0
    step = round(2 * estimate.stamp_s) + 1
    after = localizer.process(aligning.frame(0.5 * step, -100.0 + 7.0 * step, -60.0 + 7.0 * step, **errors))
    assert after.valid, after.reason
    for found in (estimate, after):
        assert found.bias is not None
        assert math.degrees(found.bias.heading_rad) == pytest.approx(heading_error_deg, abs=3.0)
        assert math.exp(found.bias.log_height_scale) * (1 + height_error) == pytest.approx(1.0, abs=0.05)


def test_no_pose_finds_ground_that_the_map_does_not_show(aligning: World) -> None:
    localizer = aligning.localizer()
    estimate, _ = fly(aligning, localizer, 9, camera=aligning.elsewhere, heading_error_deg=15.0, height_error=0.2)
    assert not estimate.valid
    assert estimate.candidates[0].log_odds < 0


def test_a_lost_track_is_found_again_in_the_allowed_area_only(world: World) -> None:
    settings = LocalizerSettings.of({"search.after_s": 1.0, "search.radius_m": 130.0})
    for moved_m, found in ((50.0, True), (300.0, False)):
        localizer = world.localizer(settings)
        localizer.set_prior(*world.home.to_geodetic(-150.0, -150.0), 20.0, 0.0)
        for step in range(4):
            assert not localizer.process(world.frame(0.5 * step, -150.0, -150.0)).candidates
        assert localizer.state == State.TRACKING
        stamp_s, states, fixes = 2.0, set(), []
        for step in range(18):
            east, north = -150.0 + moved_m + 6.0 * step / 2, -150.0 + moved_m
            estimate = localizer.process(world.frame(stamp_s + 0.5 * step, east, north))
            states.add(estimate.state)
            if estimate.valid:
                fixes.append(world.error_m((estimate.lat_deg, estimate.lon_deg), east, north))
        assert states & {State.LOST, State.DEAD_RECKONING}
        assert bool(fixes) == found
        assert all(error < 5.0 for error in fixes)


def test_relocalize_forgets_a_good_track(world: World) -> None:
    localizer = world.localizer()
    localizer.set_prior(*world.home.to_geodetic(0.0, 0.0), 20.0, 0.0)
    for step in range(4):
        estimate = localizer.process(world.frame(0.5 * step, 0.0, 0.0))
    assert estimate.valid
    localizer.relocalize()
    estimate = localizer.process(world.frame(2.5, 0.0, 0.0))
    assert not estimate.valid and estimate.candidates and estimate.filtered is None
    with pytest.raises(GeolocError, match="geoloc gallery build"):
        Localizer(world.engine, world.raster).relocalize()


def test_frames_that_tell_nothing_are_refused_and_keep_what_is_known(world: World) -> None:
    relocalizer = world.relocalizer()
    good = world.frame(0.0, 0.0, 0.0)
    known = relocalizer.process(good).candidates
    dark = replace(good, stamp_s=0.5, image=np.zeros((240, 320, 3), np.uint8))
    for bad, reason in (
        (dark, "one colour"),
        (replace(good, stamp_s=1.0, height_m=-5.0), "height"),
        (replace(good, stamp_s=1.0, image=None, problem="the image does not decode"), "does not decode"),
    ):
        with pytest.raises(Refused, match=reason):
            relocalizer.process(bad)
    after = relocalizer.process(world.frame(1.5, 0.0, 0.0)).candidates
    assert after[0].frames == known[0].frames + 1
    relocalizer.start(Area(*world.home.to_geodetic(5000.0, 0.0), 100.0))
    with pytest.raises(Refused, match="no tile in the allowed area"):
        relocalizer.process(good)


def test_places_that_did_not_fit_are_passed_over_for_a_while(world: World) -> None:
    """Ground that the map does not show: each frame looks at other places, and in the end at the first ones again."""
    asked: list[tuple[float, float]] = []

    class Watched:
        def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
            asked.append((round(lat_deg, 7), round(lon_deg, 7)))
            return world.raster.crop(lat_deg, lon_deg, size_m, size_px)

    settings = LocalizerSettings.of({"search.places": 4, "search.memory_s": 2.0})
    relocalizer = Relocalizer(world.engine, world.retriever, world.gallery, Watched(), settings)
    looked = []
    for stamp_s in (0.0, 0.5, 3.0):
        asked.clear()
        candidates = relocalizer.process(world.frame(stamp_s, 0.0, 0.0, world.elsewhere)).candidates
        assert [candidate.frames for candidate in candidates] == [0, 0, 0, 0]
        looked.append(set(asked))
    assert [len(places) for places in looked] == [4, 4, 4]
    assert not looked[0] & looked[1]
    assert looked[2] == looked[0]


def test_places_seen_at_half_resolution_are_where_the_whole_ones_are(world: World) -> None:
    """The same squares both ways: the likeliest is the same, and none of the others has become likely."""
    frame, settings = world.frame(0.0, 30.0, 20.0), LocalizerSettings.of({"search.places": 5})
    searches = [
        Relocalizer(world.engine, world.retriever, world.gallery, world.raster, settings, whole) for whole in (5, 2)
    ]
    best = [search.process(frame).candidates[0] for search in searches]
    sides = []
    answers = searches[1]._engine_answers
    searches[1]._engine_answers = lambda views, maps: sides.append((len(maps), len(maps[0]))) or answers(views, maps)
    searches[1].start()
    searches[1].process(frame)
    (coarse, half_px), (whole, whole_px), *_ = sides
    assert (coarse, 2 * half_px) == (5, whole_px)
    assert 1 <= whole <= 2
    assert all(world.error_m(one.tracker.place, 30.0, 20.0) < 3.0 for one in best)
    assert best[1].log_odds == pytest.approx(best[0].log_odds, abs=3.0)


def test_a_gallery_of_other_weights_is_refused(world: World) -> None:
    other = Retriever(world.retriever._network, "others-1234", "cpu")
    with pytest.raises(GeolocError, match="not others-1234: name those, or build the gallery again"):
        Relocalizer(world.engine, other, world.gallery, world.raster)


def test_one_query_over_many_maps_is_each_by_itself(world: World) -> None:
    """The batched call against one call a map, for both networks that ship."""
    view = world.frame(0.0, 0.0, 0.0).image
    assert view is not None
    for name in ("mix_compact", "mix_hybrid"):
        engine = TorchEngine(name, "cpu")
        query = cv2.resize(view, (engine.spec.query_px,) * 2)
        side_px = 2 * engine.spec.map_multiple_px * math.ceil(engine.spec.query_px / engine.spec.map_multiple_px)
        maps = np.stack(
            [world.raster.crop(*world.home.to_geodetic(60.0 * n, 0.0), side_px * 0.6, side_px).image for n in range(3)]
        )
        together, stride_px = engine.logits(query[None], maps)
        alone = [engine.logits(query[None], one[None]) for one in maps]
        assert {stride for _, stride in alone} == {stride_px}
        # bfloat16 where the processor has it: sums in another order.
        np.testing.assert_allclose(together, np.concatenate([logits for logits, _ in alone]), atol=0.15)


def test_turning_is_clockwise() -> None:
    np.testing.assert_allclose(clockwise(90.0) @ [0.0, 1.0], [1.0, 0.0], atol=1e-12)
