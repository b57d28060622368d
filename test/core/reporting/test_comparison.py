# SPDX-License-Identifier: Apache-2.0
"""Reports against each other: figures, frames, warnings and limits."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.scores import Run
from geoloc_ros.core.reporting.comparison import compare, pair, parse_limits, read_reports, write_comparison
from geoloc_ros.core.reporting.report import write_figures

Walk = Callable[..., Run]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, walk: Walk) -> list[Path]:
    """Reports of a run, of one a metre worse with a later gap, and of the first with other weights, stopped early."""
    root = tmp_path_factory.mktemp("reports")
    other = walk("geoloc", 2.0, gap=range(5, 9), frames=30)
    other.weights = "tiny & old"
    other.stopped, other.frames_read, other.frames_expected = True, 30, 40
    runs = {
        "before": walk("geoloc", 2.0, gap=range(5, 9)),
        "after": walk("geoloc", 3.0, gap=range(7, 12)),
        "other": other,
    }
    for name, run in runs.items():
        write_figures(root / name, [run], name)
    return [root / name for name in runs]


def test_frames_are_paired_by_stamp(walk: Walk) -> None:
    first, other = walk("a", 2.0, gap=range(5, 9)), walk("b", 3.0, gap=range(7, 12))
    # Half a millisecond of rounding is the same stamp, a whole frame is not.
    other.frames = [replace(frame, stamp_s=frame.stamp_s + 0.0004) for frame in other.frames[2:]]
    pairing = pair(first, other)
    assert pairing.shared == 38
    assert pairing.same_place
    assert (pairing.lost, pairing.gained) == (3, 2)  # 9, 10, 11 against 5, 6
    assert pairing.median_worse_m == pytest.approx(1.0, abs=0.01)
    assert {change.index for change in pairing.changes[:5]} == {5, 6, 9, 10, 11}
    assert pairing.changes[0].reason == "the view is <dark>"
    assert pair(first, walk("c", 2.0, gap=range(5, 9))).changes == []


def test_same_flight_warns_of_nothing(folders: list[Path]) -> None:
    comparison = compare(read_reports(folders[:2]), {})
    assert comparison.warnings == []
    assert comparison.exceeded == []


def test_what_does_not_compare_is_told(folders: list[Path]) -> None:
    warnings = compare(read_reports([folders[0], folders[2]]), {}).warnings
    assert warnings == [
        "other is partial: 30 of 40 frames. The run was stopped, and all figures are of what it got to.",
        "Not the same weights: other has tiny & old, before tiny & new.",
        "Not the same frames: 30 of 40 stamps are in both other and before.",
    ]


def test_another_place_at_the_same_times_is_told(folders: list[Path], walk: Walk, tmp_path: Path) -> None:
    elsewhere = walk("geoloc", 2.0)
    elsewhere.frames = [replace(frame, truth_lat_deg=frame.truth_lat_deg + 0.01) for frame in elsewhere.frames]
    write_figures(tmp_path / "elsewhere", [elsewhere], "elsewhere")
    warnings = compare(read_reports([folders[0], tmp_path / "elsewhere"]), {}).warnings
    assert warnings == ["Not the same truth: elsewhere and before differ by over a metre."]


def test_limits_hold_for_every_other_run(folders: list[Path]) -> None:
    reports = read_reports(folders)
    assert compare(reports, {"median_error_m": 1.1, "ma.3": 1.0}).exceeded == []
    exceeded = compare(reports, {"median_error_m": 0.5, "availability": 0.0}).exceeded
    assert len(exceeded) == 3
    assert exceeded[0].startswith("after: median error went from 2.0")
    assert "the limit is 0.5" in exceeded[0]
    assert exceeded[1].startswith("after: available went from 0.900 to 0.875, worse by 0.025")
    assert exceeded[2].startswith("other: available went from 0.900 to 0.867")


def test_a_run_without_any_fix_exceeds_every_limit(folders: list[Path], walk: Walk, tmp_path: Path) -> None:
    write_figures(tmp_path / "lost", [walk("geoloc", 2.0, gap=range(40))], "lost")
    reports = read_reports([folders[0], tmp_path / "lost"])
    assert len(compare(reports, {"median_error_m": 1e9}).exceeded) == 1
    assert compare(list(reversed(reports)), {"median_error_m": 0.0}).exceeded == []


def test_json_holds_figures_and_what_is_worse(folders: list[Path], tmp_path: Path) -> None:
    write_comparison(tmp_path / "out", compare(read_reports(folders), {"ma.20": 0.5}), None)
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    first, after, other = result["runs"]
    assert [run["name"] for run in result["runs"]] == ["before", "after", "other"]
    assert first["figures"]["availability"] == 0.9
    assert "worse_by" not in first
    assert after["worse_by"]["ape_m.rmse"] == pytest.approx(1.0, abs=0.01)
    assert after["worse_by"]["availability"] == pytest.approx(0.025)
    assert after["frame_by_frame"]["lost"] == 3
    assert [change["error_m"] for change in after["frame_by_frame"]["changes"]].count(None) == 3
    assert other["frame_by_frame"]["shared"] == 30
    assert result["exceeded"] == []
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "other is partial: 30 of 40 frames." in page
    assert "after, other against before" in page


def test_same_folder_names_are_told_apart(folders: list[Path], walk: Walk, tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        write_figures(tmp_path / day / "report", [walk("geoloc", 2.0)], day)
    reports = read_reports([tmp_path / "monday" / "report", tmp_path / "tuesday" / "report" / "report.json"])
    assert [each.run.name for each in reports] == ["monday/report", "tuesday/report"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ma.7=0.1", "no figure 'ma.7'"),
        ("recovery_s.max=1", "no figure 'recovery_s.max'"),
        ("ma.20", "ma.20=0 or more"),
        ("ma.20=x", "ma.20=0 or more"),
        ("ma.20=-1", "ma.20=0 or more"),
    ],
)
def test_limits_that_are_none(text: str, words: str) -> None:
    with pytest.raises(GeolocError, match=words):
        parse_limits([text])


def test_limits_are_read() -> None:
    assert parse_limits(["ma.20=0.01", "latency_ms.p95=5"]) == {"ma.20": 0.01, "latency_ms.p95": 5.0}
    assert not math.isnan(parse_limits(["rpe_m.10 m.rmse=1"])["rpe_m.10 m.rmse"])


def test_what_is_no_report_ends_in_one_sentence(folders: list[Path], walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text('{"runs": [{"name": "geoloc"}]}')  # as --json writes it
    (tmp_path / "broken.json").write_text('{"runs": [')
    for path in (tmp_path / "figures.json", tmp_path / "broken.json"):
        with pytest.raises(GeolocError, match="holds no report with frames"):
            read_reports([folders[0], path])
    with pytest.raises(GeolocError, match="cannot be read"):
        read_reports([folders[0], tmp_path / "missing"])
    with pytest.raises(GeolocError, match="twice"):
        read_reports([folders[0], folders[0] / "report.json"])
    write_figures(tmp_path / "empty", [Run("none", "tracking", "", "", [])], "")
    with pytest.raises(GeolocError, match="holds no frame"):
        read_reports([folders[0], tmp_path / "empty"])
