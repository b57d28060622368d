# SPDX-License-Identifier: Apache-2.0
"""Run summaries, trajectories and tables, against values worked out by hand."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.metrics import haversine_m
from geoloc_ros.core.geodesy import LocalEnu
from geoloc_ros.core.scores import (
    FrameScore,
    Run,
    recovery_times_s,
    relative_pose_error_m,
    score_fix,
    summarize,
    table_rows,
    write_errors_csv,
    write_tum,
)

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
        state="TRACKING",
    )


def test_score_of_one_fix() -> None:
    score = frame_off_by(0, 6.0, 8.0)
    assert score.valid
    assert score.error_m == pytest.approx(10.0, rel=5e-3)  # the sphere of haversine against WGS84
    assert score.error_m == float(haversine_m(*TRUTH, score.lat_deg, score.lon_deg))
    assert score.nees == pytest.approx(100 / 4, rel=1e-6)
    assert score.rds == pytest.approx(math.exp(-10 * math.sqrt((0.03**2 + 0.04**2) / 2)), rel=1e-6)


def test_no_fix_is_a_miss_and_not_a_zero() -> None:
    score = frame_off_by(0, None)
    assert not score.valid
    assert math.isnan(score.error_m)
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
    # NEES: 1/4, 16/4, 900/4, 900/225
    assert figures["nees_mean"] == pytest.approx((0.25 + 4 + 225 + 4) / 4, rel=1e-5)
    assert figures["coverage_2sigma"] == pytest.approx(0.25)
    assert figures["seed"] == 7
    json.dumps(figures, allow_nan=False)


def test_summary_of_a_run_without_any_fix_is_valid_json() -> None:
    figures = summarize(Run("none", "tracking", "default", "cpu", [frame_off_by(0, None)]))
    assert figures["median_error_m"] is None
    assert figures["availability"] == 0.0
    assert figures["false_fix_rate"] == 0.0
    json.dumps(figures, allow_nan=False)
    json.dumps(summarize(Run("empty", "tracking", "default", "cpu", [])), allow_nan=False)


def test_relative_error_and_recovery() -> None:
    frames = [frame_off_by(0, None), frame_off_by(1, 0.0), frame_off_by(2, 3.0, 4.0), frame_off_by(3, None)]
    frames += [frame_off_by(4, None), frame_off_by(6, 3.0, 4.0), frame_off_by(7, None)]
    # Displacement errors of 5 m and 0 m.
    assert relative_pose_error_m(frames) == pytest.approx(math.sqrt(25 / 2), rel=1e-6)
    assert recovery_times_s(frames) == [1.0, 3.0]


def test_files_can_be_read_back(tmp_path: Path) -> None:
    frames = [frame_off_by(0, 1.5, -2.5), frame_off_by(1, None)]
    write_errors_csv(tmp_path / "errors.csv", frames)
    with (tmp_path / "errors.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert float(rows[0]["error_m"]) == pytest.approx(frames[0].error_m, abs=1e-4)
    assert rows[1]["valid"] == "0"
    assert rows[1]["error_m"] == ""
    write_tum(tmp_path / "fixes.tum", frames)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "fixes.tum"), [0, 1.5, -2.5, 100, 0, 0, 0, 1], atol=1e-5)
    write_tum(tmp_path / "truth.tum", frames, truth=True)
    assert np.loadtxt(tmp_path / "truth.tum").shape == (2, 8)


def test_table_has_a_cell_for_every_heading() -> None:
    headings, rows = table_rows(
        [summarize(Run("ours", "tracking", "default", "cpu", [frame_off_by(0, 1.0), frame_off_by(1, None)]))]
    )
    assert [len(row) for row in rows] == [len(headings)]
    assert rows[0][headings.index("MA@3")] == "0.500"
