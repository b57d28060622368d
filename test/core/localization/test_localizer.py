# SPDX-License-Identifier: Apache-2.0
"""The core loop on a textured map, with template matching as the engine: right fixes, and words for bad frames."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_models.engines import EngineSpec
from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.odometry import visual_odometry
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.simulation.simulator import CameraSimulator

CAMERA = CameraModel(320, 240, np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]]))
HEIGHT_M = 100.0


_SPEC = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.25, 1.2))


@pytest.fixture(scope="module")
def map_path(tmp_path_factory: pytest.TempPathFactory, write_texture: Callable[[Path, int], Path]) -> Path:
    return write_texture(tmp_path_factory.mktemp("map") / "map.tif", 0)


@pytest.fixture(scope="module")
def world(map_path: Path) -> Iterator[tuple[RasterMap, CameraSimulator, LocalEnu]]:
    with RasterMap(map_path) as raster:
        south, west, north, east = raster.bounds_deg
        yield raster, CameraSimulator(map_path, CAMERA), LocalEnu((south + north) / 2, (west + east) / 2)


@pytest.fixture
def localizer(world: tuple[RasterMap, CameraSimulator, LocalEnu]) -> Localizer:
    raster, _, home = world
    localizer = Localizer(NccEngine(_SPEC), raster, LocalizerSettings.of({"track.lost_after_s": 15.0}))
    localizer.set_prior(*home.to_geodetic(10.0, -8.0), 60.0, 0.0)
    return localizer


def seen(
    world: tuple[RasterMap, CameraSimulator, LocalEnu],
    stamp_s: float,
    east_m: float,
    north_m: float,
    tilt_rad: float = 0.0,
) -> Frame:
    _, camera, home = world
    rotation = cv2.Rodrigues(np.array([0.0, tilt_rad, 0.0]))[0] @ nadir_rotation(30.0)
    image = camera.render(*home.to_geodetic(east_m, north_m), HEIGHT_M, rotation)
    return Frame(image, stamp_s, rotation, HEIGHT_M, CAMERA)


def error_m(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], estimate: Estimate, east_m: float, north_m: float
) -> float:
    east, north = world[2].to_enu(estimate.lat_deg, estimate.lon_deg)
    return math.hypot(east - east_m, north - north_m)


@pytest.mark.parametrize("tilt_deg", [0.0, 12.0])
def test_follows_the_vehicle_not_the_pictures_centre(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer, tilt_deg: float
) -> None:
    for step in range(8):
        east, north = 6.0 * step, 3.0 * step
        estimate = localizer.process(seen(world, 0.5 * step, east, north, math.radians(tilt_deg)))
        assert error_m(world, estimate, east, north) < 1.5, (step, estimate.reason)
        assert estimate.valid == (step >= 2), estimate.reason
    assert localizer.state == State.TRACKING
    assert estimate.filtered is not None
    np.testing.assert_allclose(estimate.filtered.velocity_enu, (12.0, 6.0), atol=2.5)
    assert set(estimate.latencies_ms) == {"odometry", "rectify", "crop", "network", "post", "total"}
    # The search narrows once the track is known.
    assert estimate.search_size_m < 120.0


class CountedMap:
    """Tells how many crops were cut."""

    def __init__(self, raster: RasterMap) -> None:
        self._raster = raster
        self.crops = 0

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        self.crops += 1
        return self._raster.crop(lat_deg, lon_deg, size_m, size_px)


@pytest.mark.parametrize("idle", [False, True])
def test_frames_of_a_video_share_a_crop_and_their_fixes_stay_right(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], idle: bool
) -> None:
    raster, _, home = world
    source = CountedMap(raster)
    waited = 0
    localizer = Localizer(NccEngine(_SPEC), source)
    localizer.set_prior(*home.to_geodetic(-30.0, 0.0), 30.0, 0.0)
    for step in range(60):
        # An attitude that is never at rest, over ground of two crops' width.
        east, tilt = -30.0 + step, math.radians(2.0 * math.sin(step))
        before = source.crops
        estimate = localizer.process(seen(world, 0.1 * step, east, 0.0, tilt))
        waited += source.crops > before
        if idle:
            localizer.look_ahead()
        assert error_m(world, estimate, east, 0.0) < 1.5, (step, estimate.reason)
        assert estimate.valid == (step >= 2), estimate.reason
        assert estimate.crop is not None
        # Whatever was to be searched lies on the crop.
        x, y = estimate.crop.geodetic_to_pixel(*home.to_geodetic(east, 0.0))
        reach_px = 0.9 * LocalizerSettings().map.min_search_m / estimate.crop.gsd_m
        assert reach_px < min(x, y) and max(x, y) < estimate.crop.image.shape[0] - reach_px
    assert 3 <= source.crops <= 13, source.crops
    # Only while the search narrows do frames wait for a crop that was not there in time.
    assert (waited <= 6 < source.crops) if idle else waited == source.crops


def test_a_crop_that_cannot_be_had_ahead_of_time_takes_nothing_away(
    world: tuple[RasterMap, CameraSimulator, LocalEnu],
) -> None:
    raster, _, home = world

    class Edge(CountedMap):
        """Has only the crops cut until its end comes."""

        ends = False

        def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
            if self.ends:
                self.crops += 1
                raise GeolocError("the map server does not answer")
            return super().crop(lat_deg, lon_deg, size_m, size_px)

    source = Edge(raster)
    localizer = Localizer(NccEngine(_SPEC), source)
    localizer.set_prior(*home.to_geodetic(-20.0, 0.0), 30.0, 0.0)
    for step in range(60):
        localizer.process(seen(world, 0.1 * step, -20.0 + step, 0.0))
        source.ends = localizer.state == State.TRACKING and step > 8
        asked = source.crops
        localizer.look_ahead()
        if source.ends and source.crops > asked:
            break
    else:
        pytest.fail("no crop was asked for ahead of time")
    # The frame after still lies on the crop that is there.
    estimate = localizer.process(seen(world, 0.1 * (step + 1), -19.0 + step, 0.0))
    assert estimate.valid, estimate.reason


def test_first_fix_waits_for_two_more_that_agree(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    estimate = localizer.process(seen(world, 0.0, 0.0, 0.0))
    assert not estimate.valid
    assert "confirming: 1 of 3" in estimate.reason


def bad_frames(good: Frame) -> dict[str, tuple[Frame, str]]:
    assert good.image is not None
    other = CameraModel(640, 480, CAMERA.matrix)
    return {
        "no image": (replace(good, image=None, problem="image is damaged"), "image is damaged"),
        "attitude": (replace(good, rotation_enu_from_optical=np.full((3, 3), np.nan)), "attitude is not finite"),
        "no rotation": (replace(good, rotation_enu_from_optical=np.zeros((3, 3))), "no rotation"),
        "height 0": (replace(good, height_m=0.0), "height above ground is 0.0 m"),
        "height below": (replace(good, height_m=-3.0), "height above ground is -3.0 m"),
        "height nan": (replace(good, height_m=math.nan), "height above ground is nan m"),
        "upside down": (
            replace(good, rotation_enu_from_optical=np.diag([1.0, -1.0, 1.0]) @ nadir_rotation()),
            "attitude",
        ),
        "other camera": (replace(good, camera=other), "camera_info"),
        "flat": (replace(good, image=np.full_like(good.image, 99)), "ambiguous"),
    }


@pytest.mark.parametrize("name", bad_frames(Frame(np.zeros((1, 1, 3), np.uint8), 0, None, 1, CAMERA)))
def test_bad_frame_is_told_and_the_next_good_one_is_used(
    name: str, world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    for step in range(4):
        localizer.process(seen(world, 0.3 * step, 0.0, 0.0))
    frame, words = bad_frames(seen(world, 1.5, 0.0, 0.0))[name]
    estimate = localizer.process(frame)
    assert not estimate.valid
    assert words in estimate.reason
    after = localizer.process(seen(world, 2.0, 0.0, 0.0))
    assert after.valid
    assert error_m(world, after, 0.0, 0.0) < 1.5


def test_no_prior_no_fix(world: tuple[RasterMap, CameraSimulator, LocalEnu]) -> None:
    estimate = Localizer(NccEngine(_SPEC), world[0]).process(seen(world, 0.0, 0.0, 0.0))
    assert (estimate.valid, estimate.state) == (False, State.UNINITIALIZED)
    assert "no prior" in estimate.reason
    assert math.isnan(estimate.lat_deg)


def test_prior_off_the_map_says_so(world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer) -> None:
    localizer.set_prior(10.0, 20.0, 50.0, 0.0)
    estimate = localizer.process(seen(world, 0.0, 0.0, 0.0))
    assert not estimate.valid
    assert estimate.reason.startswith("no map:")


def test_clock_going_back_forgets_the_track(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    for step in range(3):
        localizer.process(seen(world, 10.0 + step, 0.0, 0.0))
    estimate = localizer.process(seen(world, 5.0, 0.0, 0.0))
    assert (estimate.valid, estimate.state) == (False, State.UNINITIALIZED)
    assert "clock went back by 7.00 s" in estimate.reason
    assert not localizer.process(seen(world, 5.5, 0.0, 0.0)).valid


def test_teleport_is_refused_then_lost_then_a_prior_brings_it_back(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    for step in range(4):
        localizer.process(seen(world, 0.1 * step, 0.0, 0.0))
    for step in range(3):
        estimate = localizer.process(seen(world, 0.31 + 0.01 * step, 25.0, 0.0))
        assert (estimate.valid, estimate.state) == (False, State.TRACKING)
        assert "off the track" in estimate.reason
    flat = replace(seen(world, 15.5, 25.0, 0.0), image=np.full((240, 320, 3), 90, np.uint8))
    estimate = localizer.process(flat)
    assert (estimate.valid, estimate.state) == (False, State.LOST)
    # Three frames in 0.03 s contradicted the track, which counts threefold; the blank one took 15.17 s and is diffuse.
    assert "lost after 4 frames without a fix, loss score 22.8 s" in estimate.reason
    still = localizer.process(seen(world, 15.6, 25.0, 0.0))
    assert still.reason.startswith("lost:")
    assert still.filtered is None
    localizer.set_prior(*world[2].to_geodetic(25.0, 0.0), 30.0, 15.6)
    for step in range(2):
        assert not localizer.process(seen(world, 15.7 + 0.1 * step, 25.0, 0.0)).valid
    assert localizer.process(seen(world, 15.9, 25.0, 0.0)).valid


def test_one_wrong_first_fix_is_undone(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    """A clear view of another place, then the right one: the wrong place is never called a fix."""
    wrong = localizer.process(seen(world, 0.0, 38.0, 30.0))
    assert "confirming: 1 of 3" in wrong.reason
    contradiction = localizer.process(seen(world, 0.05, 0.0, 0.0))
    assert "off the track" in contradiction.reason
    estimates = [localizer.process(seen(world, 0.1 + 0.05 * step, 0.0, 0.0)) for step in range(3)]
    assert [estimate.valid for estimate in estimates] == [False, False, True]
    assert error_m(world, estimates[-1], 0.0, 0.0) < 1.5


def test_after_a_long_gap_fixes_are_confirmed_anew(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visual_odometry, "MAX_ELAPSED_S", 5.0)  # the images do not bridge it
    for step in range(4):
        estimate = localizer.process(seen(world, 0.2 * step, 0.0, 0.0))
    assert estimate.valid
    late = localizer.process(seen(world, 8.0, 4.0, 0.0))
    assert (late.valid, late.state) == (False, State.RELOCALIZING)
    assert "confirming: 1 of 3" in late.reason
    localizer.process(seen(world, 12.2, 4.0, 0.0))
    assert localizer.process(seen(world, 12.4, 4.0, 0.0)).valid


def test_unconfirmed_fixes_leave_the_published_track_uncertain(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    """The prior is 20 m (1 sigma): two fixes that wait for a third must not make the odometry surer than that."""
    tracks = [localizer.process(seen(world, 0.1 * step, 0.0, 0.0)).filtered for step in range(3)]
    sigmas_m = [math.sqrt(np.linalg.eigvalsh(track.covariance[:2, :2])[-1]) for track in tracks if track]
    assert sigmas_m[0] >= 20.0 and sigmas_m[1] >= 20.0 and sigmas_m[2] < 5.0, sigmas_m


def test_undone_fix_leaves_a_track_of_the_frames_own_moment(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    """After the undoing as uncertain as if the wrong image had never come."""
    other = Localizer(NccEngine(_SPEC), world[0])
    other.set_prior(*world[2].to_geodetic(10.0, -8.0), 60.0, 0.0)
    right = seen(world, 0.2, 0.0, 0.0)
    localizer.process(seen(world, 0.0, 38.0, 30.0))
    undone = localizer.process(right)
    never = other.process(replace(right, image=None, problem="none"))
    assert "off the track" in undone.reason
    assert undone.filtered is not None and never.filtered is not None
    np.testing.assert_allclose(undone.filtered.covariance, never.filtered.covariance, rtol=1e-6)


def test_the_same_picture_again_confirms_nothing(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    frame = seen(world, 1.0, 0.0, 0.0)
    estimates = [localizer.process(frame) for _ in range(4)]
    assert not any(estimate.valid for estimate in estimates)
    assert "that of the last frame" in estimates[-1].reason


def test_a_fix_in_much_ground_agrees_with_nothing(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After eight seconds without a word one clear image is the first again, not the second of three."""
    monkeypatch.setattr(visual_odometry, "MAX_ELAPSED_S", 5.0)  # nor do the images show how far it went
    localizer.process(seen(world, 0.0, 0.0, 0.0))
    late = localizer.process(seen(world, 8.0, 4.0, 0.0))
    assert "confirming: 1 of 3" in late.reason


@pytest.mark.parametrize("stamp_s", [math.nan, math.inf, 1e9])
def test_stamp_beyond_reason_is_told(
    stamp_s: float, world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    for step in range(4):
        assert localizer.process(seen(world, 0.5 * step, 6.0 * step, 0.0)).valid == (step >= 2)
    estimate = localizer.process(replace(seen(world, 2.0, 24.0, 0.0), stamp_s=stamp_s))
    assert not estimate.valid
    assert estimate.state == (State.LOST if stamp_s == 1e9 else State.TRACKING)


@pytest.mark.parametrize(
    ("name", "number"),
    [("track.confirm_frames", 0), ("gate.min_peak", 1.5), ("track.lost_after_s", -1.0), ("gate.max_sigma", math.nan)],
)
def test_impossible_setting_is_refused(name: str, number: float) -> None:
    with pytest.raises(GeolocError, match=f"^{name} is {number}; it must be"):
        LocalizerSettings.of({name: number})


def test_search_smaller_than_the_view_is_refused(world: tuple[RasterMap, CameraSimulator, LocalEnu]) -> None:
    with pytest.raises(GeolocError, match=r"map\.max_search_px is 96; it must be more than the view's 96 px"):
        Localizer(NccEngine(_SPEC), world[0], LocalizerSettings.of({"map.max_search_px": 96}))


def test_pointing_error_enters_the_covariance(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    """One degree at 100 m is 1.75 m, and the map adds 1 m: never less is claimed."""
    estimate = localizer.process(seen(world, 0.0, 0.0, 0.0))
    floor = (HEIGHT_M * math.radians(1.0)) ** 2 + 1.0
    assert np.linalg.eigvalsh(estimate.covariance_enu_m2)[0] >= floor


def test_without_matches_the_track_goes_on_until_it_is_too_uncertain(
    world: tuple[RasterMap, CameraSimulator, LocalEnu], localizer: Localizer
) -> None:
    """After 3 s of damaged images the track stands; then ground without features."""
    for step in range(4):
        localizer.process(seen(world, 0.5 * step, 3.0 * step, 0.0))
    for step in range(6):
        estimate = localizer.process(replace(seen(world, 2.0 + 0.5 * step, 12.0, 0.0), image=None, problem="blurred"))
        assert (estimate.valid, estimate.state, estimate.reason) == (False, State.TRACKING, "blurred")
    flat = np.full((240, 320, 3), 90, np.uint8)
    estimates = [localizer.process(replace(seen(world, 5.5 + step, 12.0, 0.0), image=flat)) for step in range(45)]
    states = [estimate.state for estimate in estimates]
    assert states == sorted(states, key=[State.TRACKING, State.DEAD_RECKONING, State.LOST].index)
    assert set(states) == {State.TRACKING, State.DEAD_RECKONING, State.LOST}
    assert not any(estimate.valid for estimate in estimates)
    reckoned = [e.filtered for e in estimates if e.state == State.DEAD_RECKONING]
    sigmas_m = [math.sqrt(track.covariance[0, 0]) for track in reckoned if track is not None]
    assert len(sigmas_m) == len(reckoned)
    assert sigmas_m == sorted(sigmas_m)
    assert sigmas_m[-1] <= LocalizerSettings().track.lost_sigma_m
    assert estimates[-1].filtered is None
