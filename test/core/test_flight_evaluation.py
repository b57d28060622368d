# SPDX-License-Identifier: Apache-2.0
"""Flights through the localizer frame by frame: figures repeat, errors are true, bad frames are misses."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import haversine_m
from geoloc_ros.core.baselines import NccEngine
from geoloc_ros.core.evaluation import CLOSEUPS, FlightProtocol, evaluate_flight
from geoloc_ros.core.flight import Flight, Frame
from geoloc_ros.core.maps import RasterMap
from geoloc_ros.core.scores import Run, summarize

LIKE: Any = SimpleNamespace(query_px=96, map_multiple_px=16, gsd_range_m=(0.4, 1.0))


@pytest.fixture(scope="module")
def engine() -> NccEngine:
    return NccEngine(LIKE)


@pytest.fixture(scope="module")
def raster(small_flight: Path) -> RasterMap:
    return RasterMap(Flight.open(small_flight).map_path)


def test_tracking_follows_a_flight_from_a_wrong_prior(
    small_flight: Path, engine: NccEngine, raster: RasterMap
) -> None:
    ticks: list[int] = []
    run = evaluate_flight(
        Flight.open(small_flight),
        engine,
        raster,
        FlightProtocol(prior_noise_m=15.0, seed=2),
        advance=lambda: ticks.append(1),
    )
    figures = summarize(run)
    assert figures["frames"] == len(ticks) == 24
    assert figures["mode"] == "tracking"
    assert figures["availability"] >= 0.9
    assert figures["median_error_m"] < 1.0
    assert figures["false_fix_rate"] == 0.0
    assert figures["prior_noise_m"] == 15.0
    # The first frames wait for others that agree.
    assert not run.frames[0].valid
    assert "confirming" in run.frames[0].reason
    fixes = [frame for frame in run.frames if frame.valid]
    assert run.closeups[0].index == max(fixes, key=lambda frame: frame.error_m).index
    shown = sorted(closeup.index for closeup in run.closeups)
    assert 1 <= len(shown) <= CLOSEUPS
    assert min(np.diff(shown), default=5) >= 5  # one bad place does not fill the page


def without_times(run: Run) -> list[tuple[Any, ...]]:
    return [
        (f.index, f.state, f.valid, f.lat_deg, f.lon_deg, f.error_m, f.nees, f.rds, f.peak, f.reason)
        for f in run.frames
        if f.valid
    ]


@pytest.mark.parametrize("crop_m", [None, 130.0])
def test_figures_repeat_to_the_last_digit(
    small_flight: Path, engine: NccEngine, raster: RasterMap, crop_m: float | None
) -> None:
    runs = [
        evaluate_flight(Flight.open(small_flight), engine, raster, FlightProtocol(10.0, crop_m, seed))
        for seed in (4, 4, 5)
    ]
    assert without_times(runs[0]) == without_times(runs[1])
    assert without_times(runs[0]) != without_times(runs[2])


class Stubborn:
    """Always answers the same place of the crop, with the same confidence."""

    weights_id, device = "stubborn", "cpu"
    query_px, map_multiple_px, gsd_range_m = 96, 16, (0.4, 1.0)

    def __init__(self, peak: float) -> None:
        self.peak = peak
        self.sides_m: list[int] = []

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        side = search_map.shape[0]
        self.sides_m.append(side)
        flat = np.full((2, 2), 0.25, np.float32)
        return Heatmap(flat, float(side), (side / 2, side / 2), 4.0 * np.eye(2), self.peak, 9.0)


def test_independent_offsets_are_what_the_crop_is_off_by(small_flight: Path, raster: RasterMap) -> None:
    """An engine that always answers the crop's centre is off by exactly the offset that was drawn."""
    run = evaluate_flight(Flight.open(small_flight), Stubborn(0.9), raster, FlightProtocol(0.0, 130.0, 6))
    expected = []
    for index in range(24):
        off = 130.0 * np.random.default_rng((6, index)).uniform(-0.425, 0.425, 2)
        expected.append(math.hypot(*off))
    np.testing.assert_allclose([f.error_m for f in run.frames], expected, rtol=0.006)  # sphere, ellipsoid
    # Crops that lie mostly off the map answer, but the localizer would not take the answer.
    assert 0.8 < summarize(run)["availability"] < 1.0
    assert any("map covers" in frame.reason for frame in run.frames)
    assert summarize(run)["crop_m"] == 130.0


def test_unsure_answers_are_scored_alone_but_are_no_fixes(small_flight: Path, raster: RasterMap) -> None:
    sure = evaluate_flight(Flight.open(small_flight), Stubborn(0.9), raster, FlightProtocol(0.0, 130.0, 6))
    unsure = evaluate_flight(Flight.open(small_flight), Stubborn(0.1), raster, FlightProtocol(0.0, 130.0, 6))
    a, b = summarize(sure), summarize(unsure)
    assert b["availability"] == 0.0
    assert b["false_fix_rate"] == 0.0
    assert a["false_fix_rate"] > 0.5
    assert (a["ma"], a["median_error_m"], a["rds"]) == (b["ma"], b["median_error_m"], b["rds"])
    tracked = summarize(
        evaluate_flight(Flight.open(small_flight), Stubborn(0.1), raster, FlightProtocol(0.0))
    )
    assert tracked["availability"] == 0.0
    assert tracked["median_error_m"] is None


def test_bad_frames_are_misses(small_flight: Path, engine: NccEngine, raster: RasterMap) -> None:
    frames = list(Flight.open(small_flight))[:8]
    broken: list[Frame] = [
        *frames[:4],
        dataclasses.replace(frames[4], image=None, problem="frames/x.jpg does not decode"),
        dataclasses.replace(frames[5], height_m=-3.0),
        dataclasses.replace(frames[6], rotation_enu_from_optical=np.full((3, 3), np.nan)),
        frames[7],
    ]
    for protocol in (FlightProtocol(5.0), FlightProtocol(5.0, 130.0)):
        run = evaluate_flight(broken, engine, raster, protocol)
        assert [f.valid for f in run.frames[4:]] == [False, False, False, True]
        assert all(f.reason for f in run.frames[4:7])
        assert all(math.isnan(f.error_m) for f in run.frames[4:7])


def test_frames_without_truth_are_not_scored(
    small_flight: Path, engine: NccEngine, raster: RasterMap
) -> None:
    frames = [dataclasses.replace(frame, truth=None) for frame in list(Flight.open(small_flight))[:3]]
    with pytest.raises(GeolocError, match="true position"):
        evaluate_flight(frames, engine, raster, FlightProtocol())


@pytest.mark.parametrize(("noise", "crop"), [(-1.0, None), (math.nan, None), (1.0, 0.0), (1.0, math.inf)])
def test_impossible_protocols_are_refused(noise: float, crop: float | None) -> None:
    with pytest.raises(GeolocError):
        FlightProtocol(noise, crop)


def test_closeups_mark_the_truth(small_flight: Path, engine: NccEngine, raster: RasterMap) -> None:
    """On an easy flight the found place and the marked truth agree, and the mark is the geodetic truth."""
    run = evaluate_flight(Flight.open(small_flight), engine, raster, FlightProtocol(0.0, 130.0, 1))
    for closeup in run.closeups:
        assert closeup.truth_xy_px is not None
        assert closeup.fix_xy_px is not None
        frame = run.frames[closeup.index]
        gsd_m = 130.0 / closeup.search_map.shape[0]
        apart = gsd_m * math.hypot(*np.subtract(closeup.fix_xy_px, closeup.truth_xy_px))
        assert apart == pytest.approx(frame.error_m, abs=0.02 * frame.error_m + 0.05)
        assert frame.error_m == float(
            haversine_m(frame.lat_deg, frame.lon_deg, frame.truth_lat_deg, frame.truth_lon_deg)
        )
