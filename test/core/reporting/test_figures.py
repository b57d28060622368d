# SPDX-License-Identifier: Apache-2.0
"""Names, values and ranks of figures, and the tables that are made of them."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from geoloc_ros.core.evaluation.scores import FrameScore, Run, score_fix, summarize
from geoloc_ros.core.reporting.figures import COVERAGE_EXPECTED, FIGURES, NEES_EXPECTED, table_rows, write_summary_csv
from geoloc_ros.core.reporting.records import frames_of, table, write_errors_csv


def frame(index: int, fixed: bool) -> FrameScore:
    return score_fix(
        index=index,
        stamp_s=1_700_000_000.1 + index,
        truth_lat_lon_deg=(47.0, 8.0),
        lat_lon_deg=(47.00001, 8.00002) if fixed else None,
        covariance_enu_m2=np.array([[4.0, -1.5], [-1.5, 9.0]]),
        search_size_m=200.0,
        height_m=100.0,
        latency_ms=50.0,
        stages_ms={"rectify": 5.0, "network": 45.0} if fixed else {},
        state="TRACKING" if fixed else "LOST",
        peak=0.5 if fixed else math.nan,
        reason="" if fixed else 'dark, "very"',
        heading_error_deg=1.25 if fixed else math.nan,
        height_scale_error_percent=2.5 if fixed else math.nan,
        support=0.75 if fixed else math.nan,
        dropped=not fixed,
    )


@pytest.fixture
def run() -> Run:
    return Run("ours", "tracking", "default", "cpu", [frame(0, True), frame(1, False)], about={"seed": 7})


def test_expected_values_are_those_of_a_gaussian() -> None:
    """Draws from the covariance that is claimed."""
    rng = np.random.default_rng(1)
    squared = np.sum(rng.normal(size=(400_000, 2)) ** 2, axis=1)
    assert squared.mean() == pytest.approx(NEES_EXPECTED, rel=0.01)
    for k, share in COVERAGE_EXPECTED.items():
        assert np.mean(squared <= k**2) == pytest.approx(share, abs=0.003)


def test_every_figure_is_in_a_summary(run: Run) -> None:
    summary = summarize(run)
    missing = {key for key, figure in FIGURES.items() if figure.of(summary) is None}
    # One fix makes no step, and no gap ended.
    assert missing == {key for key in FIGURES if key.startswith(("rpe_m", "recovery_s"))}
    assert FIGURES["ma.20"].of(summary) == 0.5


@pytest.mark.parametrize(
    ("key", "first", "other", "worse_by"),
    [
        ("ma.20", 0.9, 0.8, 0.1),
        ("ma.20", 0.8, 0.9, -0.1),
        ("median_error_m", 1.0, 1.5, 0.5),
        ("median_error_m", 1.0, None, math.inf),
        ("nees_mean", 2.5, 1.0, 0.5),  # 2 is best: 0.5 off against 1
        ("nees_mean", 0.1, 3.0, -0.9),
        ("recovery_s.max", 1.0, 9.0, math.nan),
        ("ape_m.rmse", None, 3.0, math.nan),
    ],
)
def test_ranks(key: str, first: float | None, other: float | None, worse_by: float) -> None:
    assert FIGURES[key].worse_by(first, other) == pytest.approx(worse_by, nan_ok=True)


def test_short_table_has_a_cell_for_every_heading(run: Run) -> None:
    headings, rows = table_rows([summarize(run)])
    assert [len(row) for row in rows] == [len(headings)]
    assert rows[0][headings.index("MA@3")] == "0.500"


def test_summary_csv_has_a_row_a_figure_and_a_column_a_run(run: Run, tmp_path: Path) -> None:
    other = Run("other", "tracking", "default", "cpu", [frame(0, False)])
    write_summary_csv(tmp_path / "summary.csv", [summarize(run), summarize(other)])
    with (tmp_path / "summary.csv").open(newline="") as handle:
        rows = {row["figure"]: (row["ours"], row["other"]) for row in csv.DictReader(handle)}
    assert rows["ma.20"] == ("0.5", "0.0")
    assert rows["latency_ms.stages.network.p50"] == ("45.0", "")
    assert rows["seed"] == ("7", "")
    assert set(FIGURES) <= set(rows)


def test_frames_come_back_from_their_table(run: Run, tmp_path: Path) -> None:
    columns, rows = table(run.frames)
    for before, after in zip(run.frames, frames_of(columns, rows), strict=True):
        for name in ("index", "state", "valid", "dropped", "stages_ms", "reason"):
            assert getattr(after, name) == getattr(before, name)
        for name in ("stamp_s", "lat_deg", "lon_deg", "height_m", "error_m", "nees", "rds", "latency_ms", "peak"):
            assert getattr(after, name) == pytest.approx(getattr(before, name), nan_ok=True, rel=1e-4), name
        np.testing.assert_allclose(after.covariance_enu_m2, before.covariance_enu_m2, rtol=1e-4)
    write_errors_csv(tmp_path / "errors.csv", run.frames)
    with (tmp_path / "errors.csv").open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert list(lines[0]) == columns
    assert float(lines[0]["error_m"]) == pytest.approx(run.frames[0].error_m, abs=1e-4)
    assert (lines[1]["valid"], lines[1]["error_m"], lines[1]["network_ms"]) == ("0", "", "")
    assert lines[1]["reason"] == 'dark, "very"'
