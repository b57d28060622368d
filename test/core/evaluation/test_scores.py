# SPDX-License-Identifier: Apache-2.0
"""Run summaries, against values worked out by hand."""

import json
import math

import numpy as np
import pytest

from geoloc_models.metrics import haversine_m
from geoloc_ros.core.evaluation.scores import FrameScore, Gap, Run, gaps, score_fix, summarize
from geoloc_ros.core.geometry.geodesy import LocalEnu

TRUTH = (47.0, 8.0)


def frame_off_by(
    index: int, east_m: float | None, north_m: float = 0.0, sigma_m: float = 2.0, stamp_s: float | None = None
) -> FrameScore:
    """A fix that is off by so much; `east_m` None says no fix."""
    position = None if east_m is None else LocalEnu(*TRUTH).to_geodetic(east_m, north_m)
    return score_fix(
        index=index,
        stamp_s=float(index) if stamp_s is None else stamp_s,
        truth_lat_lon_deg=TRUTH,
        lat_lon_deg=position,
        covariance_enu_m2=sigma_m**2 * np.eye(2),
        search_size_m=200.0,
        height_m=100.0,
        latency_ms=10.0 * (index + 1),
        stages_ms={"network": 9.0 * (index + 1), "crop": 1.0 * (index + 1)},
        state="TRACKING",
        reason="" if position else f"frame {index} is dark",
    )


def test_score_of_one_fix() -> None:
    score = frame_off_by(0, 6.0, 8.0)
    assert score.valid
    assert score.error_m == pytest.approx(10.0, rel=5e-3)  # the sphere of haversine against WGS84
    assert score.error_m == float(haversine_m(*TRUTH, score.lat_deg, score.lon_deg))
    assert score.nees == pytest.approx(100 / 4, rel=1e-6)
    assert score.rds == pytest.approx(math.exp(-10 * math.sqrt((0.03**2 + 0.04**2) / 2)), rel=1e-6)
    assert score.sigma_m == pytest.approx(2.0)


def test_no_fix_is_a_miss_and_not_a_zero() -> None:
    score = frame_off_by(0, None)
    assert not score.valid
    assert math.isnan(score.error_m)
    assert math.isnan(score.sigma_m)
    assert score.rds == 0.0
    nan_fix = score_fix(index=0, stamp_s=0.0, truth_lat_lon_deg=TRUTH, lat_lon_deg=(math.nan, 8.0))
    assert not nan_fix.valid


def test_summary() -> None:
    frames = [
        frame_off_by(0, 1.0),
        frame_off_by(1, 4.0),
        frame_off_by(2, None),
        frame_off_by(3, 30.0),  # 15 sigma and over 20 m: false
        frame_off_by(4, 30.0, sigma_m=15.0),  # as far, but says so
    ]
    figures = summarize(Run("ours", "tracking", "default", "cpu", frames, about={"seed": 7}))
    assert figures["frames"] == 5
    assert figures["availability"] == 0.8
    assert figures["ma"] == {"3": 0.2, "5": 0.4, "10": 0.4, "20": 0.4, "50": 0.8}
    assert figures["ma_valid"]["50"] == 1.0
    assert figures["median_error_m"] == pytest.approx((4 + 30) / 2, rel=5e-3)
    assert figures["false_fix_rate"] == 0.25
    assert figures["latency_ms"]["p50"] == 30.0
    assert figures["latency_ms"]["stages"]["network"] == {"p50": 27.0, "p95": 43.2, "p99": 44.64}
    assert list(figures["latency_ms"]["stages"]) == ["crop", "network"]  # in the order of the work
    # NEES: 1/4, 16/4, 900/4, 900/225
    assert figures["nees_mean"] == pytest.approx((0.25 + 4 + 225 + 4) / 4, rel=1e-5)
    assert figures["coverage_1sigma"] == pytest.approx(0.25)
    assert figures["coverage_2sigma"] == pytest.approx(0.25)
    assert figures["coverage_3sigma"] == pytest.approx(0.75)
    assert figures["ape_m"]["max"] == pytest.approx(30.0, rel=1e-6)
    assert figures["rpe_m"]["1 frame"]["pairs"] == 3
    assert figures["rpe_m"]["10 m"] == dict.fromkeys(("rmse", "mean", "median", "std", "min", "max", "sse"), None) | {
        "pairs": 0
    }  # the truth never moves
    assert figures["recovery_s"] == {"count": 1, "median": 1.0, "max": 1.0}
    assert figures["gaps"] == [{"begin_s": 2.0, "duration_s": 1.0, "frames": 1, "reason": "frame 2 is dark"}]
    assert figures["dropped_frames"] == 0
    assert not figures["partial"]
    assert figures["seed"] == 7
    json.dumps(figures, allow_nan=False)


def test_summary_of_a_run_without_any_fix_is_valid_json() -> None:
    figures = summarize(Run("none", "tracking", "default", "cpu", [frame_off_by(0, None)]))
    assert figures["median_error_m"] is None
    assert figures["availability"] == 0.0
    assert figures["false_fix_rate"] == 0.0
    assert figures["ape_m"]["rmse"] is None
    json.dumps(figures, allow_nan=False)
    json.dumps(summarize(Run("empty", "tracking", "default", "cpu", [])), allow_nan=False)


def test_gaps_end_with_the_next_fix() -> None:
    frames = [frame_off_by(0, None), frame_off_by(1, 0.0), frame_off_by(2, 3.0, 4.0), frame_off_by(3, None)]
    frames += [frame_off_by(4, None), frame_off_by(6, 3.0, 4.0), frame_off_by(7, None)]
    *ended, open_end = gaps(frames)
    assert ended == [Gap(0.0, 1.0, 1, "frame 0 is dark"), Gap(3.0, 3.0, 2, "frame 3 is dark")]
    assert (open_end.begin_s, open_end.frames) == (7.0, 1)
    assert math.isnan(open_end.duration_s)
