# SPDX-License-Identifier: Apache-2.0
"""Flights through the localizer frame by frame: figures repeat, errors are true, bad frames are misses."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine, EngineSpec
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import haversine_m
from geoloc_ros.core.evaluation.answers import CLOSEUPS, Answer, SearchLog
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine
from geoloc_ros.core.evaluation.protocols import Evaluation
from geoloc_ros.core.evaluation.scores import Run, SearchRecord, summarize
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame

LIKE = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.4, 1.0))


@pytest.fixture(scope="module")
def engine() -> NccEngine:
    return NccEngine(LIKE)


@pytest.fixture(scope="module")
def raster(small_flight: Path) -> RasterMap:
    return RasterMap(Flight.open(small_flight).map_path)


def test_tracking_follows_a_flight_from_a_wrong_prior(small_flight: Path, engine: NccEngine, raster: RasterMap) -> None:
    ticks: list[int] = []
    evaluation = Evaluation(engine, raster, advance=lambda: ticks.append(1))
    run = evaluation.tracking(Flight.open(small_flight), 15.0, 2)
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


def evaluate(evaluation: Evaluation, frames: Iterable[Frame], crop_m: float | None, seed: int = 0) -> Run:
    """Tracked without a crop, else independent."""
    return evaluation.tracking(frames, 5.0, seed) if crop_m is None else evaluation.independent(frames, crop_m, seed)


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
    runs = [evaluate(Evaluation(engine, raster), Flight.open(small_flight), crop_m, seed) for seed in (4, 4, 5)]
    assert without_times(runs[0]) == without_times(runs[1])
    assert without_times(runs[0]) != without_times(runs[2])


class Stubborn(Engine):
    """Always answers the same place of the crop, with the same confidence."""

    spec = dataclasses.replace(LIKE, weights_id="stubborn")

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
    run = Evaluation(Stubborn(0.9), raster).independent(Flight.open(small_flight), 130.0, 6)
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
    sure = Evaluation(Stubborn(0.9), raster).independent(Flight.open(small_flight), 130.0, 6)
    unsure = Evaluation(Stubborn(0.1), raster).independent(Flight.open(small_flight), 130.0, 6)
    a, b = summarize(sure), summarize(unsure)
    assert b["availability"] == 0.0
    assert b["false_fix_rate"] == 0.0
    assert a["false_fix_rate"] > 0.5
    assert (a["ma"], a["median_error_m"], a["rds"]) == (b["ma"], b["median_error_m"], b["rds"])
    tracked = summarize(Evaluation(Stubborn(0.1), raster).tracking(Flight.open(small_flight), 0.0))
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
    for crop_m in (None, 130.0):
        run = evaluate(Evaluation(engine, raster), broken, crop_m)
        assert [f.valid for f in run.frames[4:]] == [False, False, False, True]
        assert all(f.reason for f in run.frames[4:7])
        assert all(math.isnan(f.error_m) for f in run.frames[4:7])


def test_dropped_frames_and_stages_are_noted(small_flight: Path, engine: NccEngine, raster: RasterMap) -> None:
    frames = list(Flight.open(small_flight))[:6]
    frames[3] = dataclasses.replace(frames[3], image=None, problem="frames/x.jpg does not decode")
    for crop_m in (None, 130.0):
        run = evaluate(Evaluation(engine, raster), frames, crop_m)
        assert [frame.dropped for frame in run.frames] == [False] * 3 + [True] + [False] * 2
        # Single frames have no motion between them.
        stages = [*(["odometry"] if crop_m is None else []), "rectify", "crop", "network", "post"]
        assert list(run.frames[5].stages_ms) == stages
        assert sum(run.frames[5].stages_ms.values()) == pytest.approx(run.frames[5].latency_ms, rel=0.2)
        figures = summarize(run)
        assert figures["dropped_frames"] == 1
        assert set(figures["latency_ms"]["stages"]) == set(stages)


@pytest.mark.parametrize("crop_m", [None, 130.0])
def test_a_stopped_run_keeps_what_it_scored(
    small_flight: Path, engine: NccEngine, raster: RasterMap, crop_m: float | None
) -> None:
    frames = list(Flight.open(small_flight))
    # The third has no truth: read, but not scored.
    frames[2] = dataclasses.replace(frames[2], truth=None)

    def until_ctrl_c(count: int) -> Iterator[Frame]:
        yield from frames[:count]
        raise KeyboardInterrupt

    whole = evaluate(Evaluation(engine, raster, expected=24), frames, crop_m)
    assert (whole.stopped, whole.frames_read, whole.frames_expected) == (False, 24, 24)
    run = evaluate(Evaluation(engine, raster, expected=24), until_ctrl_c(10), crop_m)
    assert (run.stopped, run.frames_read, run.frames_expected, len(run.frames)) == (True, 10, 24, 9)
    assert without_times(run) == without_times(dataclasses.replace(whole, frames=whole.frames[:9]))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Evaluation(engine, raster, expected=24), until_ctrl_c(0), crop_m)


class Wandering(Stubborn):
    """Off by a distance that grows and shrinks, so that the worst frames are known."""

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        heatmap = super().infer(query, search_map)
        off_px = 3.0 * (len(self.sides_m) * 7 % 24)
        return dataclasses.replace(heatmap, peak_xy_px=(heatmap.peak_xy_px[0] + off_px, heatmap.peak_xy_px[1]))


def test_pictures_of_the_worst_frames_alone_are_made(
    small_flight: Path, raster: RasterMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of 120 frames stay in memory, whichever order they come in."""
    frames = [
        dataclasses.replace(frame, stamp_s=frame.stamp_s + 100.0 * lap)
        for lap in range(5)
        for frame in Flight.open(small_flight)
    ]
    made: list[int] = []
    closeup = Answer.closeup

    def counted(answer: Answer) -> Any:
        made.append(answer.score.index)
        return closeup(answer)

    monkeypatch.setattr(Answer, "closeup", counted)
    run = Evaluation(Wandering(0.9), raster).independent(frames, 130.0, 6)
    assert len(run.frames) == 120
    assert len(run.closeups) == CLOSEUPS == 10
    assert len(made) < 60
    indices = [shown.index for shown in run.closeups]
    errors = [run.frames[index].error_m for index in indices]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == max(frame.error_m for frame in run.frames if frame.valid)
    # No frame that is left out is worse than all of its neighbourhood that is shown.
    for frame in run.frames:
        near = [shown for shown in indices if abs(shown - frame.index) < 5]
        if frame.valid and frame.index not in indices and not near:
            assert frame.error_m <= errors[-1]


def test_only_long_searches_keep_their_pictures() -> None:
    log = SearchLog()
    picture = np.zeros((2, 2, 3), np.uint8)
    for number in range(40):
        duration_s = float(number * 7 % 40)
        log.records.append(SearchRecord(0.0, duration_s, 1, True, 0.0, 0.0, picture))
        log._keep_few_pictures()
    shown = [record.duration_s for record in log.records[:-1] if record.picture is not None]
    assert len(shown) == CLOSEUPS - 1
    assert min(shown) >= 30.0


def test_frames_without_truth_are_not_scored(small_flight: Path, engine: NccEngine, raster: RasterMap) -> None:
    frames = [dataclasses.replace(frame, truth=None) for frame in list(Flight.open(small_flight))[:3]]
    with pytest.raises(GeolocError, match="true position"):
        Evaluation(engine, raster).tracking(frames)


@pytest.mark.parametrize(("noise", "crop"), [(-1.0, None), (math.nan, None), (1.0, 0.0), (1.0, math.inf)])
def test_impossible_protocols_are_refused(
    engine: NccEngine, raster: RasterMap, noise: float, crop: float | None
) -> None:
    evaluation = Evaluation(engine, raster)
    with pytest.raises(GeolocError, match="prior noise" if crop is None else "map crop"):
        evaluation.tracking([], noise) if crop is None else evaluation.independent([], crop)


def test_closeups_mark_the_truth(small_flight: Path, engine: NccEngine, raster: RasterMap) -> None:
    """On an easy flight the found place and the marked truth agree, and the mark is the geodetic truth."""
    run = Evaluation(engine, raster).independent(Flight.open(small_flight), 130.0, 1)
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
